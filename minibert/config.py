"""Which numbers define a BERT?

`BertConfig` holds the fields of a checkpoint's `config.json` that change what the network computes, under the names
the file uses, with the values of BERT-base (Devlin et al. 2019, section 3) where a file leaves one out.
"""

import dataclasses
import math
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from minibert.checkpoints.json_files import read_object
from minibert.errors import ConfigError

# Far above any published BERT, far below what a machine can hold: a damaged or hostile config is refused before it
# can ask for memory.
LARGEST = {
    "vocab_size": 10_000_000,
    "hidden_size": 65_536,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 65_536,
    "intermediate_size": 1_000_000,
    "max_position_embeddings": 1_000_000,
    "type_vocab_size": 10_000,
}
MOST_PARAMETERS = 10_000_000_000

CHOICES = {
    "position_embedding_type": ("absolute", "relative_key", "relative_key_query"),
    "tie_word_embeddings": (True, False),
    "dtype": (None, "float16", "bfloat16", "float32", "float64"),
    "problem_type": (None, "regression", "single_label_classification", "multi_label_classification"),
}

# Fields that would make it another network, and the only value of each that is this one.
ONLY = {
    "model_type": "bert",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "chunk_size_feed_forward": 0,
}


@dataclass(frozen=True)
class BertConfig:
    """The numbers that define a BERT; in brackets the paper's letter, or the one `model.py` uses.

    Attributes:
        vocab_size: entries of the word embedding table (V).
        hidden_size: width of every hidden state (the paper's H, our D).
        num_hidden_layers: encoder layers (L).
        num_attention_heads: heads per layer (the paper's A, our H); divides `hidden_size`.
        intermediate_size: width of the feed-forward layer (F); 4·D in the paper.
        hidden_act: the feed-forward activation, one of `model.ACTIVATIONS`.
        hidden_dropout_prob: dropout on embeddings and on each sublayer's output, in training only.
        attention_probs_dropout_prob: dropout on attention probabilities, in training only.
        max_position_embeddings: the longest sequence, in tokens.
        type_vocab_size: segments told apart by `token_type_ids`.
        initializer_range: standard deviation of newly initialised weights.
        layer_norm_eps: added to the variance inside LayerNorm's root.
        pad_token_id: the word embedding that starts at zero and receives no gradient, or None.
        position_embedding_type: "absolute" as in the paper, or "relative_key", "relative_key_query"; see `relative.py`.
        tie_word_embeddings: the masked-language-model head decodes with the word embedding table itself.
        classifier_dropout: dropout before a classifier; None means `hidden_dropout_prob`.
        num_labels: classes of a classifier; None means as many as `id2label` names, or 2.
        id2label: the name of each class; left out, they are LABEL_0, LABEL_1, …
        problem_type: a sequence classifier's loss; see `BertForSequenceClassification`.
        dtype: what loaded parameters are converted to; None means that they stay as the file has them.

    Raises:
        ConfigError: a value is of the wrong kind, out of range, or does not fit another; the message names the field.
    """

    vocab_size: int = 30_522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    position_embedding_type: str = "absolute"
    tie_word_embeddings: bool = True
    classifier_dropout: float | None = None
    num_labels: int | None = None
    id2label: tuple[str, ...] = ()  # or a mapping from their numbers; always kept as a tuple
    problem_type: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        for field, largest in LARGEST.items():
            _check_whole_number(field, getattr(self, field), 1, largest)
        if self.pad_token_id is not None:
            _check_whole_number("pad_token_id", self.pad_token_id, 0, self.vocab_size - 1)
        for field in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            _check_number(field, getattr(self, field), 0, 1)
        _check_number("initializer_range", self.initializer_range, 0, math.inf)
        _check_number("layer_norm_eps", self.layer_norm_eps, 0, math.inf)
        if not isinstance(self.hidden_act, str):
            raise ConfigError(f"hidden_act must be the name of an activation, not {reprlib.repr(self.hidden_act)}")
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                allowed = ", ".join(map(str, choices))
                raise ConfigError(f"{field} is {reprlib.repr(getattr(self, field))}, and must be one of {allowed}")
        if self.classifier_dropout is not None:
            _check_number("classifier_dropout", self.classifier_dropout, 0, 1)
        object.__setattr__(self, "id2label", _labels(self.id2label))
        if self.num_labels is None:  # frozen: what is left out is filled in here and nowhere else
            object.__setattr__(self, "num_labels", len(self.id2label) or 2)
        _check_whole_number("num_labels", self.num_labels, 1, 100_000)
        if not self.id2label:
            object.__setattr__(self, "id2label", tuple(f"LABEL_{number}" for number in range(self.num_labels or 0)))
        if len(self.id2label) != self.num_labels:
            raise ConfigError(f"num_labels is {self.num_labels}, and id2label names {len(self.id2label)}")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} cannot be split evenly over num_attention_heads "
                f"{self.num_attention_heads}: the heads must divide it"
            )
        if self.parameter_count > MOST_PARAMETERS:
            raise ConfigError(
                f"these sizes make {self.parameter_count:,} parameters, over the limit of {MOST_PARAMETERS:,}: "
                "check hidden_size, intermediate_size, num_hidden_layers and vocab_size"
            )

    @property
    def head_width(self) -> int:
        """Width of one attention head: W = D / H."""
        return self.hidden_size // self.num_attention_heads

    @property
    def parameter_count(self) -> int:
        """Parameters of a `BertModel` of these sizes, pooler included."""
        d, f = self.hidden_size, self.intermediate_size
        norm = 2 * d
        embeddings = (self.vocab_size + self.max_position_embeddings + self.type_vocab_size) * d + norm
        layer = 4 * (d * d + d) + norm + (d * f + f) + (f * d + d) + norm
        if self.position_embedding_type != "absolute":
            layer += (2 * self.max_position_embeddings - 1) * self.head_width
        return embeddings + self.num_hidden_layers * layer + (d * d + d)

    def summary(self) -> str:
        """The sizes in two lines, to be read: `print(model.config.summary())`."""
        return (
            f"BERT: {self.num_hidden_layers} layers, hidden size {self.hidden_size}, {self.num_attention_heads} heads "
            f"of size {self.head_width}, feed-forward size {self.intermediate_size} ({self.hidden_act})\n"
            f"{self.vocab_size:,} tokens in the vocabulary, at most {self.max_position_embeddings} in a sequence, "
            f"{self.type_vocab_size} segments"
        )

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "BertConfig":
        """Reads the fields of a `config.json`; fields that do not change the network are passed over.

        Raises:
            ConfigError: the fields describe another network (see `ONLY`), or a value does not hold.
        """
        for field, only in ONLY.items():
            value = fields.get(field)
            if value is not None and value != only:
                raise ConfigError(f"{field} is {reprlib.repr(value)}, and minibert can only compute {only!r}")
        known = {name: fields[name] for name in FIELDS if name in fields}
        if "torch_dtype" in fields:  # its older name
            known.setdefault("dtype", fields["torch_dtype"])
        if known.get("num_labels") not in (None, len(_labels(known.get("id2label")))):
            known.pop("id2label", None)  # the count is newer than the names, as transformers sees it
        return cls(**known)

    @classmethod
    def from_json_file(cls, file: str | Path, **changes: Any) -> "BertConfig":
        """Reads a checkpoint's `config.json`; `changes` are fields that replace the file's, such as `num_labels=5`.

        Raises:
            CheckpointNotFoundError: there is no such file.
            ConfigError: it is not JSON, or not the config of a BERT we can build; the message names the file.
        """
        file = Path(file)
        fields = read_object(file, ConfigError)
        unknown = changes.keys() - set(FIELDS)
        if unknown:
            raise ConfigError(f"{min(unknown)} is no setting of a BERT; these are: {', '.join(FIELDS)}")
        if "id2label" in changes:
            fields.pop("num_labels", None)  # the names that are asked for count more than the file's number of them
        try:
            return cls.from_dict({**fields, **changes})
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The fields of a `config.json` that any BERT implementation reads back as this network."""
        fields = {"model_type": "bert", **dataclasses.asdict(self)}
        del fields["num_labels"]  # it is the number of names
        fields["id2label"] = dict(enumerate(self.id2label))
        fields["label2id"] = {name: number for number, name in enumerate(self.id2label)}
        return fields


FIELDS = tuple(field.name for field in dataclasses.fields(BertConfig))


def _labels(id2label: Any) -> tuple[str, ...]:
    """The names of the classes in order, from {0: name, …} with numbers or digits, or a sequence of names."""
    if isinstance(id2label, dict):
        try:
            numbered = {int(number): name for number, name in id2label.items()}
        except (TypeError, ValueError, OverflowError):
            numbered = {}
        id2label = [numbered.get(number) for number in range(len(id2label))]
    if id2label is None:
        return ()
    if isinstance(id2label, list | tuple):  # some files have numbers for names
        id2label = [str(name) if isinstance(name, int) else name for name in id2label]
    if not isinstance(id2label, list | tuple) or not all(isinstance(name, str) for name in id2label):
        raise ConfigError("id2label must name the classes 0, 1, 2, … without a gap, in strings")
    return tuple(id2label)


Choice = TypeVar("Choice")


def choose(table: dict[str, Choice], setting: str, name: str) -> Choice:
    """What `table` has under `name`; raises a `ConfigError` that lists the names there are."""
    if not isinstance(name, str) or name not in table:
        raise ConfigError(f"{setting} {name!r} is not one of {', '.join(table)}")
    return table[name]


def _check_whole_number(field: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{field} must be a whole number from {low:,} to {high:,}, not {reprlib.repr(value)}")


def _check_number(field: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or value == math.inf:
        raise ConfigError(f"{field} must be a number from {low} to {high}, not {reprlib.repr(value)}")
