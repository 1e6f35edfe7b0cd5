"""What a pre-trained teacher answers, at masked word pieces and at entities, and a student's loss against it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ernie.distilling import Batch, Reading
from ernie.heads import EntityHead, ErnieForPreTraining
from ernie.losses.denoising_entity import entity_logits
from ernie.losses.distillation import distribution_loss, sampled_distribution_loss
from ernie.losses.matching import LossSettings
from ernie.teacher_cache import TeacherCache, cache_bytes
from ernie.training import derived_seed
from kg.errors import InputError
from kg.progress import track

DRAWN = ("drawn_pieces", "drawn_entities")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A teacher's distributions at a batch's targets, as logits or as draws from them.

    pieces: (batch, num_masked, vocab_size) logits, or int64 (batch, num_masked, num_draws) rows; masked pieces in the
    order of the text. entities: the same over the batch's candidates and, last, "no entity"; (batch, num_entities, …).
    None: the teacher has no such head, or nothing to say. drawn: which of the two they are.
    """

    pieces: Tensor | None
    entities: Tensor | None
    drawn: bool = False

    @classmethod
    def from_batch(cls, batch: Batch) -> Answers | None:
        """Draws that `CachedBatches` put into a batch; None where it did not."""
        if DRAWN[0] not in batch:
            return None
        return cls(pieces=batch[DRAWN[0]], entities=batch.get(DRAWN[1]), drawn=True)


class AnswerHeads(nn.Module):
    """A student's loss against its teacher's answers.

    A student without an entity head gets one to learn with; it stays here, outside the saved student. Candidates are
    the teacher's entity vectors, so that a text-only student learns the teacher's own space.

    kept: word rows of a pruned student, whose distribution is compared with the teacher's over these pieces.
    """

    def __init__(
        self, teacher: PreTrainedModel, student: PreTrainedModel, settings: LossSettings, *, kept: np.ndarray | None
    ) -> None:
        super().__init__()
        self.kept = None if kept is None else torch.as_tensor(kept)
        self.entity_probe: nn.Module | None = None
        if not settings.denoising_entity:
            return
        if not isinstance(teacher, ErnieForPreTraining):
            raise InputError(
                "losses.denoising_entity compares answers about entities, but the teacher is a plain BERT; set it to 0"
            )
        if not isinstance(student, ErnieForPreTraining):
            config = copy.deepcopy(teacher.config)
            config.hidden_size = student.config.hidden_size
            self.entity_probe = EntityHead(config)

    def forward(
        self,
        student: nn.Module,
        states: Tensor,
        batch: Batch,
        answers: Answers,
        settings: LossSettings,
        *,
        teacher: nn.Module,
    ) -> dict[str, Tensor]:
        """Terms of non-zero weight, each the mean over examples of the mean over their targets.

        states: the student's last token states, (batch, seq_len, width).
        """
        found = {}
        if settings.masked_lm and answers.pieces is not None:
            at, real = masked_places(batch["labels"])
            logits = student.get_submodule("cls.predictions")(_gathered(states, at))
            found["masked_lm"] = self._loss(logits, answers.pieces, real, answers.drawn, kept=self.kept)
        if settings.denoising_entity and answers.entities is not None:
            logits = self._entity_logits(student, states, batch, teacher)
            real = batch["entity_labels"] >= 0
            found["denoising_entity"] = self._loss(logits, answers.entities, real, answers.drawn, kept=None)
        return {name: value.mean() for name, value in found.items()}

    def _loss(self, logits: Tensor, answers: Tensor, real: Tensor, drawn: bool, *, kept: Tensor | None) -> Tensor:
        if not drawn:
            return distribution_loss(logits, answers if kept is None else answers[..., kept], real)
        if kept is not None:
            raise InputError("cached draws are of the teacher's whole vocabulary; leave student.vocabulary at full")
        return sampled_distribution_loss(logits, answers, real)

    def _entity_logits(self, student: nn.Module, states: Tensor, batch: Batch, teacher: nn.Module) -> Tensor:
        at = _gathered(states, batch["entity_positions"])
        if self.entity_probe is not None:
            assert isinstance(teacher, ErnieForPreTraining), "checked when the probe was made"
            vectors = teacher.entity_rows(batch["entity_candidate_ids"])
            return entity_logits(self.entity_probe(at), vectors, no_entity=True)
        assert isinstance(student, ErnieForPreTraining), "others have a probe"
        vectors = student.entity_rows(batch["entity_candidate_ids"])
        return entity_logits(student.cls.predictions_ent(at), vectors, no_entity=True)


def masked_places(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the pieces to be predicted, int64 (batch, most_masked), and which of them are real, in text order.

    labels: (batch, seq_len), negative where nothing is predicted.
    """
    wanted = labels >= 0
    number = int(wanted.sum(dim=1).max()) if labels.numel() else 0
    order = torch.argsort((~wanted).long(), dim=1, stable=True)[:, :number]
    return order, torch.arange(number, device=labels.device)[None] < wanted.sum(dim=1, keepdim=True)


@torch.inference_mode()
def answers_of_teacher(teacher: nn.Module, batch: Batch, reading: Reading, *, states: Tensor | None = None) -> Answers:
    """The teacher's logits at a masked batch's targets. states: its last token states, where they are known already."""
    if states is None:
        states = teacher.get_submodule("bert")(**reading.teacher(batch)).last_hidden_state
    assert states is not None, "computed above"
    at, _ = masked_places(batch["labels"])
    pieces = teacher.get_submodule("cls.predictions")(_gathered(states, at))
    entities = None
    if isinstance(teacher, ErnieForPreTraining) and batch["entity_positions"].shape[1]:
        vectors = teacher.entity_rows(batch["entity_candidate_ids"])
        found = teacher.cls.predictions_ent(_gathered(states, batch["entity_positions"]))
        entities = entity_logits(found, vectors, no_entity=True)
    return Answers(pieces=pieces, entities=entities)


@torch.no_grad()
def masked_scores(
    model: nn.Module, batches: Sequence[Batch], inputs_of: Callable[[Batch], dict[str, Tensor]]
) -> dict[str, float]:
    """mlm_accuracy over masked pieces; and, of a model with an entity head, dea_accuracy over entities with its chance.

    batches: masked. inputs_of: what the model is given of one.
    """
    hits: dict[str, float] = dict.fromkeys(("mlm", "dea", "dea_chance"), 0.0)
    counts = {"mlm": 0, "dea": 0}
    was_training = model.training
    model.eval()
    for batch in batches:
        states = model.get_submodule("bert")(**inputs_of(batch)).last_hidden_state
        wanted = batch["labels"] >= 0
        logits = model.get_submodule("cls.predictions")(states[wanted])
        hits["mlm"] += float((logits.argmax(-1) == batch["labels"][wanted]).sum())
        counts["mlm"] += int(wanted.sum())
        real = batch["entity_labels"] >= 0
        if isinstance(model, ErnieForPreTraining) and bool(real.any()):
            vectors = model.entity_rows(batch["entity_candidate_ids"])
            found = model.cls.predictions_ent(_gathered(states, batch["entity_positions"]))
            best = entity_logits(found, vectors, no_entity=True).argmax(-1)
            hits["dea"] += float((best == batch["entity_labels"])[real].sum())
            hits["dea_chance"] += int(real.sum()) / (len(vectors) + 1)
            counts["dea"] += int(real.sum())
    model.train(was_training)
    scores = {"mlm_accuracy": hits["mlm"] / max(1, counts["mlm"])}
    if counts["dea"]:
        scores |= {"dea_accuracy": hits["dea"] / counts["dea"], "dea_chance": hits["dea_chance"] / counts["dea"]}
    return scores


class CachedBatches:
    """Batches with the teacher's draws in them, under DRAWN."""

    def __init__(self, batches: Any, caches: Mapping[str, TeacherCache], *, num_rows: int) -> None:
        self.batches, self.caches, self.num_rows = batches, caches, num_rows

    def __len__(self) -> int:
        return len(self.batches)

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        batch = self.batches.batch(epoch, index)
        rows = self.batches.rows(epoch, index) + epoch * self.num_rows
        for name, cache in self.caches.items():
            drawn = [torch.from_numpy(cache[int(row)].astype(np.int64)) for row in rows]
            if any(len(draws) for draws in drawn):
                batch[name] = nn.utils.rnn.pad_sequence(drawn, batch_first=True)
        return batch


def draw_answers(
    teacher: nn.Module,
    batches: Any,
    reading: Reading,
    *,
    folder: Path,
    key: Mapping[str, str | int],
    num_batches: int,
    num_rows: int,
) -> dict[str, TeacherCache]:
    """Draws from the teacher's distributions for the first `num_batches` batches, by name of DRAWN; asked once.

    key: what they depend on, `seed` and `num_draws` among it. A row of the caches is (epoch, instance).

    Raises:
        InputError: the folder holds draws of another teacher, of other instances or with another seed.
    """
    numbers = [divmod(number, len(batches)) for number in range(num_batches)]
    counts = {name: np.zeros((numbers[-1][0] + 1) * num_rows, dtype=np.int64) for name in DRAWN}
    for epoch, index in track(numbers, "counting targets", len(numbers)):
        batch, rows = batches.batch(epoch, index), batches.rows(epoch, index) + epoch * num_rows
        counts[DRAWN[0]][rows] = (batch["labels"] >= 0).sum(1).numpy()
        counts[DRAWN[1]][rows] = (batch["entity_labels"] >= 0).sum(1).numpy()
    width = int(key["num_draws"])
    size = sum(cache_bytes(rows, width=width, dtype="<i4") for rows in counts.values())
    print(f"  draws from the teacher's answers take {size / 2**20:.1f} MiB", file=sys.stderr, flush=True)
    caches = {
        name: TeacherCache(folder / name, key=key, counts=counts[name], width=width, dtype="<i4") for name in DRAWN
    }
    for epoch, index in track(numbers, "asking the teacher", len(numbers)):
        rows = batches.rows(epoch, index) + epoch * num_rows
        if len(caches[DRAWN[1]].missing(rows)):
            _draw(teacher, batches.batch(epoch, index), reading, caches, rows, int(key["seed"]))
    return caches


def _draw(
    teacher: nn.Module, batch: Batch, reading: Reading, caches: Mapping[str, TeacherCache], rows: np.ndarray, seed: int
) -> None:
    """One batch's draws; each row's are keyed by (seed, row), so that no other row moves them."""
    answers = answers_of_teacher(teacher, batch, reading)
    real = {DRAWN[0]: masked_places(batch["labels"])[1], DRAWN[1]: batch["entity_labels"] >= 0}
    logits = {DRAWN[0]: answers.pieces, DRAWN[1]: answers.entities}
    for number, row in enumerate(rows):
        for name, cache in caches.items():
            found, generator = logits[name], torch.Generator().manual_seed(derived_seed(seed, name, int(row)))
            drawn = np.empty((0, cache.width), dtype=np.int64)
            if found is not None and bool(real[name][number].any()):
                chances = found[number][real[name][number]].softmax(-1)
                drawn = torch.multinomial(chances, cache.width, replacement=True, generator=generator).numpy()
            cache.put(int(row), drawn)
    for cache in caches.values():
        cache.flush()


def _gathered(states: Tensor, positions: Tensor) -> Tensor:
    """(batch, number, width) of (batch, seq_len, width) at (batch, number)."""
    return states.gather(1, positions.long().unsqueeze(-1).expand(-1, -1, states.shape[-1]))
