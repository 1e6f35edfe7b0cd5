"""ErnieModel: token states and entity states from text and linked entities."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils.generic import ModelOutput, can_return_tuple

from ernie.checks import check_beside_text, check_entities, check_entity_inputs, check_text, check_vectors
from ernie.configuration import ErnieConfig
from ernie.embeddings import ErnieEmbeddings
from ernie.entity_input import EntityInput
from ernie.entity_table import EntityTable
from ernie.errors import InputError
from ernie.layers import LAYERS, EntitySlots
from ernie.loading import check_loaded
from ernie.model_card import replace_empty_card, write_bare_card
from ernie.remote_code import remote_code, write_sources


@dataclass
class ErnieModelOutput(ModelOutput):
    """last_hidden_state: (batch, seq_len, hidden_size).
    entity_last_hidden_state: (batch, num_entities, entity_size), meaningful where entity_attention_mask is 1; None
        when no entities were given. The zero-vector entity of [CLS] is not among them.
    pooler_output: (batch, hidden_size), tanh(dense(token state of [CLS])).
    hidden_states, entity_hidden_states: the embeddings and each layer's states, num_hidden_layers + 1 entries.
    attentions: (batch, num_heads, seq_len, seq_len) a layer.
    entity_attentions: a layer (batch, num_entity_attention_heads, slots, slots), None but in fuse layers; slots are the
        given entities, after [CLS]'s own at 0 where config.cls_entity.
    """

    last_hidden_state: torch.Tensor | None = None
    entity_last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    entity_hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    entity_attentions: tuple[torch.Tensor | None, ...] | None = None


class ErniePreTrainedModel(PreTrainedModel):
    """What every class here shares: names as in BERT, so that BERT checkpoints load into layers 0..n-1."""

    config_class = ErnieConfig
    config: ErnieConfig  # pyrefly: ignore[bad-override-mutable-attribute]
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = [r"position_ids"]
    _no_split_modules = ["ErnieEmbeddings", "TextLayer", "MixLayer", "FuseLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Linear and Embedding N(0, initializer_range), biases 0, LayerNorm 1 and 0: the base class's rule."""
        super()._init_weights(module)
        free_bias = module._parameters.get("bias")
        if free_bias is not None and not isinstance(module, nn.Linear | nn.LayerNorm):
            init.zeros_(free_bias)

    @property
    def entity_input(self) -> EntityInput:
        """Where entity rows become vectors."""
        base = self.base_model
        assert isinstance(base, ErnieModel), "every class here holds an ErnieModel"
        return base.entities

    @property
    def entity_table(self) -> EntityTable | None:
        """The attached table, None without one."""
        return self.entity_input.table

    def attach_entity_table(self, table: EntityTable | str | Path | None) -> None:
        """Give `entity_ids` a meaning: rows of `table` (or of the one in that folder or file).

        A frozen table is neither a parameter nor saved; another may be attached at any time. With
        config.num_trained_entity_rows, its vectors are copied into the trained rows. None detaches. A table of
        another width than the model's is an InputError.
        """
        self.entity_input.attach(EntityTable.open(table) if isinstance(table, str | Path) else table)

    def entity_rows(self, entity_ids: torch.Tensor) -> torch.Tensor:
        """Vectors of `entity_ids` as the layers take them, shape entity_ids.shape + (entity_size,), in the model's
        device and dtype."""
        vectors = self.entity_input.lookup(entity_ids)
        return self.entity_input(vectors.to(device=self.device, dtype=self.dtype))

    @classmethod
    def from_pretrained(  # pyrefly: ignore[bad-override]
        cls, source: str | PathLike[str] | None, *settings: Any, strict: bool = True, **more: Any
    ) -> Self:
        """As transformers loads; a checkpoint of which keys are missing or left over is an InputError (`loading`).

        strict: False takes what fits and leaves the rest fresh, as transformers does: upper layers cut off on purpose.
        """
        wanted, mismatched = more.pop("output_loading_info", False), more.pop("ignore_mismatched_sizes", False)
        checked = strict and more.get("state_dict") is None
        loaded: Any = super().from_pretrained(
            source, *settings, output_loading_info=True, ignore_mismatched_sizes=mismatched or checked, **more
        )
        model, report = loaded
        if checked:
            check_loaded(
                {**report, "mismatched_keys": ()} if mismatched else report,
                [name for name, _ in model.named_parameters()],
                source=str(source),
                class_name=cls.__name__,
                encoder="" if isinstance(model, ErnieModel) else f"{cls.base_model_prefix}.",
            )
        return loaded if wanted else model

    def save_pretrained(self, save_directory: str | PathLike[str], *settings: Any, **more: Any) -> None:
        """As transformers saves (safetensors, config.json), the source that loads it elsewhere (`remote_code`), and a
        model card where there is none."""
        with remote_code(self.config, type(self).__name__) as sources:
            if settings[0] if settings else more.get("is_main_process", True):
                write_sources(sources, Path(save_directory))
                write_bare_card(Path(save_directory), self.config, type(self).__name__)
            super().save_pretrained(save_directory, *settings, **more)

    def _upload_modified_files(self, working_dir: str | PathLike[str], *settings: Any, **more: Any) -> Any:
        """transformers' last step of `push_to_hub`, before which it writes its empty card over the saved one."""
        replace_empty_card(Path(working_dir), self.config, type(self).__name__)
        return super()._upload_modified_files(working_dir, *settings, **more)


class ErnieEncoder(nn.Module):
    """The stack of layers, kinds as config.layer_types lists them."""

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__()
        assert config.layer_types is not None, "ErnieConfig fills layer_types"
        self.layer = nn.ModuleList([LAYERS[kind](config) for kind in config.layer_types])


class Pooler(nn.Module):
    """tanh(dense(token state of [CLS])); entity states are never pooled."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(hidden_states[:, 0]))


class ErnieModel(ErniePreTrainedModel):
    """Text encoder with a packed entity stream (see `layers` for the equations)."""

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__(config)
        self.embeddings = ErnieEmbeddings(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            hidden_size=config.hidden_size,
            pad_token_id=config.pad_token_id,
            layer_norm_eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        self.encoder = ErnieEncoder(config)
        self.pooler = Pooler(config.hidden_size)
        self.entities = EntityInput(
            entity_size=config.entity_size,
            input_size=config.entity_input_size,
            num_trained_rows=config.num_trained_entity_rows,
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.word_embeddings = value  # pyrefly: ignore[bad-assignment]

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        entity_ids: torch.Tensor | None = None,
        entity_embeds: torch.Tensor | None = None,
        entity_positions: torch.Tensor | None = None,
        entity_attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> ErnieModelOutput:
        """Shapes: `ernie.inputs.INPUTS`. Every argument but the text is optional.

        entity_ids (batch, num_entities) need an attached table; entity_embeds (batch, num_entities, entity_size)
        do not. entity_positions (batch, num_entities) index word pieces. Without entity_attention_mask, an entity is
        real where its id is not 0 (all of entity_embeds are). Without entities the knowledge layers see only [CLS]'s
        zero-vector entity and their own bias.
        """
        if kwargs:
            raise InputError(f"unknown model input: {', '.join(sorted(kwargs))}")
        self._check_text(input_ids, inputs_embeds, attention_mask, token_type_ids, position_ids)
        keep_states, keep_attentions = self._wanted(output_hidden_states, output_attentions)
        hidden = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        entity, slots = self._pack_entities(
            hidden, attention_mask, entity_ids, entity_embeds, entity_positions, entity_attention_mask
        )
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden, attention_mask=attention_mask)
        states, entity_states, attentions, entity_attentions = [hidden], [entity], [], []
        for layer in self.encoder.layer:
            hidden, entity, probs, entity_probs = layer(hidden, entity, mask, slots)
            if keep_states:
                states.append(hidden)
                entity_states.append(entity)
            if keep_attentions:
                attentions.append(probs)
                entity_attentions.append(entity_probs)

        given = entity_ids is not None or entity_embeds is not None
        return ErnieModelOutput(
            last_hidden_state=hidden,
            entity_last_hidden_state=self._given_entities(entity, hidden) if given else None,
            pooler_output=self.pooler(hidden),
            hidden_states=tuple(states) if keep_states else None,
            entity_hidden_states=tuple(self._given_entities(e, hidden) for e in entity_states)
            if keep_states and given
            else None,
            attentions=tuple(attentions) if keep_attentions else None,
            entity_attentions=tuple(entity_attentions) if keep_attentions and given else None,
        )

    def _check_text(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: object,
        token_type_ids: torch.Tensor | None,
        position_ids: torch.Tensor | None,
    ) -> None:
        words, limit = self.embeddings.word_embeddings, self.embeddings.position_embeddings.num_embeddings
        shape = check_text(
            input_ids,
            inputs_embeds,
            vocab_size=words.num_embeddings,
            hidden_size=self.config.hidden_size,
            max_length=limit,
        )
        num_types = self.embeddings.token_type_embeddings.num_embeddings
        check_beside_text(shape, attention_mask, token_type_ids, position_ids, num_types=num_types, max_length=limit)

    def _given_entities(self, states: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor:
        """Entity states without [CLS]'s own; of a batch that has none, (batch, 0, entity_size)."""
        if states is None:
            return hidden.new_zeros(hidden.shape[0], 0, self.config.entity_size)
        return states[:, 1:] if self.config.cls_entity else states

    def _wanted(self, hidden_states: bool | None, attentions: bool | None) -> tuple[bool, bool]:
        """The two output flags, the config's where the caller gave none."""
        states = self.config.output_hidden_states if hidden_states is None else hidden_states
        probs = self.config.output_attentions if attentions is None else attentions
        if probs and self.config._attn_implementation != "eager":
            raise InputError(
                f"attention probabilities need attn_implementation='eager', this model runs "
                f"{self.config._attn_implementation!r}: model.set_attn_implementation('eager')"
            )
        return bool(states), bool(probs)

    def _pack_entities(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None,
        ids: torch.Tensor | None,
        embeds: torch.Tensor | None,
        positions: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, EntitySlots | None]:
        """Entity states (batch, num_entities [+ 1 for CLS], entity_size) and their slots; None, None without any."""
        batch, seq_len = hidden.shape[:2]
        check_entity_inputs(batch, ids, embeds, positions, mask)
        if ids is not None:
            embeds = self.entity_rows(ids)
            mask = (ids != 0) if mask is None else mask
        elif embeds is not None:
            check_vectors(embeds, batch, self.entities.width)
            embeds = self.entities(embeds.to(hidden.device))
        if embeds is None:
            embeds = hidden.new_zeros(batch, 0, self.config.entity_size)
        check_entities(embeds, positions, mask, attention_mask, seq_len)
        shape = embeds.shape[:2]
        embeds = embeds.to(device=hidden.device, dtype=hidden.dtype)
        positions = hidden.new_zeros(shape, dtype=torch.long) if positions is None else positions.long()
        mask = hidden.new_ones(shape) if mask is None else mask.to(hidden.dtype)
        if self.config.cls_entity:
            embeds = torch.cat([embeds.new_zeros(batch, 1, embeds.shape[2]), embeds], dim=1)
            positions = torch.cat([positions.new_zeros(batch, 1), positions], dim=1)
            mask = torch.cat([mask.new_ones(batch, 1), mask], dim=1)
        elif embeds.shape[1] == 0:
            return None, None
        row_starts = torch.arange(batch, device=hidden.device).unsqueeze(1) * seq_len
        lowest = torch.finfo(hidden.dtype).min
        bias = torch.zeros_like(mask).masked_fill(mask <= 0, lowest)[:, None, None, :]
        slots = EntitySlots((positions + row_starts).flatten(), mask.unsqueeze(-1), bias)
        return embeds, slots


Forward = TypeVar("Forward", bound=Callable[..., Any])


def with_model_inputs(forward: Forward) -> Forward:
    """A head's `forward(..., **inputs)` with ErnieModel's inputs in its signature.

    transformers' Trainer keeps the columns of a data set that it finds there, and drops the others without a word:
    entities, otherwise. Without `**` it does not hand over arguments of its own either.
    """
    own = [p for p in inspect.signature(forward).parameters.values() if p.kind is not p.VAR_KEYWORD]
    names = {parameter.name for parameter in own}
    passed_on = [
        parameter.replace(kind=parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(ErnieModel.forward).parameters.values()
        if parameter.name not in names and parameter.kind is not parameter.VAR_KEYWORD
    ]
    forward.__signature__ = inspect.Signature([*own, *passed_on])  # pyrefly: ignore[missing-attribute]
    return forward
