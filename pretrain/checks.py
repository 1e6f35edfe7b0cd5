"""Do instances, tokenizer and vectors belong together? Other rows would train without an error, on nonsense."""

from __future__ import annotations

from pathlib import Path

from ernie.entity_table import EntityTable
from ernie.tokenization import ErnieTokenizer
from kg.errors import InputError
from pretrain.dataset import Instances
from pretrain.prepare import STAGE as PREPARE
from pretrain.prepare import describe_entities, describe_tokenizer


def require_matching(
    instances: Instances,
    *,
    tokenizer: ErnieTokenizer,
    table: EntityTable,
    entity_rows: dict[str, int],
    batch_size: int,
) -> None:
    """
    Raises:
        InputError: the instances are fewer than a batch, of another vocabulary or graph, or point past the end of the
            table.
    """
    remedy = f"run `ernie-kg {PREPARE}`"
    if len(instances) == 0:
        raise InputError(f"{instances.folder} holds no instance; {remedy} with other settings")
    if len(instances) < batch_size:
        raise InputError(
            f"{instances.folder} holds {len(instances):,} instances, fewer than a batch of {batch_size:,}; lower "
            f"training.batch_size, or {remedy} on more text or with a lower min_entities"
        )
    described, own = instances.described, describe_tokenizer(tokenizer)
    if described["tokenizer_digest"] != own["tokenizer_digest"]:
        raise InputError(
            f"{instances.folder} was made with another vocabulary ({described['vocab_size']:,} pieces) than the base's "
            f"({own['vocab_size']:,}); {remedy} with this base as tokenizer"
        )
    highest = instances.highest_entity_row()
    if highest >= table.num_rows or described["num_entities"] != table.num_rows - 1:
        raise InputError(
            f"{instances.folder} names entity rows up to {highest:,} of {described['num_entities']:,} entities, the "
            f"vectors have {table.num_rows - 1:,}; {remedy} with these vectors"
        )
    if described["entities_digest"] != describe_entities(entity_rows)["entities_digest"]:
        raise InputError(
            f"{instances.folder} was made with vectors of other entities, or in another order; "
            f"{remedy} with these vectors"
        )


def require_vocabulary(instances: Instances, vocab_size: int, base: Path) -> None:
    """
    Raises:
        InputError: the model has no embedding for some of the instances' word pieces.
    """
    if instances.described["vocab_size"] > vocab_size:
        raise InputError(
            f"the tokenizer of {base} has {instances.described['vocab_size']:,} word pieces, its model only "
            f"{vocab_size:,} embeddings; the folder's files are not of one model"
        )
