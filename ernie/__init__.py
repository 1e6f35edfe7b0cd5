"""The model: text and knowledge in one encoder.

Importing registers model type `ernie-kg` with transformers' Auto classes.
"""

from transformers import (
    AutoConfig,
    AutoModel,
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

# exist_ok: transformers looks classes up by bare name too, and has an ErnieConfig of its own (Baidu's model, type
# "ernie"). Both stay reachable: ours by its class and by "ernie-kg".
AutoConfig.register("ernie-kg", ErnieConfig)
AutoTokenizer.register(ErnieConfig, tokenizer_class=BertTokenizer, exist_ok=True)
AutoModel.register(ErnieConfig, ErnieModel, exist_ok=True)
AutoModelForPreTraining.register(ErnieConfig, ErnieForPreTraining, exist_ok=True)
AutoModelForSequenceClassification.register(ErnieConfig, ErnieForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(ErnieConfig, ErnieForTokenClassification, exist_ok=True)

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
