"""The model: text and knowledge in one encoder.

Importing registers model type `ernie-kg` with transformers' Auto classes.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertTokenizer,
)

from ernie.collation import pad_batch
from ernie.configuration import LAYER_TYPES, ErnieConfig, paper_layer_types
from ernie.entity_rows import EntityRows
from ernie.entity_table import EntityTable
from ernie.errors import InputError
from ernie.heads import (
    ErnieForEntityTyping,
    ErnieForPreTraining,
    ErnieForRelationClassification,
    ErnieForSequenceClassification,
    ErnieForTokenClassification,
)
from ernie.inputs import IGNORED, INPUTS
from ernie.modeling import ErnieModel, ErnieModelOutput
from ernie.tokenization import Encoding, EntitySpan, ErnieTokenizer

AutoConfig.register("ernie-kg", ErnieConfig)
AutoTokenizer.register(ErnieConfig, tokenizer_class=BertTokenizer)
AutoModel.register(ErnieConfig, ErnieModel)
AutoModelForPreTraining.register(ErnieConfig, ErnieForPreTraining)
AutoModelForMaskedLM.register(ErnieConfig, ErnieForPreTraining)
AutoModelForSequenceClassification.register(ErnieConfig, ErnieForSequenceClassification)
AutoModelForTokenClassification.register(ErnieConfig, ErnieForTokenClassification)

__all__ = [
    "IGNORED",
    "INPUTS",
    "LAYER_TYPES",
    "Encoding",
    "EntityRows",
    "EntitySpan",
    "EntityTable",
    "ErnieConfig",
    "ErnieForEntityTyping",
    "ErnieForPreTraining",
    "ErnieForRelationClassification",
    "ErnieForSequenceClassification",
    "ErnieForTokenClassification",
    "ErnieModel",
    "ErnieModelOutput",
    "ErnieTokenizer",
    "InputError",
    "pad_batch",
    "paper_layer_types",
]
