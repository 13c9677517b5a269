"""minibert: BERT written by hand in PyTorch, small enough to read, equal to `transformers` to the last bit.

Start reading at `minibert/model.py`: the whole network, from token ids to hidden states, in one file.
"""

from minibert.config import BertConfig
from minibert.errors import MinibertError
from minibert.heads import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from minibert.model import BertModel
from minibert.pooling import cls_pool, combine_layers, max_pool, mean_pool
from minibert.sentence import SentenceEncoder
from minibert.similarity import cosine_distance, cosine_similarity, semantic_search
from minibert.tokenizer import BertTokenizer
from minibert.words import embed_word

__version__ = "0.1.0"
__all__ = [
    "BertConfig",
    "BertForMaskedLM",
    "BertForMultipleChoice",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "BertTokenizer",
    "MinibertError",
    "SentenceEncoder",
    "cls_pool",
    "combine_layers",
    "cosine_distance",
    "cosine_similarity",
    "embed_word",
    "max_pool",
    "mean_pool",
    "semantic_search",
]
