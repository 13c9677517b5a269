"""Training is exact as well: every loss, every gradient of the first step and every weight after the last one.

Our side is trained by `train_steps`. The reference is a loop of its own, below, as people write it who fine-tune with
transformers: their model, their schedule, and groups for weight decay by their names. The two share the start, the
batches, the seed, and nothing else.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from torch import Tensor, nn

import minibert
from minibert import BertConfig
from minibert.checkpoints.loading import Pretrained
from minibert.checkpoints.names import parameter_name
from minibert.model import ACTIVATIONS, EncoderLayer
from minibert.trace import training_steps
from minibert.trace.training_steps import TrainingSteps, train_steps

STEPS = 4
SEED = 3  # of dropout
Batch = dict[str, Tensor]


# --- Networks, batches and labels, at random --------------------------------------------------------------------------


def random_config(draw: random.Random, **changes: Any) -> BertConfig:
    heads = draw.randint(1, 4)
    return BertConfig(
        vocab_size=draw.randint(8, 60),
        hidden_size=heads * draw.randint(2, 12),
        num_hidden_layers=draw.randint(1, 3),
        num_attention_heads=heads,
        intermediate_size=draw.randint(1, 50),
        hidden_act=draw.choice(list(ACTIVATIONS)),
        hidden_dropout_prob=draw.uniform(0.05, 0.5),
        attention_probs_dropout_prob=draw.uniform(0.05, 0.5),
        classifier_dropout=draw.choice([None, 0.3]),
        max_position_embeddings=draw.randint(8, 12),
        type_vocab_size=draw.randint(1, 3),
        layer_norm_eps=draw.choice([1e-12, 1e-5]),
        pad_token_id=draw.choice([None, 0, 5]),
        **changes,
    )


def random_inputs(draw: random.Random, config: BertConfig) -> Batch:
    """Texts of several lengths, padded on the right, on the left or not at all."""
    rows, length = draw.randint(1, 4), draw.randint(2, 8)
    lengths = [draw.randint(2, length) for _ in range(rows)]
    mask = torch.tensor([[int(position < each) for position in range(length)] for each in lengths])
    side = draw.choice(["right", "left", "none"])
    inputs = {
        "input_ids": torch.randint(config.vocab_size, (rows, length)),
        "token_type_ids": torch.randint(config.type_vocab_size, (rows, length)),
    }
    if side == "none":
        return inputs
    return inputs | {"attention_mask": mask.flip(1) if side == "left" else mask}


def words(config: BertConfig, shape: torch.Size) -> Batch:
    labels = torch.randint(config.vocab_size, shape).masked_fill(torch.rand(shape) < 0.5, -100)
    labels[0, 0] = 1  # a loss without any label would be NaN
    return {"labels": labels}


def follows(config: BertConfig, shape: torch.Size) -> Batch:
    return {"labels": torch.randint(2, shape[:1])}


def both_tasks(config: BertConfig, shape: torch.Size) -> Batch:
    return words(config, shape) | {"next_sentence_label": torch.randint(2, shape[:1])}


def classes(config: BertConfig, shape: torch.Size) -> Batch:
    return {"labels": torch.randint(len(config.id2label), shape[:1])}


def several_classes(config: BertConfig, shape: torch.Size) -> Batch:
    return {"labels": torch.randint(2, (shape[0], len(config.id2label))).float()}


def number(config: BertConfig, shape: torch.Size) -> Batch:
    return {"labels": torch.randn(shape[0])}


def numbers(config: BertConfig, shape: torch.Size) -> Batch:
    return {"labels": torch.randn(shape[0], len(config.id2label))}


def classes_of_tokens(config: BertConfig, shape: torch.Size) -> Batch:
    labels = torch.randint(len(config.id2label), shape).masked_fill(torch.rand(shape) < 0.3, -100)
    labels[0, 0] = 1
    return {"labels": labels}


def answers(config: BertConfig, shape: torch.Size) -> Batch:
    """Some of them outside the text, where they do not count."""
    start, end = torch.randint(shape[1] + 2, shape[:1]), torch.randint(shape[1] + 2, shape[:1])
    start[0], end[0] = 0, 1
    return {"start_positions": start, "end_positions": end}


THREE = ("O", "PER", "LOC")
# By a name: the class, its labels, and changes to the config.
CASES: dict[str, tuple[str, Callable[[BertConfig, torch.Size], Batch], dict[str, Any]]] = {
    "masked words": ("BertForMaskedLM", words, {}),
    "pretraining": ("BertForPreTraining", both_tasks, {}),
    "next sentence": ("BertForNextSentencePrediction", follows, {}),
    "a class": ("BertForSequenceClassification", classes, {"id2label": THREE}),
    "several classes": (
        "BertForSequenceClassification",
        several_classes,
        {"id2label": THREE, "problem_type": "multi_label_classification"},
    ),
    "a number": ("BertForSequenceClassification", number, {"id2label": ("score",)}),
    "numbers": ("BertForSequenceClassification", numbers, {"id2label": THREE, "problem_type": "regression"}),
    "a class per token": ("BertForTokenClassification", classes_of_tokens, {"id2label": THREE}),
    "an answer": ("BertForQuestionAnswering", answers, {}),
    "a choice": ("BertForMultipleChoice", classes, {"id2label": THREE}),
}


def batch(draw: random.Random, case: str, config: BertConfig, dtype: torch.dtype) -> Batch:
    kind, label, _ = CASES[case]
    torch.manual_seed(draw.randrange(2**32))
    inputs = random_inputs(draw, config)
    labels = label(config, inputs["input_ids"].shape)
    if kind == "BertForMultipleChoice":  # (B, S) → (B, N, S)
        inputs = {name: torch.stack([each, each.flip(0), each.flip(1)], dim=1) for name, each in inputs.items()}
    return inputs | {name: each.to(dtype) if each.is_floating_point() else each for name, each in labels.items()}


def twins(draw: random.Random, case: str, attention: str, dtype: torch.dtype) -> tuple[Pretrained, nn.Module]:
    """Our model and that of transformers, with the same random weights."""
    kind, _, changes = CASES[case]
    config = random_config(draw, **changes)
    theirs = getattr(transformers, kind)(transformers.BertConfig(**config.to_dict(), attn_implementation=attention))
    torch.manual_seed(draw.randrange(2**32))
    for name, parameter in theirs.named_parameters():
        parameter.data = (1 if name.endswith("LayerNorm.weight") else 0) + 0.3 * torch.randn(parameter.shape)
    theirs.tie_weights()
    ours = getattr(minibert, kind)(config, attention=attention)
    ours.load_state_dict({parameter_name(name): value for name, value in theirs.named_parameters()})
    return ours.to(dtype), theirs.to(dtype)


# --- The reference ----------------------------------------------------------------------------------------------------


def train_reference(model: nn.Module, batches: list[Batch]) -> TrainingSteps:
    """Trains the model of transformers, with its schedule and PyTorch's optimiser."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # at addresses like those of our copies: a product rounds by them
    # clip_grad_norm_ sums over the parameters in their order, which has to be the same on both sides: by our names.
    named = {parameter_name(name): (name, parameter) for name, parameter in model.named_parameters()}
    in_order = [named[name] for name in sorted(named)]
    undecayed = ("bias", "LayerNorm.weight")
    groups = [
        {"params": [p for name, p in in_order if not name.endswith(undecayed)], "weight_decay": 0.01},
        {"params": [p for name, p in in_order if name.endswith(undecayed)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 2, len(batches))
    torch.manual_seed(SEED)  # once: the two sides are trained one after the other, and draw as often at every step
    model.train()
    losses, gradients = [], {}
    for number, inputs in enumerate(batches):
        loss = model(**inputs).loss
        loss.backward()
        losses.append(loss.detach())
        if number == 0:
            gradients = {name: parameter.grad.clone() for name, (_, parameter) in named.items()}
        torch.nn.utils.clip_grad_norm_([parameter for _, parameter in in_order], max_norm=1.0)
        optimizer.step()
        schedule.step()
        model.zero_grad()
    return TrainingSteps(tuple(losses), gradients, {name: parameter.data for name, (_, parameter) in named.items()})


def differences(ours: TrainingSteps, theirs: TrainingSteps) -> list[str]:
    """The names of the values that are not equal, in the order computed."""
    a, b = ours.named(), theirs.named()
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


# --- Equal, to the last bit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", CASES)
@examples(2)
@given(seed=st.integers(0, 2**32 - 1))
def test_training_is_equal(case: str, attention: str, dtype: torch.dtype, seed: int) -> None:
    draw = random.Random(f"{case}, {attention}, {dtype}, {seed}")  # another network for each
    ours, theirs = twins(draw, case, attention, dtype)
    batches = [batch(draw, case, ours.config, dtype) for _ in range(STEPS)]
    trained = train_steps(ours, dict(ours.named_parameters()), batches, SEED)
    assert differences(trained, train_reference(theirs, batches)) == []


# --- And it has to go red: each mistake, alone ------------------------------------------------------------------------

Mistake = Callable[[pytest.MonkeyPatch, Pretrained], None]


def dropout_after_the_sum(patch: pytest.MonkeyPatch, model: Pretrained) -> None:
    def forward(self: EncoderLayer, hidden: Tensor, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        attended, probabilities = self.attention(hidden, *arguments)
        hidden = self.attention_norm(self.dropout(hidden + attended))
        return self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden))), probabilities

    patch.setattr(EncoderLayer, "forward", forward)


def no_dropout_on_attention(patch: pytest.MonkeyPatch, model: Pretrained) -> None:
    for layer in model.bert.encoder.layers:
        patch.setattr(layer.attention, "dropout", 0.0)


def no_dropout_before_the_classifier(patch: pytest.MonkeyPatch, model: Pretrained) -> None:
    patch.setattr(model.dropout, "p", 0.0)


def evaluation_mode(patch: pytest.MonkeyPatch, model: Pretrained) -> None:
    patch.setattr(model, "train", lambda: nn.Module.train(model, False))


def loss_summed(patch: pytest.MonkeyPatch, model: Pretrained) -> None:
    patch.setattr(model, "loss", lambda logits, labels: F.cross_entropy(logits, labels, reduction="sum"))


def padding_embedding_trained(patch: pytest.MonkeyPatch, model: Pretrained) -> None:
    patch.setattr(model.bert.embeddings.word_embeddings, "padding_idx", None)


def gradients_not_cleared(patch: pytest.MonkeyPatch, model: Pretrained) -> None:
    patch.setattr(torch.optim.AdamW, "zero_grad", lambda optimizer: None)  # the reference calls that of the model


def no_warm_up(patch: pytest.MonkeyPatch, model: Pretrained) -> None:
    patch.setattr(training_steps, "WARM_UP", 0)


def no_decay_of_the_learning_rate(patch: pytest.MonkeyPatch, model: Pretrained) -> None:
    patch.setattr(training_steps, "learning_rate", lambda step, *, peak, warmup, steps: peak * min(1.0, step / warmup))


def no_clipping(patch: pytest.MonkeyPatch, model: Pretrained) -> None:
    patch.setattr(training_steps, "clip_grad_norm_", lambda parameters, norm: None)


def weight_decay_on_layer_norms(patch: pytest.MonkeyPatch, model: Pretrained) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def groups(listed: nn.ParameterList, weight_decay: float) -> list[dict[str, Any]]:
        parameters = list(listed)
        decayed = [p for p in parameters if names[id(p)].endswith("weight")]
        return [
            {"params": decayed, "weight_decay": 0.01},
            {"params": [p for p in parameters if names[id(p)].endswith("bias")], "weight_decay": 0.0},
        ]

    patch.setattr(training_steps, "parameter_groups", groups)


# The mistake, and the first value that it changes. The first update has the learning rate 0, so a mistake in the update
# shows in the third loss, after the second one.
MISTAKES: list[tuple[Mistake, str]] = [
    (dropout_after_the_sum, "step 1: loss"),
    (no_dropout_on_attention, "step 1: loss"),
    (no_dropout_before_the_classifier, "step 1: loss"),
    (evaluation_mode, "step 1: loss"),
    (loss_summed, "step 1: loss"),
    (padding_embedding_trained, "step 1: gradient of bert.embeddings.word_embeddings.weight"),
    (no_warm_up, "step 2: loss"),
    (gradients_not_cleared, "step 3: loss"),
    (no_clipping, "step 3: loss"),
    (weight_decay_on_layer_norms, "step 3: loss"),
    (no_decay_of_the_learning_rate, "after step 4: bert.embeddings.word_embeddings.weight"),
]


@pytest.mark.parametrize("mistake, first", MISTAKES, ids=[mistake.__name__ for mistake, _ in MISTAKES])
def test_a_mistake_is_seen(mistake: Mistake, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(8)
    ours, theirs = twins(draw, "a class", "eager", torch.float64)
    batches = [batch(draw, "a class", ours.config, torch.float64) for _ in range(STEPS)]
    mistake(monkeypatch, ours)
    trained = train_steps(ours, dict(ours.named_parameters()), batches, SEED)
    assert differences(trained, train_reference(theirs, batches))[0] == first
