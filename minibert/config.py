"""Which numbers define a BERT?

`BertConfig` has the fields of a checkpoint's `config.json` that change what the network computes, under the names that
the file uses. Its defaults are those of BERT-base (Devlin et al. 2019, section 3).
"""

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from minibert.checkpoints.json_files import read_object
from minibert.checks import check_integer, check_one_of, shown
from minibert.errors import ConfigError, IgnoredSettingWarning, warn

# Far above any published BERT, far below what a machine can hold: a damaged or hostile config is refused before any
# memory is allocated.
MAX_SIZES = {
    "vocab_size": 10_000_000,
    "hidden_size": 65_536,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 65_536,
    "intermediate_size": 1_000_000,
    "max_position_embeddings": 1_000_000,
    "type_vocab_size": 10_000,
}
MAX_PARAMETERS = 10_000_000_000
MAX_LABELS = 100_000

CHOICES = {
    "position_embedding_type": ("absolute", "relative_key", "relative_key_query"),
    "tie_word_embeddings": (True, False),
    "dtype": (None, "float16", "bfloat16", "float32", "float64"),
    "problem_type": (None, "regression", "single_label_classification", "multi_label_classification"),
}

# Fields of other networks, each with the only value that minibert computes.
SUPPORTED = {
    "model_type": "bert",
    "is_decoder": False,
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
}


# What transformers reads from a config, and minibert from the arguments of each call.
CALL_SETTINGS = ("output_hidden_states", "output_attentions")


@dataclass(frozen=True)
class BertConfig:
    """The numbers that define a BERT; in brackets the letters of `model.py`.

    Raises:
        ConfigError: a value has the wrong type, is out of range, or does not fit another; the message names the field.
    """

    vocab_size: int = 30_522  # rows of the word embedding table (V)
    hidden_size: int = 768  # size of every hidden state (D; the paper's H)
    num_hidden_layers: int = 12  # encoder layers (L)
    num_attention_heads: int = 12  # heads per layer (H; the paper's A); divides hidden_size
    intermediate_size: int = 3072  # size of the feed-forward layer (F); 4·D in the paper
    hidden_act: str = "gelu"  # the feed-forward activation, one of `model.ACTIVATIONS`
    hidden_dropout_prob: float = 0.1  # dropout on the embeddings and on each sublayer's output, in training only
    attention_probs_dropout_prob: float = 0.1  # dropout on attention probabilities, in training only
    max_position_embeddings: int = 512  # the longest sequence, in tokens
    type_vocab_size: int = 2  # segments distinguished by token_type_ids
    initializer_range: float = 0.02  # standard deviation of newly initialised weights
    layer_norm_eps: float = 1e-12  # added to the variance inside LayerNorm's root
    pad_token_id: int | None = 0  # the word embedding that starts at zero and gets no gradient, if any
    position_embedding_type: str = "absolute"  # as in the paper; the other two are explained in `relative.py`
    tie_word_embeddings: bool = True  # the masked-language-model head decodes with the word embedding table
    classifier_dropout: float | None = None  # dropout before a classifier; None means hidden_dropout_prob
    num_labels: int | None = None  # classes of a classifier; None means the number of names in id2label, or 2
    id2label: tuple[str, ...] = ()  # the name of each class; a mapping becomes a tuple, () becomes LABEL_0, LABEL_1, …
    problem_type: str | None = None  # a sequence classifier's loss, see `BertForSequenceClassification`
    dtype: str | None = None  # what loaded parameters are converted to; None keeps those of the file
    # The heads that each layer no longer has, by their numbers before any were removed; a mapping becomes a tuple.
    pruned_heads: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        self._check_values()
        self._fill_in_labels()
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                "hidden_size must be divisible by num_attention_heads, "
                f"got {self.hidden_size} and {self.num_attention_heads}"
            )
        self._set("pruned_heads", _pruned(self.pruned_heads, self.num_hidden_layers, self.num_attention_heads))
        if self.parameter_count > MAX_PARAMETERS:
            raise ConfigError(
                f"these sizes give {self.parameter_count:,} parameters, over the limit of {MAX_PARAMETERS:,}: "
                "check hidden_size, intermediate_size, num_hidden_layers and vocab_size"
            )

    def _check_values(self) -> None:
        for field, largest in MAX_SIZES.items():
            self._set(field, check_integer(field, getattr(self, field), 1, largest, ConfigError))
        if self.pad_token_id is not None:
            self._set(
                "pad_token_id", check_integer("pad_token_id", self.pad_token_id, 0, self.vocab_size - 1, ConfigError)
            )
        for field in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            _check_number(field, getattr(self, field), 1)
        for field in ("initializer_range", "layer_norm_eps"):
            _check_number(field, getattr(self, field), math.inf)
        if self.classifier_dropout is not None:
            _check_number("classifier_dropout", self.classifier_dropout, 1)
        if not isinstance(self.hidden_act, str):
            raise ConfigError(f"hidden_act must be the name of an activation, got {shown(self.hidden_act)}")
        self._set("hidden_act", str(self.hidden_act))  # Python's own, where NumPy's was given
        for field, choices in CHOICES.items():
            self._set(field, check_one_of(field, getattr(self, field), choices, ConfigError))

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)  # as a frozen dataclass does it

    def _fill_in_labels(self) -> None:
        """Sets `num_labels` and `id2label` where they are left out."""
        names = _labels(self.id2label)
        count = (len(names) or 2) if self.num_labels is None else self.num_labels
        count = check_integer("num_labels", count, 1, MAX_LABELS, ConfigError)
        if not names:
            names = tuple(f"LABEL_{index}" for index in range(count))
        if len(names) != count:
            raise ConfigError(f"num_labels must be {len(names)}, the number of names in id2label, got {count}")
        self._set("num_labels", count)
        self._set("id2label", names)

    @property
    def head_size(self) -> int:
        """The head size: W = D / H."""
        return self.hidden_size // self.num_attention_heads

    def kept_heads(self, layer: int) -> tuple[int, ...]:
        """The heads that a layer has, by their numbers before any were pruned; layers count from 0."""
        pruned = dict(self.pruned_heads).get(layer, ())
        return tuple(head for head in range(self.num_attention_heads) if head not in pruned)

    @property
    def parameter_count(self) -> int:
        """The number of parameters of a `BertModel` of these sizes, pooler included."""
        d, f = self.hidden_size, self.intermediate_size
        norm = 2 * d
        embeddings = (self.vocab_size + self.max_position_embeddings + self.type_vocab_size) * d + norm
        layer = 4 * (d * d + d) + norm + (d * f + f) + (f * d + d) + norm
        pruned = sum(len(heads) for _, heads in self.pruned_heads) * (4 * d + 3) * self.head_size
        if self.position_embedding_type != "absolute":
            layer += (2 * self.max_position_embeddings - 1) * self.head_size
        return embeddings + self.num_hidden_layers * layer - pruned + (d * d + d)

    def summary(self) -> str:
        """The sizes in a few lines, to be read: `print(model.config.summary())`."""
        pruned = "".join(
            f"\nlayer {layer} without the heads {', '.join(map(str, h))}" for layer, h in self.pruned_heads
        )
        return (
            f"BERT: {self.num_hidden_layers} layers, hidden size {self.hidden_size}, {self.num_attention_heads} heads "
            f"of size {self.head_size}, feed-forward size {self.intermediate_size} ({self.hidden_act})\n"
            f"{self.vocab_size:,} tokens in the vocabulary, at most {self.max_position_embeddings} in a sequence, "
            f"{self.type_vocab_size} segments{pruned}"
        )

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "BertConfig":
        """Reads the fields of a `config.json`; fields that do not change the network are ignored.

        Raises:
            ConfigError: the fields describe a different network (see `SUPPORTED`), or a value is invalid.

        Warns:
            IgnoredSettingWarning: a setting that is an argument of each call instead.
        """
        for field, supported in SUPPORTED.items():
            value = fields.get(field)
            if value is not None and value != supported:
                raise ConfigError(
                    f"{field} must be {supported!r}, got {shown(value)}: minibert does not compute that network"
                )
        for field in CALL_SETTINGS:
            if fields.get(field):
                warn(
                    f"the config sets {field}, which has no effect here: pass {field}=True in a call",
                    IgnoredSettingWarning,
                )
        known = {name: fields[name] for name in FIELDS if name in fields}
        if "torch_dtype" in fields:  # its older name
            known.setdefault("dtype", fields["torch_dtype"])
        if known.get("num_labels") not in (None, len(_labels(known.get("id2label")))):
            known.pop("id2label", None)  # as in transformers, the count takes precedence over the names
        return cls(**known)

    @classmethod
    def from_json_file(cls, file: str | Path, **changes: Any) -> "BertConfig":
        """Reads a checkpoint's `config.json`; `changes` replace fields of the file, such as `num_labels=5`.

        Raises:
            CheckpointNotFoundError: there is no such file.
            ConfigError: it is not JSON, or not the config of a BERT that we can build; the message names the file.
        """
        try:
            file = Path(file).expanduser()
        except (TypeError, RuntimeError):  # not a path, or ~ of a user without a home
            raise ConfigError(f"file must be the path of a config.json, got {shown(file)}") from None
        fields = read_object(file, ConfigError)
        for field in changes:
            check_one_of("each changed field", field, FIELDS, ConfigError)
        if "id2label" in changes:
            fields.pop("num_labels", None)  # the names given here take precedence over the file's count
        if changes.get("dtype") is not None:  # torch.float16, or its name
            changes["dtype"] = str(changes["dtype"]).removeprefix("torch.")
        try:
            return cls.from_dict({**fields, **changes})
        except ConfigError as error:
            raise blame_file(error, file, changes) from None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields of a `config.json` that any BERT implementation reads back as this network."""
        fields = {"model_type": "bert", **dataclasses.asdict(self)}
        del fields["num_labels"]  # redundant: it is the number of names
        fields["id2label"] = dict(enumerate(self.id2label))
        fields["label2id"] = {name: index for index, name in enumerate(self.id2label)}
        fields["pruned_heads"] = {str(layer): list(heads) for layer, heads in self.pruned_heads}
        if not self.pruned_heads:
            del fields["pruned_heads"]
        return fields


FIELDS = tuple(field.name for field in dataclasses.fields(BertConfig))


def _pruned(value: Any, layers: int, heads: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The pruned heads of each layer as a tuple, in order; keys of JSON are strings, and null means none."""
    pruned: dict[int, set[int]] = {}
    try:
        for key, listed in value.items() if isinstance(value, Mapping) else value or ():
            layer = check_integer("layer", int(key) if isinstance(key, str) else key, 0, layers - 1)
            numbers = [check_integer("head", head, 0, heads - 1) for head in listed]
            pruned.setdefault(layer, set()).update(numbers)
    except (TypeError, ValueError):  # an InputError of the checks is a ValueError
        what = f"a mapping from layers below {layers} to lists of heads below {heads}"
        raise ConfigError(f"pruned_heads must be {what}, got {shown(value)}") from None
    for layer, removed in pruned.items():
        if len(removed) == heads:
            raise ConfigError(
                f"pruned_heads must leave each layer a head, got none in layer {layer}: to compute without any, edit "
                "its attention.context by zero"
            )
    return tuple((layer, tuple(sorted(removed))) for layer, removed in sorted(pruned.items()) if removed)


def _labels(id2label: Any) -> tuple[str, ...]:
    """The names of the classes in order, from a sequence of names or a mapping {0: name, …}; keys may be strings."""
    names = id2label
    if isinstance(id2label, dict):
        try:
            by_index = {int(index): name for index, name in id2label.items()}
        except (TypeError, ValueError, OverflowError):
            by_index = {}
        names = [by_index.get(index) for index in range(len(id2label))]
    if names is None:
        return ()
    if isinstance(names, list | tuple):  # some files have numbers for names
        names = [str(name) if isinstance(name, int) else name for name in names]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"id2label must name the classes 0, 1, 2, … without a gap, got {shown(id2label)}")
    return tuple(names)


def blame_file(error: ConfigError, file: Path, arguments: Iterable[str]) -> ConfigError:
    """Returns the error with the file before it, unless the setting that it names first is an argument of the call."""
    return error if str(error).partition(" ")[0] in arguments else ConfigError(f"{file}: {error}")


Choice = TypeVar("Choice")


def choose(table: dict[str, Choice], setting: str, name: str) -> Choice:
    """Returns what `table` has under `name`; raises a `ConfigError` that lists the known names."""
    return table[check_one_of(setting, name, table, ConfigError)]


def _check_number(field: str, value: Any, high: float) -> None:
    """Raises a `ConfigError` unless the value is a finite number from 0 to `high`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # An integer of a JSON file may be too large to be a float at all.
    if not is_number or not 0 <= value <= min(high, sys.float_info.max):
        what = "a finite non-negative number" if high == math.inf else f"a number from 0 to {high}"
        raise ConfigError(f"{field} must be {what}, got {shown(value)}")
