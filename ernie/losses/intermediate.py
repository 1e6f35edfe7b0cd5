"""The losses that compare a student's inside with its teacher's, as one module: a row of the match table each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ernie.errors import InputError
from ernie.losses import distillation
from ernie.losses.features import Features
from ernie.losses.matching import TERMS, LossSettings, Match


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """All that the terms read of one batch.

    student_plain, teacher_plain: passes over the same text without entities; only `change` (both) and `delta_weight`
    (the teacher's) read them. mask: (batch_size, seq_len). entity_positions, entity_mask: (batch_size, num_entities) of
    the teacher's entities, None in a batch without any.
    """

    student: Features
    teacher: Features
    mask: Tensor
    entity_positions: Tensor | None = None
    entity_mask: Tensor | None = None
    student_plain: Features | None = None
    teacher_plain: Features | None = None

    @property
    def has_entities(self) -> bool:
        return self.teacher.has_entities and self.entity_mask is not None


class IntermediateLosses(nn.Module):
    """Embeddings, states, attentions or relations of matched layers (TinyBERT eq. 6 and 11, rows m = 0 … M).

    Projections to the teacher's widths belong to this module and never to the exported student.

    Terms are sums over their rows of means over examples; the entity terms of an example without entities are 0.
    """

    def __init__(self, matches: Sequence[Match], *, settings: LossSettings) -> None:
        super().__init__()
        self.matches, self.settings = tuple(matches), settings
        self.projections = nn.ModuleDict(
            {match.projection: nn.Linear(*match.widths) for match in self.matches if match.projection}
        )

    @property
    def layers(self) -> tuple[list[int], list[int]]:
        """Layers of student and teacher whose queries, keys and values are compared."""
        rows = [match.layers for match in self.matches if match.heads]
        return sorted({m for m, _ in rows}), sorted({g for _, g in rows})

    @property
    def needs_teacher_plain(self) -> bool:
        return bool(self.settings.delta_weight or self.settings.change)

    @property
    def needs_student_plain(self) -> bool:
        return bool(self.settings.change)

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Terms of non-zero weight, each a scalar, unweighted; `loss` is their weighted sum."""
        values: dict[str, Tensor] = {}
        for match in self.matches:
            found = self._value(match, views)
            values[match.term] = values[match.term] + found if match.term in values else found
        total = [getattr(self.settings, term) * value for term, value in values.items()]
        return {"loss": torch.stack(total).sum() if total else torch.zeros(()), **values}

    @torch.no_grad()
    def fit_projections(self, batches: Sequence[Views], *, ridge: float = 1e-3) -> None:
        """Begins every projection as the least-squares map from the student's states to the teacher's on `batches`.

        A random map would take most of a short training to find, and drag the student along meanwhile.
        """
        for name in self.projections:
            pairs = [self._states(match, v) for v in batches for match in self.matches if match.projection == name]
            pairs = [(left, right) for left, right in pairs if len(left)]
            if not pairs:
                continue
            left, right = (torch.cat(side).double() for side in zip(*pairs))
            means = left.mean(0), right.mean(0)
            x, y = left - means[0], right - means[1]
            square = x.T @ x
            square.diagonal().add_(ridge * square.diagonal().mean().clamp(min=1e-12))
            weight = torch.linalg.solve(square, x.T @ y).T
            linear = self.get_submodule(f"projections.{name}")
            assert isinstance(linear, nn.Linear), "every projection is linear"
            linear.weight.copy_(weight)
            linear.bias.copy_(means[1] - weight @ means[0])

    def _states(self, match: Match, views: Views) -> tuple[Tensor, Tensor]:
        """Real positions of both sides, (number, width) each; of `change`, whose map is shared or alone, the states."""
        mask, (student, teacher) = views.mask.bool(), (views.student, views.teacher)
        if match.term != "entity_hidden":
            return student.hidden[match.layers[0]][mask], teacher.hidden[match.layers[1]][mask]
        if not views.has_entities or views.entity_mask is None:
            return torch.empty(0), torch.empty(0)
        real = views.entity_mask.bool()
        return self._entity_side(match, views)[real], teacher.entity_hidden[match.layers[1]][real]

    def _value(self, match: Match, views: Views) -> Tensor:
        if match.term in ("entity_hidden", "entity_relation", "change") and not views.has_entities:
            return views.mask.new_zeros((), dtype=torch.float32)
        return _LOSSES[match.term](self, match, views)

    def _projected(self, match: Match, states: Tensor) -> Tensor:
        return self.projections[match.projection](states) if match.projection else states

    def _token_states(self, match: Match, views: Views) -> Tensor:
        m, g = match.layers
        student, teacher = self._projected(match, views.student.hidden[m]), views.teacher.hidden[g]
        if self.settings.count_padding:
            return distillation.released_hidden_loss(student, teacher)
        weights = None
        if self.settings.delta_weight and match.term == "hidden" and views.has_entities:
            assert views.teacher_plain is not None, "delta_weight needs the teacher's pass without entities"
            weights = distillation.change_weights(
                teacher, views.teacher_plain.hidden[g], views.mask, alpha=self.settings.delta_weight
            )
        return distillation.hidden_loss(student, teacher, views.mask, weights=weights).mean()

    def _attention(self, match: Match, views: Views) -> Tensor:
        student, teacher = (
            distillation.attention_scores(side.queries[row - 1], side.keys[row - 1], num_heads=match.heads)
            for side, row in zip((views.student, views.teacher), match.layers)
        )
        if self.settings.count_padding:
            return distillation.released_attention_loss(student, teacher, views.mask)
        return distillation.attention_loss(student, teacher, views.mask).mean()

    def _relation(self, match: Match, views: Views) -> Tensor:
        return self._relations(match, views, "", views.mask, at_least=1)

    def _entity_relation(self, match: Match, views: Views) -> Tensor:
        assert views.entity_mask is not None, "asked for batches with entities alone"
        return self._relations(match, views, "entity_", views.entity_mask, at_least=2)

    def _relations(self, match: Match, views: Views, prefix: str, mask: Tensor, *, at_least: int) -> Tensor:
        m, g = match.layers
        parts = []
        for name in ("queries", "keys", "values"):
            student = getattr(views.student, prefix + name)[m - 1]
            teacher = getattr(views.teacher, prefix + name)[g - 1]
            parts.append(
                distillation.relation_loss(student, teacher, mask, num_heads=match.heads, at_least=at_least).mean()
            )
        return torch.stack(parts).sum()

    def _entity_side(self, match: Match, views: Views) -> Tensor:
        """The student's entity states, or its token states at the entities' first pieces."""
        m = match.layers[0]
        if match.streams[0] == "entity":
            if not views.student.has_entities:
                raise InputError("a two-stream student was given no entities; hand its batch on whole")
            return views.student.entity_hidden[m]
        assert views.entity_positions is not None, "entities have positions"
        states = views.student.hidden[m]
        index = views.entity_positions.long().unsqueeze(-1).expand(-1, -1, states.shape[-1])
        return states.gather(1, index)

    def _entity_hidden(self, match: Match, views: Views) -> Tensor:
        assert views.entity_mask is not None, "asked for batches with entities alone"
        student = self._projected(match, self._entity_side(match, views))
        teacher = views.teacher.entity_hidden[match.layers[1]]
        return distillation.hidden_loss(student, teacher, views.entity_mask).mean()

    def _change(self, match: Match, views: Views) -> Tensor:
        plain = views.student_plain, views.teacher_plain
        assert plain[0] is not None, "change needs the student's pass without entities"
        assert plain[1] is not None, "change needs the teacher's pass without entities"
        (m, g), projection = match.layers, None
        if match.projection:
            linear = self.projections[match.projection]
            assert isinstance(linear, nn.Linear), "every projection is linear"
            projection = linear.weight
        return distillation.change_loss(
            (views.student.hidden[m], plain[0].hidden[m]),
            (views.teacher.hidden[g], plain[1].hidden[g]),
            views.mask,
            projection=projection,
        ).mean()


_LOSSES: Mapping[str, Callable[[IntermediateLosses, Match, Views], Tensor]] = {
    "embedding": IntermediateLosses._token_states,
    "hidden": IntermediateLosses._token_states,
    "attention": IntermediateLosses._attention,
    "relation": IntermediateLosses._relation,
    "entity_hidden": IntermediateLosses._entity_hidden,
    "entity_relation": IntermediateLosses._entity_relation,
    "change": IntermediateLosses._change,
}
assert set(_LOSSES) == set(TERMS), "every term has its loss"
