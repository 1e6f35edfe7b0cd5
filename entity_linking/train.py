"""The stage `link train`: a graph and text with gold links in, a linker that opens at once out."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from entity_linking.weights import LinkWeights
from kg.artifact import write_artifact
from kg.errors import InputError
from kg.sources import source_path

STAGE = "link train"
NEVER_WITHOUT = ("prior", "encoder", "cross_encoder")
"""The first always counts; the others count where they are given."""


@dataclass(frozen=True, kw_only=True)
class LinkTrainConfig:
    """Which graph is linked, what gold links teach, and which terms are weighed."""

    graph: Path
    """Graph artifact of `kg build`."""
    vectors: Path | None = None
    """Vectors artifact of `kg embed` of the same graph, for coherence and context; none = neither."""
    gold: Path | None = None
    """Text with gold links; none = default weights, untrained, in a folder that opens at once."""
    gold_format: str = "jsonl"
    """jsonl (what `link self-label` writes, too), semcor, aida, nif or linked (an artifact of `link`)."""
    unlabelled: Literal["nil", "unknown"] = "nil"
    """What an alias means where the gold has no link: nil = nothing of the graph, unknown = nobody said."""
    priors: Path | None = None
    """Artifact of `link fit-priors` or `link self-label`; none = priors of the gold itself, a document never counting
    for itself."""
    prior_smoothing: float = 0.5
    """Gold links that an alias's prior of before is worth."""
    fit: Literal["all", "none_of_them"] = "all"
    """What gold teaches: all = priors and every weight; none_of_them = only when no candidate is meant, while graph's
    priors and `weights` rank: for gold of another kind of text, in which other meanings are common."""
    graph_priors: bool = True
    """Whether the graph's own priors count; false = all entities of an alias weigh alike before gold links do."""
    weights: LinkWeights = field(default_factory=LinkWeights)
    """Weights where there is no gold to learn them from."""
    without: tuple[str, ...] = ()
    """Terms that get no weight, and then cost nothing: translation, edges, topic, context, coherence, popularity, …"""
    encoder: str = ""
    """A text encoder's folder (`package:NAME/path` inside an installed package), for the term `encoder`; it is dear."""
    encoder_margin: float = 3.0
    """The encoder looks at mentions whose two best candidates lie within this many nats by the other terms."""
    cross_encoder: str = ""
    """Folder of a model that reads surroundings and description together, for the term `cross_encoder`, the dearest:
    `finetune run` on the pairs of `link pairs`, or one of transformers."""
    cross_encoder_margin: float = 1.0
    """The cross-encoder looks at mentions whose two best candidates lie within this many nats by the other terms."""
    cross_encoder_package: str = "ernie"
    """The package that tells transformers how to open the cross-encoder; none where transformers has its class."""
    dense: str = ""
    """A text encoder's folder, which proposes entities by their descriptions where names lead to none or too few: for
    spans of a recogniser or your own. Every description is encoded now; none = names alone."""
    dense_below: int = 1
    """Mentions of fewer candidates by name get proposals; 1 = those without any."""
    dense_candidates: int = 10
    """Entities that are proposed for a mention."""
    target_precision: float = 0.0
    """Picks the least score whose links are right that often on held-out documents; 0 = `min_score` holds."""
    min_score: float = 0.5
    """A mention whose best candidate is less probable stays unlinked, in [0, 1]."""
    max_candidates: int = 20
    """Candidates kept for an alias, the likeliest by prior."""
    window: int = 15
    """Mentions on each side that coherence looks at."""
    numbers: bool = False
    """Also link aliases that are numbers, years among them."""
    plurals: bool = True
    """Also link the English plural of an alias."""
    cjk: bool = True
    """Also link aliases in ideographs or hiragana, which no spaces part from what stands beside them."""
    folds: int = 5
    """Parts of the documents, for cross-validation."""
    output: Path
    """Folder of the linker."""
    seed: int = 0
    """Of the folds."""

    def __post_init__(self) -> None:
        for name in ("min_score", "target_precision"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} is a share in [0, 1], got {getattr(self, name)}")
        for name, least in (
            ("max_candidates", 1),
            ("window", 1),
            ("folds", 2),
            ("dense_below", 1),
            ("dense_candidates", 1),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.prior_smoothing > 0 or not min(self.encoder_margin, self.cross_encoder_margin) >= 0:
            raise InputError(
                f"expected prior_smoothing above 0 and margins of at least 0, got {self.prior_smoothing}, "
                f"{self.encoder_margin} and {self.cross_encoder_margin}"
            )
        known = [of.name for of in fields(LinkWeights) if not of.name.startswith(("nil", *NEVER_WITHOUT))]
        if strange := [name for name in self.without if name not in known]:
            raise InputError(f"without names {strange}; expected terms out of {', '.join(known)}")
        if self.fit not in ("all", "none_of_them"):
            raise InputError(f"fit is {self.fit!r}; expected all or none_of_them")
        if self.fit == "none_of_them" and self.unlabelled != "nil":
            raise InputError("fit none_of_them needs gold whose unlabelled spans mean nothing; set `unlabelled` to nil")
        if self.target_precision and self.gold is None:
            raise InputError("target_precision needs gold links to measure precision on; give `gold`, or a min_score")

    def inputs(self) -> dict[str, Path]:
        named = {"vectors": self.vectors, "gold": self.gold, "priors": self.priors}
        models = {"encoder": self.encoder, "cross_encoder": self.cross_encoder, "dense": self.dense}
        given = {name: source_path(source) for name, source in models.items() if source}
        return {"graph": self.graph, **{name: path for name, path in named.items() if path is not None}, **given}


def run(config: LinkTrainConfig) -> Path:
    """Trains a linker on gold links, measures it on documents held out, and writes it to be opened at once.

    Raises:
        InputError: a folder is no such artifact, malformed gold, fewer documents than folds, a precision that no
            score reaches.
    """
    from entity_linking.dear import DearModels
    from entity_linking.encoder import entity_texts
    from entity_linking.folder import save_linker
    from entity_linking.linker import EntityLinker
    from entity_linking.teaching import learn, take_priors
    from entity_linking.training import EVERY_TERM
    from kg.graph import KnowledgeGraph

    begun_with = EVERY_TERM if config.gold is not None and config.fit == "all" else config.weights
    weights = replace(begun_with, **dict.fromkeys(config.without, 0.0))
    with write_artifact(config, stage=STAGE) as writer:
        linker = EntityLinker.from_artifacts(
            config.graph,
            config.vectors,
            weights=weights,
            min_score=config.min_score,
            max_candidates=config.max_candidates,
            window=config.window,
            numbers=config.numbers,
            plurals=config.plurals,
            cjk=config.cjk,
            uniform=not config.graph_priors,
        )
        models = DearModels.of(config)
        descriptions = entity_texts(KnowledgeGraph.load(config.graph)) if models.given() else []
        models.give(linker, descriptions)
        if config.priors is not None:
            take_priors(linker, config, writer)
        if config.gold is not None:
            learn(linker, config, writer)
        save_linker(linker, writer.path, descriptions=descriptions, models=models)
        writer.figures.update({name: part.cost() for name, part in linker.reranker.dear().items()})
        writer.dropped.update(linker.dropped_aliases)
        writer.counts["entities"] = len(linker.entities) - 1
        writer.figures["min_score"] = linker.min_score
        if not writer.headline:
            writer.headline = "default weights, no gold"
    return config.output
