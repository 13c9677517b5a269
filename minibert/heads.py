"""What is trained on top of a BERT?

Each class is a `BertModel`, available as `model.bert`, with a head of one or two more layers. Given labels, it also
returns the training loss. Names, arguments and losses are those of `transformers`.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.checkpoints import layout, weights
from minibert.checkpoints.json_files import read_object
from minibert.checkpoints.loading import Pretrained
from minibert.checkpoints.names import canonical_name, wrapper_prefix
from minibert.checks import check_dense
from minibert.config import BertConfig, choose
from minibert.errors import ConfigError, InputError
from minibert.inputs import FLOATS, IDS, INTEGERS, check_device, check_tensor, has_shape, has_values
from minibert.model import ACTIVATIONS, BertModel, BertOutput, initialise

IGNORED = -100  # the label of a position that does not count in the loss


class HeadOutput(NamedTuple):
    """What a model with one head returns. `out[0]` is the loss, or None without labels."""

    loss: Tensor | None  # ()
    logits: Tensor  # scores before any softmax, in the shape that the class gives
    hidden_states: tuple[Tensor, ...] | None = None  # L + 1 of (B, S, D)
    attentions: tuple[Tensor, ...] | None = None  # L of (B, H, S, T)


class PreTrainingOutput(NamedTuple):
    """What `BertForPreTraining` returns."""

    loss: Tensor | None  # ()
    prediction_logits: Tensor  # (B, S, V)
    seq_relationship_logits: Tensor  # (B, 2)
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class QuestionAnsweringOutput(NamedTuple):
    """What `BertForQuestionAnswering` returns."""

    loss: Tensor | None  # ()
    start_logits: Tensor  # (B, S)
    end_logits: Tensor  # (B, S)
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class MaskedLMHead(nn.Module):
    """Scores every word of the vocabulary at every position (BERT, 3.1, task 1).

    The decoder is tied: it has only a bias of its own, and scores with the word embedding table, an argument.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        if not config.tie_word_embeddings:
            raise ConfigError("tie_word_embeddings must be True, got False: the decoder is the word embedding table")
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = choose(ACTIVATIONS, "hidden_act", config.hidden_act)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        transformed = self.norm(self.activation(self.dense(hidden)))  # (B, S, D) → (B, S, D)
        return F.linear(transformed, word_embeddings, self.bias)  # (B, S, D) @ (D, V) → (B, S, V)


class BertWithHead(Pretrained):
    """What the classes below share: a BERT, a score computed from its output, and a loss."""

    needs_pooler = True
    initialise = staticmethod(initialise)  # for the parameters that a checkpoint lacks

    def __init__(self, config: BertConfig, attention: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.bert = BertModel(config, attention, add_pooling_layer=self.needs_pooler)

    def score(self, out: BertOutput) -> Tensor:
        """Returns the logits, in the shape that the class gives."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the training loss, a single number."""
        return class_loss(logits, labels)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> HeadOutput:
        """Inputs are those of `BertModel`; `labels` have the logits' shape without its last axis, or as the class says.

        Raises:
            InputError: inputs or labels that do not fit; the message says which.
        """
        out = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, output_hidden_states, output_attentions
        )
        logits = self.score(out)
        loss = None if labels is None else self.loss(logits, labels)
        return HeadOutput(loss, logits, out.hidden_states, out.attentions)


class BertForMaskedLM(BertWithHead):
    """Predicts masked words: logits (B, S, V) (BERT, 3.1, task 1).

    `labels` (B, S): the ids of the masked words, and -100, for which no loss is computed, everywhere else.
    """

    needs_pooler = False

    def __init__(self, config: BertConfig, attention: str = "sdpa") -> None:
        super().__init__(config, attention)
        self.masked_lm = MaskedLMHead(config)
        initialise(self.masked_lm, config.initializer_range)

    def score(self, out: BertOutput) -> Tensor:
        return self.masked_lm(out.last_hidden_state, self.bert.embeddings.word_embeddings.weight)


class BertForNextSentencePrediction(BertWithHead):
    """Predicts whether the second text follows the first: logits (B, 2) (BERT, 3.1, task 2).

    `labels` (B,): 0 if it does, 1 if it is a random text.
    """

    def __init__(self, config: BertConfig, attention: str = "sdpa") -> None:
        super().__init__(config, attention)
        self.next_sentence = nn.Linear(config.hidden_size, 2)
        initialise(self.next_sentence, config.initializer_range)

    def score(self, out: BertOutput) -> Tensor:
        return self.next_sentence(out.pooler_output)  # (B, D) → (B, 2)


class BertForPreTraining(BertWithHead):
    """Both pretraining tasks of BERT: logits for words (B, S, V) and for the next sentence (B, 2)."""

    def __init__(self, config: BertConfig, attention: str = "sdpa") -> None:
        super().__init__(config, attention)
        self.masked_lm = MaskedLMHead(config)
        self.next_sentence = nn.Linear(config.hidden_size, 2)
        initialise(self.masked_lm, config.initializer_range)
        initialise(self.next_sentence, config.initializer_range)

    def forward(  # type: ignore[override]  # two heads, two logits, two kinds of labels
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> PreTrainingOutput:
        """Arguments are those of the two heads; the loss is the sum of their losses and needs both kinds of labels."""
        out = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, output_hidden_states, output_attentions
        )
        words = self.masked_lm(out.last_hidden_state, self.bert.embeddings.word_embeddings.weight)
        follows = self.next_sentence(out.pooler_output)  # (B, D) → (B, 2)
        loss = None
        if labels is not None and next_sentence_label is not None:
            loss = class_loss(words, labels) + class_loss(follows, next_sentence_label, "next_sentence_label")
        return PreTrainingOutput(loss, words, follows, out.hidden_states, out.attentions)


class BertForSequenceClassification(BertWithHead):
    """Predicts one of C classes, several of them, or numbers, for a text or pair: logits (B, C) (BERT, 4.1).

    `labels` and the loss, by `config.problem_type`:
        "single_label_classification": (B,) integers; cross entropy
        "multi_label_classification": (B, C) of 0.0 and 1.0; binary cross entropy
        "regression": (B,) or (B, C) numbers; mean squared error
    If it is None, a config with one label means regression; otherwise the dtype of the labels decides.
    """

    def __init__(self, config: BertConfig, attention: str = "sdpa") -> None:
        super().__init__(config, attention)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, len(config.id2label))
        initialise(self.classifier, config.initializer_range)

    def score(self, out: BertOutput) -> Tensor:
        return self.classifier(self.dropout(out.pooler_output))  # (B, D) → (B, C)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        check_labels("labels", labels, logits, INTEGERS + FLOATS)
        problem, classes = self.config.problem_type, int(logits.shape[-1])
        if problem is None and classes == 1:
            problem = "regression"
        if problem == "single_label_classification" or (problem is None and not labels.is_floating_point()):
            return class_loss(logits, labels)
        allowed = [logits.shape, logits.shape[:-1]] if classes == 1 else [logits.shape]  # (B, 1) or (B,)
        if not has_shape(labels, *allowed):
            raise InputError(f"labels must be {tuple(logits.shape)} like the logits, got {tuple(labels.shape)}")
        labels = labels.to(logits.dtype).reshape_as(logits)
        if problem == "regression":
            return F.mse_loss(logits, labels)
        if has_values(labels) and not ((labels == 0) | (labels == 1)).all():
            raise InputError("labels must be 1 for each class that applies and 0 for the rest, got other values")
        return F.binary_cross_entropy_with_logits(logits, labels)


class BertForTokenClassification(BertWithHead):
    """Predicts a class for every token, as in named-entity recognition: logits (B, S, C) (BERT, 5.3).

    `labels` (B, S): classes, and -100 for tokens without a loss.
    """

    needs_pooler = False

    def __init__(self, config: BertConfig, attention: str = "sdpa") -> None:
        super().__init__(config, attention)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, len(config.id2label))
        initialise(self.classifier, config.initializer_range)

    def score(self, out: BertOutput) -> Tensor:
        return self.classifier(self.dropout(out.last_hidden_state))  # (B, S, D) → (B, S, C)


class BertForMultipleChoice(BertWithHead):
    """Predicts which of N choices fits: inputs (B, N, S), logits (B, N) (BERT, 4.4). `labels` (B,): the right one."""

    def __init__(self, config: BertConfig, attention: str = "sdpa") -> None:
        super().__init__(config, attention)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, 1)
        initialise(self.classifier, config.initializer_range)

    def score(self, out: BertOutput) -> Tensor:
        return self.classifier(self.dropout(out.pooler_output))  # (B·N, D) → (B·N, 1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> HeadOutput:
        """Inputs are (B, N, S); hidden states and attention probabilities are those of B·N texts."""
        check_tensor("input_ids", input_ids, IDS)
        if input_ids.dim() != 3 or (not torch.jit.is_tracing() and 0 in input_ids.shape):
            shape = tuple(input_ids.shape)
            raise InputError(f"input_ids must be (batch, choices, sequence) and not empty, got {shape}")

        def flat(name: str, inputs: Tensor | None) -> Tensor | None:
            if not isinstance(inputs, Tensor):
                return inputs  # None, or what `check_inputs` will refuse
            check_dense(name, inputs)
            if not has_shape(inputs, input_ids.shape):
                raise InputError(f"{name} must be {tuple(input_ids.shape)} like input_ids, got {tuple(inputs.shape)}")
            return inputs.flatten(0, 1)  # (B, N, S) → (B·N, S)

        out = super().forward(
            input_ids.flatten(0, 1),  # (B, N, S) → (B·N, S)
            flat("attention_mask", attention_mask),
            flat("token_type_ids", token_type_ids),
            flat("position_ids", position_ids),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = out.logits.view(input_ids.shape[:2])  # (B·N, 1) → (B, N)
        return out._replace(logits=logits, loss=None if labels is None else class_loss(logits, labels))


class BertForQuestionAnswering(BertWithHead):
    """Predicts where in the text an answer starts and ends: two logits for every token (BERT, 4.2).

    `start_positions`, `end_positions` (B,): its first and last token; the loss is the mean of both. Positions outside
    the sequence do not count.
    """

    needs_pooler = False

    def __init__(self, config: BertConfig, attention: str = "sdpa") -> None:
        super().__init__(config, attention)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        initialise(self.qa_outputs, config.initializer_range)

    def forward(  # type: ignore[override]  # two logits, two kinds of labels
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> QuestionAnsweringOutput:
        """Inputs are those of `BertModel`; the loss needs both positions."""
        out = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, output_hidden_states, output_attentions
        )
        start, end = self.qa_outputs(out.last_hidden_state).unbind(dim=-1)  # (B, S, D) → (B, S, 2) → twice (B, S)
        start, end = start.contiguous(), end.contiguous()
        loss = None
        if start_positions is not None and end_positions is not None:
            start_loss = position_loss(start, start_positions, "start_positions")
            loss = (start_loss + position_loss(end, end_positions, "end_positions")) / 2
        return QuestionAnsweringOutput(loss, start, end, out.hidden_states, out.attentions)


def classifier_dropout(config: BertConfig) -> float:
    """Returns the dropout probability before a classifier."""
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


def check_labels(name: str, labels: Tensor, logits: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    """Raises an `InputError` unless the labels are a dense tensor of one of these dtypes, where the logits are."""
    check_tensor(name, labels, dtypes)
    check_device(name, labels, "the logits", logits)


def class_loss(logits: Tensor, labels: Tensor, name: str = "labels") -> Tensor:
    """Returns the cross entropy of logits (…, C) and labels (…), averaged over the labels that are not -100.

    `name` is what the labels are called in error messages.
    """
    check_labels(name, labels, logits, INTEGERS)
    if not has_shape(labels, logits.shape[:-1]):
        raise InputError(f"{name} must be {tuple(logits.shape[:-1])}, one for each position, got {tuple(labels.shape)}")
    labels, classes = labels.long(), int(logits.shape[-1])  # before any comparison: in uint8, -100 is 156
    invalid = (labels != IGNORED) & ((labels < 0) | (labels >= classes))
    if has_values(labels) and invalid.any():
        allowed = f"integers from 0 to {classes - 1}, or {IGNORED} for positions without a label"
        raise InputError(f"{name} must be {allowed}, got {int(labels[invalid][0])}")
    return F.cross_entropy(logits.reshape(-1, classes), labels.reshape(-1), ignore_index=IGNORED)


def position_loss(logits: Tensor, positions: Tensor, name: str) -> Tensor:
    """Returns the cross entropy of logits (B, S) and positions (B,); those after the last token do not count."""
    check_labels(name, positions, logits, INTEGERS)
    positions = positions.long().clamp(min=0)
    return class_loss(logits, positions.masked_fill(positions >= logits.shape[1], IGNORED), name)


def bert_in(model: nn.Module) -> BertModel:
    """The one BERT inside a model: the model itself, or the BERT below a head or any other module.

    Raises:
        InputError: there is none, or there are several.
    """
    modules = model.modules() if isinstance(model, nn.Module) else ()
    found = [module for module in modules if isinstance(module, BertModel)]
    if len(found) != 1:
        raise InputError(f"model must contain exactly one BertModel, and {type(model).__name__} has {len(found)}")
    return found[0]


HEADS: dict[str, type[Pretrained]] = {
    head.__name__: head
    for head in (
        BertForPreTraining,
        BertForMaskedLM,
        BertForNextSentencePrediction,
        BertForSequenceClassification,
        BertForTokenClassification,
        BertForQuestionAnswering,
        BertForMultipleChoice,
    )
}


def model_class(folder: Path) -> type[Pretrained]:
    """Returns the class that has all heads of a checkpoint.

    The tensors show which heads there are. Only "architectures" in the config distinguishes a classifier of texts from
    one of tokens or choices.

    Raises:
        CheckpointNotFoundError, ConfigError, CheckpointError: as `from_pretrained` does.
    """
    fields = read_object(layout.config_file(folder), ConfigError)
    names = list(weights.read(folder)[1])
    wrapper = wrapper_prefix(names)
    parts = {canonical_name(name, wrapper).rpartition(".")[0] for name in names}
    has_masked_lm, has_next_sentence = "cls.predictions" in parts, "cls.seq_relationship" in parts
    if has_masked_lm and has_next_sentence:
        return BertForPreTraining
    if has_masked_lm:
        return BertForMaskedLM
    if has_next_sentence:
        return BertForNextSentencePrediction
    if "qa_outputs" in parts:
        return BertForQuestionAnswering
    if "classifier" in parts:
        named = fields.get("architectures")
        for kind in (BertForSequenceClassification, BertForTokenClassification, BertForMultipleChoice):
            if isinstance(named, list) and kind.__name__ in named:
                return kind
        return BertForSequenceClassification if "pooler.dense" in parts else BertForTokenClassification
    return BertModel
