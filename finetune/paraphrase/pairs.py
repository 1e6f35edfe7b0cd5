"""Pairs of sentences from files: one reader a format, every line that is left out counted under its reason."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from finetune.tasks.schema import EntityLink, check_span
from kg.errors import InputError

Bad = Callable[[str], None]
"""Counts a line that is left out, under a reason."""
COLUMNS = "wrong_number_of_columns"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two sentences, and whether one says what the other says.

    source_links, target_links: linked mentions of either sentence, offsets in code points; only JSON lines have them.
    """

    source: str
    target: str
    is_paraphrase: bool = True
    source_links: tuple[EntityLink, ...] = ()
    target_links: tuple[EntityLink, ...] = ()


def read_quora(path: Path, bad: Bad) -> Iterator[Pair]:
    """Quora question pairs as released and as in GLUE's QQP: a header, then question1, question2, is_duplicate."""
    yield from _with_header(path, bad, ("question1", "question2", "is_duplicate"))


def read_mrpc(path: Path, bad: Bad) -> Iterator[Pair]:
    """Microsoft's paraphrase corpus: a header, then Quality, two ids, two sentences."""
    yield from _with_header(path, bad, ("#1 String", "#2 String", "Quality"))


def read_twitter(path: Path, bad: Bad) -> Iterator[Pair]:
    """Twitter URL corpus (Lan et al. 2017): two sentences, `(votes, 6)`, a URL; no header.

    At least four votes of six make a paraphrase, at most two none; pairs with three are left out, as its authors do.
    """
    for line in _lines(path):
        cells = line.split("\t")
        votes = re.match(r"\((\d), *6\)", cells[2]) if len(cells) in (3, 4) else None
        if votes is None:
            bad(COLUMNS)
        elif votes[1] == "3":
            bad("votes_undecided")
        else:
            yield Pair(source=cells[0], target=cells[1], is_paraphrase=int(votes[1]) > 3)


def read_tsv(path: Path, bad: Bad) -> Iterator[Pair]:
    """Your own pairs: source, target and, if wanted, 1 or 0 in a third column; no header, no quotes."""
    for line in _lines(path):
        cells = line.split("\t")
        if len(cells) not in (2, 3):
            bad(COLUMNS)
        elif len(cells) == 3 and cells[2].strip() not in ("0", "1"):
            bad("label_not_0_or_1")
        else:
            yield Pair(source=cells[0], target=cells[1], is_paraphrase=len(cells) == 2 or cells[2].strip() == "1")


def read_jsonl(path: Path, bad: Bad) -> Iterator[Pair]:
    """`{"source", "target", "label"?: 0 | 1, "source_links"?, "target_links"?}` a line; links as in task examples."""
    for number, line in enumerate(_lines(path), start=1):
        try:
            record = orjson.loads(line)
            pair = Pair(
                source=record["source"],
                target=record["target"],
                is_paraphrase=bool(record.get("label", 1)),
                source_links=_links(record, "source"),
                target_links=_links(record, "target"),
            )
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise InputError(f"{path}:{number}: {error}") from None
            bad("not_a_pair_in_json")
            continue
        yield pair


READERS: dict[str, Callable[[Path, Bad], Iterator[Pair]]] = {
    "quora": read_quora,
    "mrpc": read_mrpc,
    "twitter": read_twitter,
    "tsv": read_tsv,
    "jsonl": read_jsonl,
}


def read_pairs(path: Path, reader: str) -> tuple[list[Pair], Counter[str]]:
    """All usable pairs of a file in order, blanks normalised, and what was left out by reason.

    Left out: malformed lines, empty sentences, pairs that say the same twice but for case, pairs that came before.
    Negative pairs stay (`is_paraphrase`); a generator takes the others alone (`positives`).

    Raises:
        InputError: unknown reader, no such file, or nothing usable in it: the message says what was wrong with it.
    """
    if reader not in READERS:
        raise InputError(f"reader {reader!r} is unknown; there are {', '.join(READERS)}")
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected sentence pairs for reader {reader!r}")
    dropped: Counter[str] = Counter()
    pairs = list(_usable(READERS[reader](Path(path), lambda reason: dropped.update([reason])), dropped))
    if not pairs:
        raise InputError(f"{path}: no usable pair for reader {reader!r}; {_reasons(dropped)}")
    return pairs, dropped


def positives(pairs: Sequence[Pair], *, place: object) -> list[Pair]:
    """The paraphrases among the pairs. Raises InputError where there are none."""
    found = [pair for pair in pairs if pair.is_paraphrase]
    if not found:
        raise InputError(f"{place}: all {len(pairs):,} pairs are labelled as no paraphrases; a generator needs some")
    return found


def drawn(pairs: Sequence[Pair], limit: int, seed: int) -> list[Pair]:
    """`limit` of the pairs (0: all), drawn without replacement, in their order."""
    if limit <= 0 or limit >= len(pairs):
        return list(pairs)
    rows = random.Random(f"pairs {seed}").sample(range(len(pairs)), limit)
    return [pairs[row] for row in sorted(rows)]


def normalised(text: str) -> str:
    """Runs of blanks, line breaks among them, become one blank; none at the ends."""
    return " ".join(text.split())


def _usable(pairs: Iterable[Pair], dropped: Counter[str]) -> Iterator[Pair]:
    seen: set[tuple[str, str]] = set()
    for pair in pairs:
        linked = bool(pair.source_links or pair.target_links)  # whose offsets blanks must not move
        source, target = (text if linked else normalised(text) for text in (pair.source, pair.target))
        key = (source.casefold(), target.casefold())
        if not source.strip() or not target.strip():
            dropped["empty_source" if not source.strip() else "empty_target"] += 1
        elif key[0] == key[1]:
            dropped["identical"] += 1
        elif key in seen:
            dropped["repeated"] += 1
        else:
            seen.add(key)
            yield Pair(
                source=source,
                target=target,
                is_paraphrase=pair.is_paraphrase,
                source_links=pair.source_links,
                target_links=pair.target_links,
            )


def _with_header(path: Path, bad: Bad, names: tuple[str, str, str]) -> Iterator[Pair]:
    """Tab-separated lines under a header: `names` are source, target and label (0 or 1)."""
    lines = _lines(path)
    header = next(lines, "").split("\t")
    missing = [name for name in names if name not in header]
    if missing:
        raise InputError(
            f"{path}:1: the header has no column {', '.join(missing)}, it has {len(header)}: "
            f"{', '.join(header)[:80]}; choose the reader of this file's format"
        )
    left, right, label = (header.index(name) for name in names)
    for line in lines:
        cells = [_unquoted(cell) for cell in line.split("\t")]
        if len(cells) != len(header):
            bad(COLUMNS)
        elif cells[label] not in ("0", "1"):
            bad("label_not_0_or_1")
        else:
            yield Pair(source=cells[left], target=cells[right], is_paraphrase=cells[label] == "1")


def _unquoted(cell: str) -> str:
    """A cell that a CSV writer put in quotes, without them; quotation marks of the text itself stay."""
    inner = cell[1:-1]
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else cell


def _links(record: dict, side: str) -> tuple[EntityLink, ...]:
    links = []
    for item in record.get(f"{side}_links", ()):
        link = EntityLink(start=item["start"], end=item["end"], entity=item["entity"])
        check_span(link.start, link.end, record[side], lambda fault: f"{side} link {fault}")
        links.append(link)
    return tuple(links)


def _lines(path: Path) -> Iterator[str]:
    """Lines without their ends; those without any character are passed over."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        try:
            for line in file:
                if text := line.rstrip("\r\n"):
                    yield text
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from None


def _reasons(dropped: Counter[str]) -> str:
    if not dropped:
        return "the file is empty"
    (reason, count), *_ = dropped.most_common(1)
    hints = {
        COLUMNS: "expected two tab-separated sentences a line (or the format of another reader)",
        "identical": "source and target are the same everywhere, which teaches nothing but copying",
    }
    return f"{count:,} of {dropped.total():,} lines: {hints.get(reason, reason)}"
