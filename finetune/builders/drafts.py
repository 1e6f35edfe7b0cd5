"""What the builders share: a draft of an example, and the steps that keep splits apart and classes in bounds."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from finetune.data import SPLITS, Split, labels_of
from finetune.tasks.schema import Example
from kg.records import Triple


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An example on its way into a split.

    keys: (kind, value) pairs that must not be met in two splits, for instance ("title", "kyiv").
    fact: the graph's triple the example asks for, by names, if any.
    """

    example: Example
    split: Split
    keys: tuple[tuple[str, str], ...] = ()
    fact: Triple | None = None


class Window(NamedTuple):
    """A part of a document's text: `text[start:end]`, in code points."""

    start: int
    end: int


def window_around(text: str, within: Window, first: int, last: int, max_characters: int) -> Window | None:
    """At most `max_characters` of `within` around `text[first:last]`, ends moved inwards to white space.

    None when `text[first:last]` itself is longer. The part lies in the middle, or at an end of `within` where there
    is no more text on that side.
    """
    if within.end - within.start <= max_characters:
        return within
    slack = max_characters - (last - first)
    if slack < 0:
        return None
    start = max(within.start, first - slack // 2)
    end = min(within.end, start + max_characters)
    start = max(within.start, end - max_characters)
    if start > within.start and not text[start - 1].isspace():
        start = next((i + 1 for i in range(start, first) if text[i].isspace()), first)
    if end < within.end and not text[end].isspace():
        end = next((i for i in range(end - 1, last - 1, -1) if text[i].isspace()), last)
    return Window(start, end)


def normalised(text: str) -> str:
    """Case-folded words joined by single blanks: two texts that differ in spacing or punctuation alone are equal."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def stable_order(key: str, *, seed: int) -> bytes:
    """A sort key that shuffles: depends on the text and the seed alone, not on the order of the input."""
    return hashlib.blake2b(key.encode(), digest_size=8, key=f"examples {seed}".encode()).digest()


def without_leaks(drafts: Sequence[Draft], dropped: Counter[str]) -> list[Draft]:
    """Drops what would stand in two splits: from train what dev or test holds, from dev what test holds.

    Counted as `leak_KIND` by the first key met elsewhere. The order of the drafts is kept.
    """
    taken: set[tuple[str, str]] = set()
    kept: set[int] = set()
    for split in reversed(SPLITS):
        own: set[tuple[str, str]] = set()
        for number, draft in enumerate(drafts):
            if draft.split != split:
                continue
            leak = next((key for key in draft.keys if key in taken), None)
            if leak is not None:
                dropped[f"leak_{leak[0]}"] += 1
                continue
            kept.add(number)
            own.update(draft.keys)
        taken |= own
    return [draft for number, draft in enumerate(drafts) if number in kept]


def shared_keys(drafts: Iterable[Draft]) -> dict[tuple[str, str], set[Split]]:
    """The keys met in more than one split; empty after `without_leaks`."""
    splits: dict[tuple[str, str], set[Split]] = defaultdict(set)
    for draft in drafts:
        for key in draft.keys:
            splits[key].add(draft.split)
    return {key: found for key, found in splits.items() if len(found) > 1}


def capped(
    drafts: Sequence[Draft],
    group: Callable[[Draft], str | None],
    limit: int,
    *,
    seed: int,
    dropped: Counter[str],
    reason: str,
) -> list[Draft]:
    """At most `limit` drafts of each group, chosen by `stable_order` of their ids; 0 is no limit.

    group: a draft's group, or None for one that is never capped.
    """
    if limit <= 0:
        return list(drafts)
    used: Counter[str] = Counter()
    kept: set[int] = set()
    order = sorted(range(len(drafts)), key=lambda n: stable_order(drafts[n].example.id, seed=seed))
    for number in order:
        name = group(drafts[number])
        if name is None or used[name] < limit:
            kept.add(number)
            if name is not None:
                used[name] += 1
        else:
            dropped[reason] += 1
    return [draft for number, draft in enumerate(drafts) if number in kept]


def without_rare_labels(drafts: Sequence[Draft], min_per_label: int, dropped: Counter[str]) -> list[Draft]:
    """Drops labels with fewer than `min_per_label` examples in all or none in train, and examples left without one.

    Counted as `label_too_rare`, one a dropped example.
    """
    total: Counter[str] = Counter(name for d in drafts for name in labels_of(d.example))
    trained = {name for d in drafts if d.split == "train" for name in labels_of(d.example)}
    allowed = {name for name, count in total.items() if count >= min_per_label and name in trained}
    kept = []
    for draft in drafts:
        names = tuple(name for name in labels_of(draft.example) if name in allowed)
        if not names:
            dropped["label_too_rare"] += 1
        elif draft.example.labels is not None:
            kept.append(replace(draft, example=replace(draft.example, labels=names)))
        else:
            kept.append(draft)
    return kept


def single_label(draft: Draft) -> str | None:
    """The class a cap counts: the one label of a single-label example, None for a multi-label one."""
    return draft.example.label
