"""How do the first steps of training go, number by number?

`train_steps` trains a model on a few batches and returns what can be compared: the loss of each step, the gradients of
the first, and the parameters after the last. Another implementation of the same network, trained on the same batches
with the same optimiser and seed, must give the same numbers.

The recipe is that of BERT (Devlin et al. 2019, appendix A.2; `optimization.py` of google-research/bert) as it is used
with PyTorch: AdamW with weight decay, but none on biases and LayerNorms; a learning rate that rises and falls linearly;
gradients clipped to a norm of 1; dropout on. BERT's own code differs in three details: its Adam does not correct the
bias of its averages, its ε is 1e-6, and after the warm-up its learning rate is on the line that falls from the first
step to the last.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from minibert.checkpoints.loading import Pretrained
from minibert.config import BertConfig
from minibert.heads import (
    IGNORED,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForTokenClassification,
    bert_in,
)
from minibert.trace.compare import Values, example_inputs
from minibert.training.optimizer import learning_rate, parameter_groups

Batch = dict[str, Tensor]  # the arguments of one call, labels included

WARM_UP = 2  # steps: with five, the learning rate is 0, 1/2, 1, 2/3 and 1/3 of the highest one
LEARNING_RATE = 1e-3  # high, so that a few steps change every bit of a parameter
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
SELECTED = 0.15  # the share of tokens that a masked language model predicts (BERT, 3.1)


@dataclass(frozen=True)
class TrainingSteps:
    """What a few steps of training gave."""

    losses: tuple[Tensor, ...]  # of each step, ()
    gradients: Values  # of the first step, before clipping, by parameter
    parameters: Values  # after the last step

    def named(self) -> Values:
        """Each value by a name that also says after which step, in the order computed."""
        losses = {f"step {number}: loss": loss for number, loss in enumerate(self.losses, start=1)}
        gradients = {f"step 1: gradient of {name}": gradient for name, gradient in reversed(self.gradients.items())}
        last = f"after step {len(self.losses)}"
        trained = {f"{last}: {name}": parameter for name, parameter in self.parameters.items()}
        return {"step 1: loss": self.losses[0]} | gradients | losses | trained  # a key remains where it was first


def train_steps(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], batches: Sequence[Batch], seed: int = 0
) -> TrainingSteps:
    """Trains a model for one step on each batch, and gives its parameters their old values back.

    Args:
        model: returns an output whose `loss` is a tensor (), given a batch: one of ours with a head, or another
            implementation.
        parameters: what is trained, each by our name for it.
        batches: the arguments of each call, labels included.
        seed: what dropout draws from. PyTorch's global generator is afterwards as it was.
    """
    losses: list[Tensor] = []
    gradients: Values = {}
    # The norm that clips is a sum over all parameters and rounds by their order: by name, it is one order for everyone.
    in_order = [parameters[name] for name in sorted(parameters)]
    with _copied(in_order), _in_training(model, seed):
        optimizer = AdamW(parameter_groups(nn.ParameterList(in_order), WEIGHT_DECAY))
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, peak=LEARNING_RATE, warmup=WARM_UP, steps=len(batches))
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            losses.append(loss.detach())
            if not gradients:
                gradients = {name: _gradient(parameter) for name, parameter in parameters.items()}
            clip_grad_norm_(in_order, CLIP_NORM)
            optimizer.step()
        optimizer.zero_grad()
        trained = {name: parameter.detach() for name, parameter in parameters.items()}
    return TrainingSteps(tuple(losses), gradients, trained)


def training_batch(model: Pretrained, seed: int) -> Batch:
    """Random inputs, some of them padded, and random labels, for a model with heads."""
    inputs = example_inputs(bert_in(model), seed)
    labels = _labels(model, inputs["attention_mask"], torch.Generator().manual_seed(seed))
    if isinstance(model, BertForMultipleChoice):  # the texts are the choices of one question
        inputs = {name: tensor[None] for name, tensor in inputs.items()}  # (N, S) → (1, N, S)
    return inputs | labels


def _labels(model: Pretrained, mask: Tensor, generator: torch.Generator) -> Batch:
    """Random labels for the heads of a model, whose attention mask is (B, S)."""

    def draw(below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=generator)

    rows, length = mask.shape
    if isinstance(model, BertForMaskedLM | BertForPreTraining):
        ignored = (torch.rand(mask.shape, generator=generator) > SELECTED) | (mask == 0)
        ignored[:, 0] = False  # a loss over no label at all would be NaN
        words = draw(model.config.vocab_size, rows, length).masked_fill(ignored, IGNORED)
        both = {"labels": words, "next_sentence_label": draw(2, rows)}
        return both if isinstance(model, BertForPreTraining) else {"labels": words}
    if isinstance(model, BertForQuestionAnswering):
        return {"start_positions": draw(length, rows), "end_positions": draw(length, rows)}
    if isinstance(model, BertForTokenClassification):
        return {"labels": draw(len(model.config.id2label), rows, length).masked_fill(mask == 0, IGNORED)}
    if isinstance(model, BertForMultipleChoice):
        return {"labels": draw(rows, 1)}
    if isinstance(model, BertForNextSentencePrediction):
        return {"labels": draw(2, rows)}
    return {"labels": _labels_of_texts(model.config, rows, generator)}


def _labels_of_texts(config: BertConfig, rows: int, generator: torch.Generator) -> Tensor:
    """Random labels for `BertForSequenceClassification`: (B,) classes, or (B, C) numbers."""
    classes = len(config.id2label)
    if config.problem_type == "multi_label_classification":
        return torch.randint(2, (rows, classes), generator=generator).float()
    if config.problem_type == "regression" or (config.problem_type is None and classes == 1):
        return torch.randn(rows, classes, generator=generator).squeeze(1)  # (B, 1) → (B), else (B, C)
    return torch.randint(classes, (rows,), generator=generator)


def _gradient(parameter: nn.Parameter) -> Tensor:
    """A copy of a parameter's gradient; 0 if the loss does not depend on the parameter."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()


@contextmanager
def _copied(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside the block, parameters are contiguous copies of themselves.

    A product rounds by where in memory its numbers are, and the tensors of a file may be anywhere. Copies of two models
    are at addresses alike.
    """
    kept = [(parameter, parameter.data) for parameter in parameters]
    try:
        for parameter, data in kept:
            parameter.data = data.clone(memory_format=torch.contiguous_format)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


@contextmanager
def _in_training(model: nn.Module, seed: int) -> Iterator[None]:
    """Inside the block, dropout is on and draws from this seed, and gradients are computed."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            model.train()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
