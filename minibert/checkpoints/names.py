"""What are a checkpoint's tensors called, and which of our parameters is each?

The names in a file are older than PyTorch. Google's TensorFlow code called each variable after the scopes that it was
created in, `bert/encoder/layer_3/attention/self/query/kernel`, and Hugging Face's port made a module of every scope:
`bert.encoder.layer.3.attention.self.query.weight`. Such a name tells where a tensor was created, not what it does:
`attention.output.dense` joins the heads, `output.dense` is the second half of the feed-forward network.

`NAMES` translates them into the names of `model.py`, and back. Some files deviate; `NAMING_SCHEMES` lists how.
"""

import re
from collections.abc import Iterable, Mapping

# Our module, and the same module in a checkpoint; {} is the index of the layer. A module's weight and bias have the
# same names on both sides, and no module occurs twice: the table is a bijection, and the whole translation.
NAMES = (
    ("embeddings.word_embeddings", "embeddings.word_embeddings"),
    ("embeddings.position_embeddings", "embeddings.position_embeddings"),
    ("embeddings.token_type_embeddings", "embeddings.token_type_embeddings"),
    ("embeddings.norm", "embeddings.LayerNorm"),
    ("encoder.layers.{}.attention.query", "encoder.layer.{}.attention.self.query"),
    ("encoder.layers.{}.attention.key", "encoder.layer.{}.attention.self.key"),
    ("encoder.layers.{}.attention.value", "encoder.layer.{}.attention.self.value"),
    ("encoder.layers.{}.attention.output", "encoder.layer.{}.attention.output.dense"),
    ("encoder.layers.{}.attention_norm", "encoder.layer.{}.attention.output.LayerNorm"),
    ("encoder.layers.{}.feed_forward.expand", "encoder.layer.{}.intermediate.dense"),
    ("encoder.layers.{}.feed_forward.contract", "encoder.layer.{}.output.dense"),
    ("encoder.layers.{}.feed_forward_norm", "encoder.layer.{}.output.LayerNorm"),
    ("encoder.layers.{}.attention.relative.distance_embedding", "encoder.layer.{}.attention.self.distance_embedding"),
    ("pooler.dense", "pooler.dense"),
    ("masked_lm.dense", "cls.predictions.transform.dense"),
    ("masked_lm.norm", "cls.predictions.transform.LayerNorm"),
    ("masked_lm", "cls.predictions"),  # a bias alone: the decoder's weight is the word embedding table
    ("next_sentence", "cls.seq_relationship"),
    ("classifier", "classifier"),
    ("qa_outputs", "qa_outputs"),
)
_CHECKPOINT_MODULES = dict(NAMES)
_OUR_MODULES = {theirs: ours for ours, theirs in NAMES}

# Where files deviate from the right column of `NAMES`: a pattern, its replacement, and what the pattern is. They are
# applied in this order, so a name can match several.
NAMING_SCHEMES = (
    (r"^bert\.", "", "the base model's name inside a model with a head"),
    (r"\.LayerNorm\.gamma$", ".LayerNorm.weight", "TensorFlow's name"),
    (r"\.LayerNorm\.beta$", ".LayerNorm.bias", "TensorFlow's name"),
    (r"^cls\.predictions\.decoder\.bias$", "cls.predictions.bias", "the decoder's bias under its other name"),
    (r"^cls\.predictions\.decoder\.weight$", "embeddings.word_embeddings.weight", "the decoder is the embedding table"),
)

# Tensors that are not parameters, by their canonical names, and why they can be ignored.
IGNORED = {"embeddings.position_ids": "the numbers 0, 1, 2, …, which older versions of transformers stored"}


# What the base model of another architecture is called inside a model with a head: its tensors are not a BERT's.
OTHER_ARCHITECTURES = (
    *("albert", "camembert", "deberta", "distilbert", "electra", "ernie"),
    *("mpnet", "nezha", "roberta", "xlm", "xlm_roberta"),
)


def wrapper_prefix(tensors: Iterable[str]) -> str:
    """Returns what a wrapper put before all names of a BERT, such as `module.` or `model.bert_encoder.`; "" if nothing.

    A model inside DataParallel, torch.compile, Lightning or a class of one's own is saved with such names. The word
    embedding table tells the prefix: without one table, or with several, there is none to take off.
    """
    table = "embeddings.word_embeddings.weight"
    prefixes = {name.removesuffix(table).removesuffix("bert.") for name in tensors if name.endswith(table)}
    (prefix,) = prefixes if len(prefixes) == 1 else ("",)
    inner = prefix.rstrip(".").rpartition(".")[2]
    if (prefix and not prefix.endswith(".")) or inner in OTHER_ARCHITECTURES:
        return ""
    return prefix


def checkpoint_name(parameter: str) -> str:
    """Translates our name of a parameter into a checkpoint's.

    In a model with a head, the base model's parameters begin with `bert.` on both sides.

    Raises:
        KeyError: the table does not have this name.
    """
    return _translate(parameter, _CHECKPOINT_MODULES)


def parameter_name(tensor: str) -> str:
    """Translates a checkpoint's name of a tensor into ours: the inverse of `checkpoint_name`.

    Raises:
        KeyError: the table does not have this name. Names of other naming schemes first need `canonical_name`.
    """
    return _translate(tensor, _OUR_MODULES)


def _translate(name: str, modules: Mapping[str, str]) -> str:
    prefix = "bert." if name.startswith("bert.") else ""
    module, _, weight_or_bias = name.removeprefix(prefix).rpartition(".")
    layer = re.search(r"(?<=\.)\d+(?=\.)", module)
    if layer is None:
        return f"{prefix}{modules[module]}.{weight_or_bias}"
    pattern = f"{module[: layer.start()]}{{}}{module[layer.end() :]}"
    return f"{prefix}{modules[pattern].format(layer.group())}.{weight_or_bias}"


def canonical_name(tensor: str, wrapper: str = "") -> str:
    """Returns a tensor's name in the right column of `NAMES`, without the prefixes `wrapper` and `bert.`."""
    tensor = tensor.removeprefix(wrapper)
    for pattern, replacement, _ in NAMING_SCHEMES:
        tensor = re.sub(pattern, replacement, tensor)
    return tensor


def naming_scheme(tensor: str, wrapper: str = "") -> str:
    """Returns what is particular about the name of a file's tensor, from `NAMING_SCHEMES`; "" if nothing is."""
    if wrapper and tensor.startswith(wrapper):
        return f"the prefix {wrapper!r} of a wrapper"
    scheme = ""
    for pattern, replacement, description in NAMING_SCHEMES:
        if re.search(pattern, tensor):
            tensor, scheme = re.sub(pattern, replacement, tensor), description
    return scheme
