"""ErnieConfig: a BERT of any width with knowledge layers on top."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from ernie.errors import InputError

if TYPE_CHECKING:
    from transformers import BertConfig

LAYER_TYPES = ("text", "mix", "fuse")
"""text: a BERT layer. mix: tokens and raw entity vectors meet. fuse: as mix, after entity self-attention.

The first implementation calls them sim, mix and norm."""


POOLINGS = ("cls", "start", "mean")


def paper_layer_types(num_hidden_layers: int) -> list[str]:
    """The paper's 5 text, 1 mix and 6 fuse layers of 12, scaled to another depth.

    12 -> 5:1:6, 6 -> 2:1:3, 4 -> 1:1:2, 2 -> 0:1:1, 1 -> one mix layer.
    """
    num_text = 5 * num_hidden_layers // 12
    return ["text"] * num_text + ["mix"] + ["fuse"] * (num_hidden_layers - num_text - 1)


@strict
class ErnieKgConfig(PreTrainedConfig):
    """Widths and layout of an ERNIE (Zhang et al., ACL 2019). Token-side names and meanings are BERT's.

    entity_size: width of an entity vector, 100 in the paper.
    num_entity_attention_heads: heads of the entity self-attention of fuse layers; divides entity_size.
    layer_types: one of LAYER_TYPES a layer; None stands for the paper's proportions (`paper_layer_types`).
    cls_entity: [CLS] is an entity with a zero vector, as in the first implementation.
    no_entity_candidate: the zero vector "no entity" is a further candidate of the denoising entity
        auto-encoder, always with logit 0 and never a target.
    entity_input_size: width of the given entity vectors where a trained projection (without bias) makes them
        entity_size wide; None = they are, and enter raw as in the paper.
    num_trained_entity_rows: 0 = vectors come from an attached table, frozen as in the paper; n = they are n trained
        rows (row 0 "no entity" included), saved with the weights.
    classifier_dropout: dropout before a task head, hidden_dropout_prob when None.
    pooling: what a task head reads: `cls` the pooled [CLS]; of the `num_spans` spans given with an example, `start` the
        state of each one's first word piece, `mean` the mean state of all its pieces.
    """

    model_type = "ernie-kg"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    classifier_dropout: float | int | None = None
    pooling: str = "cls"
    num_spans: int = 0
    entity_size: int = 100
    num_entity_attention_heads: int = 4
    layer_types: list[str] | None = None
    cls_entity: bool = True
    no_entity_candidate: bool = True
    entity_input_size: int | None = None
    num_trained_entity_rows: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        written = kwargs.pop(_WRITTEN_LAYER_TYPES, None)
        self.layer_types = written if self.layer_types is None else self.layer_types
        _check_names(kwargs)
        _check_sizes(self)
        _check_values(self)
        _check_pooling(self.pooling, self.num_spans)
        if self.layer_types is None:
            self.layer_types = paper_layer_types(self.num_hidden_layers)
        self.layer_types = list(self.layer_types)
        _check_layer_types(self.layer_types, self.num_hidden_layers)
        _check_heads("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)
        if "fuse" in self.layer_types:
            heads = self.num_entity_attention_heads
            _check_heads("entity_size", self.entity_size, "num_entity_attention_heads", heads)
        super().__post_init__(**kwargs)

    def validate_layer_type(self) -> None:
        """Replaces the base class's check, which knows only its own layer names."""
        _check_layer_types(self.layer_types or [], self.num_hidden_layers)

    def to_diff_dict(self) -> dict[str, Any]:
        """What config.json holds: layer_types under a name of their own. Trainer opens a checkpoint's config with
        transformers' base class, which knows other kinds and refused to resume."""
        fields = super().to_diff_dict()
        fields[_WRITTEN_LAYER_TYPES] = fields.pop("layer_types", self.layer_types)
        return fields

    @classmethod
    def from_bert(
        cls,
        bert_config: BertConfig,
        *,
        entity_size: int,
        layer_types: Sequence[str] | None = None,
        **settings: Any,
    ) -> ErnieKgConfig:
        """The config that lays knowledge layers onto a BERT of any width and depth.

        bert_config: widths, dropouts and special ids are taken over. layer_types: None = the paper's proportions.
        settings: further fields of ErnieConfig. Heads of the entity attention: 4 as in the paper where they
        divide entity_size, else 2 or 1, unless given.

        Raises:
            InputError: a config of another model (RoBERTa counts positions from 2), or a BERT that is not an encoder
                with absolute positions.
        """
        bert = bert_config.to_dict()
        _check_is_bert(bert)
        shared = {name: bert[name] for name in _BERT_FIELDS if bert.get(name) is not None}
        if "num_entity_attention_heads" not in settings:
            settings["num_entity_attention_heads"] = next(n for n in (4, 2, 1) if entity_size % n == 0)
        types = None if layer_types is None else list(layer_types)
        fields: dict[str, Any] = {**shared, "entity_size": entity_size, "layer_types": types, **settings}
        return cls(**fields)


ErnieConfig = ErnieKgConfig
"""The same class. Its own name differs because transformers' Auto classes look a config up by its bare name too, and
know an ErnieConfig, Baidu's: an Auto class that has none of our heads would build that model from our fields."""

_WRITTEN_LAYER_TYPES = "ernie_layer_types"

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "entity_size",
    "entity_input_size",
    "num_entity_attention_heads",
)

_PROBABILITY = (lambda value: 0 <= value < 1, "a probability from 0 to below 1")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "hidden_dropout_prob": _PROBABILITY,
    "attention_probs_dropout_prob": _PROBABILITY,
    "classifier_dropout": _PROBABILITY,
    "initializer_range": (lambda value: value >= 0, "a standard deviation of at least 0"),
    "layer_norm_eps": (lambda value: value > 0, "a number above 0 (in YAML 1e-12 is a text, 1.0e-12 a number)"),
}
_SWITCHES = ("cls_entity", "no_entity_candidate", "tie_word_embeddings")

_BERT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
    "tie_word_embeddings",
    "classifier_dropout",
)


def _check_is_bert(described: Mapping[str, Any]) -> None:
    """described: a config's fields. What differs would be read as if it did not."""
    if described.get("model_type") != "bert":
        raise InputError(f"knowledge layers go onto a 'bert' config, got {described.get('model_type')!r}")
    for name, value in (("is_decoder", False), ("position_embedding_type", "absolute")):
        if described.get(name, value) not in (value, None):
            raise InputError(f"knowledge layers go onto a BERT with {name}={value!r}, got {described[name]!r}")


def _check_layer_types(layer_types: Sequence[str], num_hidden_layers: int) -> None:
    unknown = sorted(set(layer_types) - set(LAYER_TYPES))
    if unknown:
        raise InputError(f"layer_types takes {', '.join(LAYER_TYPES)}, got {', '.join(unknown)}")
    if len(layer_types) != num_hidden_layers:
        raise InputError(
            f"layer_types needs one entry a layer: num_hidden_layers is {num_hidden_layers}, "
            f"got {len(layer_types)} entries"
        )


def _check_names(extra: Mapping[str, object]) -> None:
    """transformers keeps fields that a config does not have; one that nearly is ours was meant."""
    fields = [name for name in ErnieKgConfig.__dataclass_fields__ if not name.startswith("_")]
    for name in extra.keys() - set(dir(ErnieKgConfig)):
        near = difflib.get_close_matches(name, fields, n=1, cutoff=0.88)
        if near:
            raise InputError(f"ErnieConfig has no field {name!r}, did you mean {near[0]}?")


def _check_sizes(config: ErnieKgConfig) -> None:
    """What torch would say of other sizes names none of these fields."""
    for name in _SIZES:
        value = getattr(config, name)
        if value is not None and (type(value) is not int or value < 1):
            raise InputError(f"{name} is a whole number of at least 1, got {value!r}")
    rows, padding = config.num_trained_entity_rows, config.pad_token_id
    if type(rows) is not int or rows < 0 or rows == 1:
        raise InputError(
            f"num_trained_entity_rows is 0 (a frozen table) or at least 2 (row 0 stands for 'no entity'), got {rows!r}"
        )
    if padding is not None and (type(padding) is not int or not 0 <= padding < config.vocab_size):
        raise InputError(f"pad_token_id is a row of the {config.vocab_size} word pieces or None, got {padding!r}")


def _check_values(config: ErnieKgConfig) -> None:
    for name, (holds, meaning) in _RANGES.items():
        value = getattr(config, name)
        if value is None and name == "classifier_dropout":
            continue
        if not isinstance(value, int | float) or not holds(value):
            raise InputError(f"{name} is {meaning}, got {value!r}")
    for name in _SWITCHES:
        if not isinstance(getattr(config, name), bool):
            raise InputError(f"{name} is true or false, got {getattr(config, name)!r}")
    if config.hidden_act not in ACT2FN:
        near = difflib.get_close_matches(config.hidden_act, ACT2FN, n=1)
        raise InputError(
            f"hidden_act is an activation of transformers (gelu, relu, ...), got {config.hidden_act!r}"
            + (f", did you mean {near[0]}?" if near else "")
        )


def _check_pooling(pooling: str, num_spans: int) -> None:
    if pooling not in POOLINGS:
        raise InputError(f"pooling is one of {', '.join(POOLINGS)}, got {pooling!r}")
    if pooling != "cls" and num_spans < 1:
        raise InputError(f"pooling {pooling!r} reads num_spans spans, at least 1, got {num_spans}")


def _check_heads(size_name: str, size: int, heads_name: str, heads: int) -> None:
    if heads < 1 or size % heads:
        raise InputError(f"{heads_name} must divide {size_name}: {heads} does not divide {size}")
