"""Does one sentence say what the other says? M(X, Y) of the paper, in two kinds, over the tokenizer's piece ids.

Both read padded ids without special pieces (0 is padding), which is what `batches.to_pieces` makes of sampled
sentences: no text is made or cut again while a generator is being rewarded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import orjson
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from ernie import EntityTable, ErnieConfig, ErnieModel
from finetune.paraphrase.transformer import load_text_encoder
from finetune.task_model import quiet_loading
from kg.errors import InputError

SETTINGS, WEIGHTS = "matcher.json", "matcher.safetensors"


class Matcher(nn.Module, ABC):
    """forward(left, right) -> logits (rows,): how much more likely than not they say the same.

    left, right: int64 (rows, length), the tokenizer's piece ids, 0 beyond. An empty sentence is allowed, and matches
    nothing that training did not say it matches.
    """

    kind: str

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make a module of the same shape; JSON values."""

    @torch.no_grad()
    def probability(self, left: Tensor, right: Tensor) -> Tensor:
        """M(X, Y) in 0 … 1, float32 (rows,), in eval mode whatever the mode was, in pieces of 1,024 rows."""
        was_training = self.training
        self.eval()
        parts = [self(a, b) for a, b in zip(left.split(1024), right.split(1024), strict=True)]
        self.train(was_training)
        return torch.sigmoid(torch.cat(parts).float())


class DecomposableAttention(Matcher):
    """Attend, compare, aggregate (Parikh et al. 2016, without intra-sentence attention).

    e_ij = F(a_i) · F(b_j); beta_i = softmax_j(e) b, alpha_j = softmax_i(e) a; G([a_i, beta_i]) and G([b_j, alpha_j])
    are summed over each sentence and judged by H. Word vectors stay as given and are projected. Sums know no order:
    with `positions`, sinusoids (Vaswani et al. 2017) are added to the projected vectors.
    """

    kind = "decomposable-attention"

    def __init__(
        self,
        *,
        num_pieces: int,
        embedding_size: int,
        hidden_size: int = 200,
        dropout: float = 0.2,
        positions: bool = True,
    ) -> None:
        super().__init__()
        self.sizes = {
            "num_pieces": num_pieces,
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "dropout": dropout,
            "positions": positions,
        }
        self.embedding = nn.Embedding(num_pieces, embedding_size, padding_idx=0)
        self.embedding.weight.requires_grad_(False)
        self.project = nn.Linear(embedding_size, hidden_size, bias=False)
        self.attend = _two_layers(hidden_size, hidden_size, dropout)
        self.compare = _two_layers(2 * hidden_size, hidden_size, dropout)
        self.aggregate = nn.Sequential(_two_layers(2 * hidden_size, hidden_size, dropout), nn.Linear(hidden_size, 1))

    @classmethod
    def from_encoder(cls, folder: Path, *, hidden_size: int, dropout: float) -> DecomposableAttention:
        """Word vectors of a BERT's or ERNIE's folder, each scaled to length 1 as Parikh et al. do."""
        words = load_text_encoder(folder).embeddings.word_embeddings.weight.detach()
        model = cls(num_pieces=words.shape[0], embedding_size=words.shape[1], hidden_size=hidden_size, dropout=dropout)
        with torch.no_grad():
            model.embedding.weight.copy_(F.normalize(words, dim=-1))
            model.embedding.weight[0] = 0.0
        return model

    def settings(self) -> dict[str, Any]:
        return dict(self.sizes)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        left_mask, right_mask = (left != 0).unsqueeze(-1), (right != 0).unsqueeze(-1)
        a, b = self._vectors(left), self._vectors(right)
        energy = torch.bmm(self.attend(a), self.attend(b).transpose(1, 2))
        smallest, across = torch.finfo(energy.dtype).min, right_mask.transpose(1, 2)
        beta = torch.bmm(energy.masked_fill(~across, smallest).softmax(2) * across, b)
        alpha = torch.bmm((energy.masked_fill(~left_mask, smallest).softmax(1) * left_mask).transpose(1, 2), a)
        of_left = (self.compare(torch.cat([a, beta], dim=-1)) * left_mask).sum(1)
        of_right = (self.compare(torch.cat([b, alpha], dim=-1)) * right_mask).sum(1)
        return self.aggregate(torch.cat([of_left, of_right], dim=-1)).squeeze(-1)

    def _vectors(self, ids: Tensor) -> Tensor:
        """(rows, length, hidden_size); words are scaled up so that the sinusoids do not drown them."""
        vectors = self.project(self.embedding(ids))
        if not self.sizes["positions"]:
            return vectors
        return vectors * vectors.shape[-1] ** 0.5 + sinusoids(ids.shape[1], vectors.shape[-1]).to(vectors)


class CrossEncoder(Matcher):
    """[CLS] left [SEP] right [SEP] through a BERT or ERNIE; a linear map of the mean state is the logit.

    With an ERNIE, an entity table and `mentions`, linked entities join in: wherever the pieces of a known mention stand
    in either sentence, its entity sits on the first of them, so that a paraphrase that lost or changed a mention is
    read without it.
    """

    kind = "cross-encoder"

    def __init__(self, *, encoder_config: dict[str, Any], cls: int, sep: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.special = {"cls": cls, "sep": sep}
        self.encoder: nn.Module = (
            BertModel(BertConfig.from_dict(encoder_config), add_pooling_layer=False)
            if encoder_config.get("model_type") == "bert"
            else ErnieModel(ErnieConfig.from_dict(encoder_config))
        )
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(encoder_config["hidden_size"], 1)
        self.mentions: dict[tuple[int, ...], int] = {}

    @classmethod
    def from_encoder(cls, folder: Path, *, num_layers: int, special: tuple[int, int], dropout: float) -> CrossEncoder:
        """The first `num_layers` layers (0: all) of a BERT's or ERNIE's text side. special: ids of [CLS] and [SEP]."""
        encoder = load_text_encoder(folder, num_layers=num_layers)
        model = cls(encoder_config=encoder.config.to_dict(), cls=special[0], sep=special[1], dropout=dropout)
        state = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("pooler.")}
        model.encoder.load_state_dict(state)
        return model

    @classmethod
    def from_ernie(cls, folder: Path, *, special: tuple[int, int], dropout: float) -> CrossEncoder:
        """A whole ERNIE, its knowledge layers included."""
        with quiet_loading():
            encoder = ErnieModel.from_pretrained(folder, dtype=torch.float32)
        model = cls(encoder_config=encoder.config.to_dict(), cls=special[0], sep=special[1], dropout=dropout)
        model.encoder.load_state_dict(encoder.state_dict())
        return model

    def read_mentions(self, mentions: dict[tuple[int, ...], int], vectors: Path) -> None:
        """mentions: pieces of a mention -> entity row. vectors: artifact of `kg embed` that the rows are of."""
        if mentions and not isinstance(self.encoder, ErnieModel):
            raise InputError("only a matcher on an ERNIE reads entities; give its folder as `encoder`")
        self.mentions = dict(mentions)
        cast("Any", self.encoder).attach_entity_table(EntityTable.open(vectors))

    def settings(self) -> dict[str, Any]:
        config = cast("Any", self.encoder).config.to_dict()
        return {"encoder_config": config, "dropout": self.dropout.p, **self.special}

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        inputs = pair_inputs(left, right, **self.special)
        if self.mentions:
            inputs |= mention_inputs(inputs["input_ids"], self.mentions)
        states = self.encoder(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        return self.score(self.dropout((states * mask).sum(1) / mask.sum(1))).squeeze(-1)


MATCHERS: dict[str, Callable[..., Matcher]] = {
    DecomposableAttention.kind: DecomposableAttention,
    CrossEncoder.kind: CrossEncoder,
}


def save_matcher(folder: Path, matcher: Matcher) -> None:
    """Writes its settings and weights; the tokenizer is the caller's."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"kind": matcher.kind, "settings": matcher.settings()}
    if isinstance(matcher, CrossEncoder):
        settings["mentions"] = [[list(run), row] for run, row in matcher.mentions.items()]
    (Path(folder) / SETTINGS).write_bytes(orjson.dumps(settings, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))
    save_file({name: tensor.contiguous() for name, tensor in matcher.state_dict().items()}, Path(folder) / WEIGHTS)


def load_matcher(folder: Path, *, vectors: Path | None = None) -> Matcher:
    """In eval mode, as it was trained; without `vectors` one that was trained with entities reads text alone.

    vectors: artifact of `kg embed`, the one that its entities' rows are of.

    Raises:
        InputError: a folder that holds no matcher.
    """
    if not (Path(folder) / SETTINGS).is_file():
        raise InputError(f"{folder}: no {SETTINGS}; expected a folder of `ernie-kg finetune matcher`")
    described = orjson.loads((Path(folder) / SETTINGS).read_bytes())
    matcher = MATCHERS[described["kind"]](**described["settings"])
    matcher.load_state_dict(load_file(Path(folder) / WEIGHTS))
    if isinstance(matcher, CrossEncoder) and vectors is not None:
        matcher.read_mentions({tuple(run): row for run, row in described.get("mentions", ())}, vectors)
    return matcher.eval()


def pair_inputs(left: Tensor, right: Tensor, *, cls: int, sep: int) -> dict[str, Tensor]:
    """Two padded id matrices -> input_ids, token_type_ids, attention_mask of [CLS] left [SEP] right [SEP], padded at
    the end only: (rows, longest pair + 3)."""
    rows = len(left)
    left_len, right_len = (left != 0).sum(1), (right != 0).sum(1)
    total = left_len + right_len + 3
    ids = left.new_zeros(rows, left.shape[1] + right.shape[1] + 3)
    ids[:, 0] = cls
    ids.scatter_(1, (left_len + 1).unsqueeze(1), sep)
    ids.scatter_(1, (total - 1).unsqueeze(1), sep)
    for part, first in ((left, torch.ones_like(left_len)), (right, left_len + 2)):
        row, place = (part != 0).nonzero(as_tuple=True)
        rank = (part != 0).cumsum(1)[row, place] - 1
        ids[row, first[row] + rank] = part[row, place]
    ids = ids[:, : int(total.max())]
    places = torch.arange(ids.shape[1], device=ids.device)
    return {
        "input_ids": ids,
        "token_type_ids": (places >= (left_len + 2).unsqueeze(1)).long() * (places < total.unsqueeze(1)),
        "attention_mask": (places < total.unsqueeze(1)).long(),
    }


def mention_inputs(input_ids: Tensor, mentions: dict[tuple[int, ...], int]) -> dict[str, Tensor]:
    """Where known mentions stand: entity_ids, entity_positions, entity_attention_mask, (rows, most in a row).

    mentions: pieces of a mention -> entity row. Longer mentions go first; none overlaps another.
    """
    ordered = sorted(mentions, key=lambda run: (-len(run), run))
    found = [_find_mentions(row, ordered, mentions) for row in input_ids.tolist()]
    most = max(map(len, found))
    table = torch.zeros(3, len(found), most, dtype=torch.long)
    for number, places in enumerate(found):
        for slot, (place, entity) in enumerate(places):
            table[:, number, slot] = torch.tensor([entity, place, 1])
    ids, positions, mask = table.to(input_ids.device)
    return {"entity_ids": ids, "entity_positions": positions, "entity_attention_mask": mask} if most else {}


def sinusoids(length: int, width: int) -> Tensor:
    """sin and cos of place / 10000 ** (2i / width), (length, width)."""
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :width]


def _find_mentions(
    ids: list[int], ordered: list[tuple[int, ...]], mentions: dict[tuple[int, ...], int]
) -> list[tuple[int, int]]:
    taken: set[int] = set()
    found = []
    for run in ordered:
        for place in range(len(ids) - len(run) + 1):
            if tuple(ids[place : place + len(run)]) == run and taken.isdisjoint(range(place, place + len(run))):
                taken.update(range(place, place + len(run)))
                found.append((place, mentions[run]))
    return sorted(found)


def _two_layers(in_size: int, out_size: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Dropout(dropout), nn.Linear(in_size, out_size), nn.ReLU()),
        *(nn.Dropout(dropout), nn.Linear(out_size, out_size), nn.ReLU()),
    )
