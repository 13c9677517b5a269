"""minibert: BERT written by hand in PyTorch, small enough to read, equal to `transformers` to the last bit.

Start reading at `minibert/model.py`: the whole network, from token ids to hidden states, in one file.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` below does, in the form that type checkers and editors read
    from minibert.config import BertConfig as BertConfig
    from minibert.errors import MinibertError as MinibertError
    from minibert.heads import BertForMaskedLM as BertForMaskedLM
    from minibert.heads import BertForMultipleChoice as BertForMultipleChoice
    from minibert.heads import BertForNextSentencePrediction as BertForNextSentencePrediction
    from minibert.heads import BertForPreTraining as BertForPreTraining
    from minibert.heads import BertForQuestionAnswering as BertForQuestionAnswering
    from minibert.heads import BertForSequenceClassification as BertForSequenceClassification
    from minibert.heads import BertForTokenClassification as BertForTokenClassification
    from minibert.model import BertModel as BertModel
    from minibert.sentences.encoder import SentenceEncoder as SentenceEncoder
    from minibert.tokenizer import BertTokenizer as BertTokenizer
    from minibert.vectors.pooling import cls_pool as cls_pool
    from minibert.vectors.pooling import combine_layers as combine_layers
    from minibert.vectors.pooling import max_pool as max_pool
    from minibert.vectors.pooling import mean_pool as mean_pool
    from minibert.vectors.similarity import cosine_distance as cosine_distance
    from minibert.vectors.similarity import cosine_similarity as cosine_similarity
    from minibert.vectors.similarity import semantic_search as semantic_search
    from minibert.vectors.words import embed_word as embed_word

__version__ = "0.1.0"

# The module of each public name. It is imported when the name is first asked for: `minibert --help` needs no PyTorch.
_MODULE = {
    "BertConfig": "minibert.config",
    "BertForMaskedLM": "minibert.heads",
    "BertForMultipleChoice": "minibert.heads",
    "BertForNextSentencePrediction": "minibert.heads",
    "BertForPreTraining": "minibert.heads",
    "BertForQuestionAnswering": "minibert.heads",
    "BertForSequenceClassification": "minibert.heads",
    "BertForTokenClassification": "minibert.heads",
    "BertModel": "minibert.model",
    "BertTokenizer": "minibert.tokenizer",
    "MinibertError": "minibert.errors",
    "SentenceEncoder": "minibert.sentences.encoder",
    "cls_pool": "minibert.vectors.pooling",
    "combine_layers": "minibert.vectors.pooling",
    "cosine_distance": "minibert.vectors.similarity",
    "cosine_similarity": "minibert.vectors.similarity",
    "embed_word": "minibert.vectors.words",
    "max_pool": "minibert.vectors.pooling",
    "mean_pool": "minibert.vectors.pooling",
    "semantic_search": "minibert.vectors.similarity",
}
__all__ = list(_MODULE)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'minibert' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE})
