"""From a generator to sequences of ids: greedy, nucleus sampling and beam search, all over whole batches.

Rows that are done are carried along as padding until many are. What may be written at a step is the business of
`constraints`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from finetune.paraphrase.configuration import DecodingConfig
from finetune.paraphrase.constraints import FORBIDDEN, Required, forbid_repeats, forbid_specials, require
from finetune.paraphrase.copying import Generator, Memory, Rows
from finetune.paraphrase.vocabulary import BOS, EOS, PAD

LIKELIEST = 1024
"""Ids a row that a nucleus is looked for among, before all are sorted."""


@torch.no_grad()
def decode(
    model: Generator,
    batch: dict[str, Tensor],
    config: DecodingConfig,
    *,
    required: Sequence[Required] | None = None,
    uniforms: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Ids of `num_return` sentences a source, (batch, num_return, length): EOS after each that ended, then PAD.

    required: by source, runs of ids that must survive (`constraints.require`). uniforms, generator: what nucleus
    sampling draws with, see `sample`. The model is used as it is: put it into eval mode first.
    """
    memory = model.encode(batch)
    runs = required if required is not None else [()] * len(memory.mask)
    if config.strategy == "beam":
        return _beam(model, memory, config, runs)
    times = config.num_return
    runs = [one for one in runs for _ in range(times)]
    ids = sample(
        model,
        memory.repeat(times),
        max_length=config.max_length + 1,
        min_length=config.min_length,
        greedy=config.strategy == "greedy",
        temperature=config.temperature,
        top_p=config.top_p,
        no_repeat_ngram=config.no_repeat_ngram,
        required=runs,
        uniforms=uniforms,
        generator=generator,
    )
    return ids.unflatten(0, (-1, times))


@torch.no_grad()
def sample(
    model: Generator,
    memory: Memory,
    *,
    max_length: int,
    min_length: int = 0,
    greedy: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    no_repeat_ngram: int = 0,
    required: Sequence[Required] | None = None,
    forced: Tensor | None = None,
    force: Tensor | None = None,
    uniforms: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One sequence a row of the memory, (rows, length <= max_length), EOS counted, PAD behind it.

    forced, force: (rows, max_length) ids and bool; where `force` is True the id is taken from `forced` instead of being
    drawn: the prefix of a roll-out, or the gold pieces of scheduled sampling (EOS among them ends nothing there: a row
    goes on while `force` has more to say). uniforms: (rows, max_length), numbers in 0 … 1 that each place is drawn
    with, so that a row is the same in any batch; without them `generator` draws (None: torch's own).
    """
    written = torch.full((len(memory.mask), max_length), PAD, device=memory.mask.device)
    more = _forced_later(force, written)
    now = Rows.all_of(memory, model.start(memory))
    length = 0
    while length < max_length and not bool(now.done.all()):
        now = now.without_done()
        previous = written[now.numbers, length - 1] if length else torch.full_like(now.numbers, BOS)
        mixture, state = model.step(now.memory, now.state, previous)
        scores = mixture.log_probs(now.memory.source_ids, now.memory.num_unknown)
        said = written[now.numbers, :length]
        forbid_specials(scores, may_end=length >= min_length)
        forbid_repeats(scores, said, no_repeat_ngram)
        if required is not None and any(required):
            require(scores, said, [required[row] for row in now.numbers.tolist()], room=max_length - 1 - length)
        if length == max_length - 1:
            scores[:, :EOS] = scores[:, EOS + 1 :] = FORBIDDEN
            scores[:, EOS] = 0.0
        numbers = None if uniforms is None else uniforms[now.numbers, length]
        chosen = scores.argmax(-1) if greedy else _draw(scores / temperature, top_p, generator, numbers)
        if forced is not None and force is not None:
            chosen = torch.where(force[now.numbers, length], forced[now.numbers, length], chosen)
        chosen = chosen.masked_fill(now.done, PAD)
        written[now.numbers, length] = chosen
        ends = (chosen == EOS) & ~more[now.numbers, length]
        now = replace(now, state=state, done=now.done | ends)
        length += 1
    return written[:, :length]


def _forced_later(force: Tensor | None, written: Tensor) -> Tensor:
    """(rows, max_length), as what is written: whether an id is still forced behind a place."""
    if force is None:
        return torch.zeros_like(written, dtype=torch.bool)
    later = force.flip(1).cumsum(1).flip(1) > 0
    return torch.cat([later[:, 1:], torch.zeros_like(later[:, :1])], dim=1)


def _draw(scores: Tensor, top_p: float, generator: torch.Generator | None, uniforms: Tensor | None) -> Tensor:
    """One id a row, from the smallest set of likeliest ids that holds `top_p` of the probability."""
    probs = scores.softmax(-1)
    if uniforms is None:
        uniforms = torch.rand(len(probs), dtype=torch.float64, generator=generator, device=probs.device)
    if top_p < 1:
        return _drawn_from_nucleus(probs, top_p, uniforms, width=min(LIKELIEST, probs.shape[1]))
    return _place_of(probs, uniforms)


def _drawn_from_nucleus(probs: Tensor, top_p: float, uniforms: Tensor, *, width: int) -> Tensor:
    """One id a row, looked for among its `width` likeliest, or among all where these hold less than `top_p`."""
    ordered, ids = probs.topk(width, dim=-1)
    before = ordered.cumsum(-1) - ordered
    places = _place_of(ordered.masked_fill(before >= top_p, 0.0), uniforms)
    drawn = ids.gather(1, places.unsqueeze(1)).squeeze(1)
    if width < probs.shape[1]:
        wider = (ordered.sum(-1) < top_p).nonzero().squeeze(1)
        if len(wider):
            drawn[wider] = _drawn_from_nucleus(probs[wider], top_p, uniforms[wider], width=probs.shape[1])
    return drawn


def _place_of(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The place in each row where the share of its weights before it passes the row's number in [0, 1)."""
    sums = weights.double().cumsum(-1)
    aimed = uniforms.double().unsqueeze(1) * sums[:, -1:]
    return torch.searchsorted(sums, aimed, right=True).squeeze(1).clamp(max=weights.shape[1] - 1)


def _beam(model: Generator, memory: Memory, config: DecodingConfig, required: Sequence[Required]) -> Tensor:
    """Beam search: (sources, num_return, length). A source is done when its `num_beams` best have ended."""
    beams, sources, device = config.num_beams, len(memory.mask), memory.mask.device
    memory, runs = memory.repeat(beams), [one for one in required for _ in range(beams)]
    state = model.start(memory)
    written = torch.zeros(sources * beams, 0, dtype=torch.long, device=device)
    previous = torch.full((sources * beams,), BOS, device=device)
    totals = torch.full((sources, beams), FORBIDDEN, device=device)
    totals[:, 0] = 0.0  # all beams are the same at first: one of them goes on
    ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(sources)]
    for place in range(config.max_length + 1):
        mixture, state = model.step(memory, state, previous)
        scores = mixture.log_probs(memory.source_ids, memory.num_unknown)
        forbid_specials(scores, may_end=place >= config.min_length)
        forbid_repeats(scores, written, config.no_repeat_ngram)
        require(scores, written, runs, room=config.max_length - place)
        if place == config.max_length:
            scores[:, :EOS] = scores[:, EOS + 1 :] = FORBIDDEN
        num_ids = scores.shape[1]
        sums = (totals.unsqueeze(-1) + scores.view(sources, beams, num_ids)).flatten(1)
        best, flat = sums.topk(min(2 * beams, sums.shape[1]), dim=1)
        parents, ids = flat // num_ids, flat % num_ids
        _keep_ended(ended, best, parents, ids, written, beams, config)
        going = best.masked_fill(ids == EOS, FORBIDDEN)
        totals, order = going.topk(beams, dim=1)
        rows = (parents.gather(1, order) + torch.arange(sources, device=device)[:, None] * beams).flatten()
        previous = ids.gather(1, order).flatten()
        written = torch.cat([written.index_select(0, rows), previous.unsqueeze(1)], dim=1)
        state = tuple(tensor.index_select(0, rows) for tensor in state)
        if all(_is_done(found, float(top), config, place) for found, top in zip(ended, totals[:, 0], strict=True)):
            break
    return _best(ended, written.view(sources, beams, -1), totals, config)


def _keep_ended(
    ended: list[list[tuple[float, list[int]]]],
    best: Tensor,
    parents: Tensor,
    ids: Tensor,
    written: Tensor,
    beams: int,
    config: DecodingConfig,
) -> None:
    """Puts sentences that end at this step, among their source's `beams` best, aside with their comparable score."""
    length = written.shape[1] + 1
    for source, rank in ((ids == EOS) & (best > FORBIDDEN))[:, :beams].nonzero().tolist():
        row = source * beams + int(parents[source, rank])
        ended[source].append((float(best[source, rank]) / length**config.length_penalty, written[row].tolist()))
    for found in ended:
        found.sort(key=lambda pair: (-pair[0], pair[1]))
        del found[beams:]


def _is_done(found: list[tuple[float, list[int]]], top: float, config: DecodingConfig, place: int) -> bool:
    """Whether no open sentence can still be better than the worst one kept, were it to end at its best length."""
    if len(found) < config.num_beams:
        return False
    length = config.max_length + 1 if config.length_penalty > 0 else place + 1
    return top / length**config.length_penalty <= found[-1][0]


def _best(
    ended: list[list[tuple[float, list[int]]]], open_rows: Tensor, totals: Tensor, config: DecodingConfig
) -> Tensor:
    """The `num_return` best of each source; where fewer ended, its open ones follow, and then nothing: EOS alone."""
    length = config.max_length + 1
    out = torch.full((len(ended), config.num_return, length), PAD)
    for source, found in enumerate(ended):
        sentences = [ids for _, ids in found]
        order = totals[source].argsort(descending=True)
        alive = [beam for beam in order.tolist() if totals[source, beam] > FORBIDDEN]
        sentences += [open_rows[source, beam].tolist()[: config.max_length] for beam in alive]
        sentences += [[]] * config.num_return
        for rank, ids in enumerate(sentences[: config.num_return]):
            out[source, rank, : len(ids) + 1] = torch.tensor([*ids, EOS])
    used = int((out != PAD).sum(-1).max())
    return out[:, :, :used]
