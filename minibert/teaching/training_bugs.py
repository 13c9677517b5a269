"""What goes wrong when people train a BERT?

Each bug is a mistake that people make in one of the `TRAINING_PARTS`, as a function that makes it. Most raise no error,
and many leave a loss that falls: what is learned is worse, or nothing.

    with TRAINING_BUGS["no warm-up"].applied():
        pretrain(model, tokenizer, files, folder, settings)     # the rate begins at its peak

`diagnose_training` runs a student's function beside each of them: the one with the same numbers is the one that the
student made.
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minibert.heads import IGNORED
from minibert.teaching.parts import Function, patched
from minibert.teaching.training_parts import MAX_NORM, patched_method, replace_in_loop
from minibert.tokenizer import BertTokenizer
from minibert.training import packing, pretraining
from minibert.training.masking import MaskedTokens, mask_tokens
from minibert.training.optimizer import learning_rate
from minibert.training.packing import Input, sentence_pairs
from minibert.training.pretraining import Pretraining

Change = AbstractContextManager[None]


@dataclass(frozen=True)
class TrainingBug:
    """A mistake of training."""

    name: str  # what messages call it
    part: str  # the function of `TRAINING_PARTS` that it is made in
    explanation: str  # what the code does, and what it should do: a sentence for a learner
    seen_in: str  # where people meet it
    wrong: Function  # the part with this mistake
    change: Callable[[], Change] | None = None  # makes it in the training loop, if replacing the part does not

    def applied(self) -> Change:
        """Training has this bug inside the block, in the whole process, and is correct again after it."""
        return self.change() if self.change is not None else replace_in_loop(self.part, self.wrong)


TRAINING_BUGS: dict[str, TrainingBug] = {}


def bug(
    name: str, *, part: str, seen_in: str, explanation: str, change: Callable[[], Change] | None = None
) -> Callable[[Function], Function]:
    """Enters the function below it into the catalogue."""

    def register(wrong: Function) -> Function:
        TRAINING_BUGS[name] = TrainingBug(name, part, explanation, seen_in, wrong, change)
        return wrong

    return register


# --- masks ------------------------------------------------------------------------------------------------------------


def special_ids(tokenizer: BertTokenizer) -> Tensor:
    return torch.tensor([tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]")])


@bug(
    "labels not −100 where nothing is to be guessed",
    part="mask_tokens",
    seen_in="labels = input_ids.clone(), and no more",
    explanation="Every token has a label, also those that the model sees as they are: it learns to copy. Where no "
    "token was chosen, the label is −100, which the loss ignores.",
)
def labels_everywhere(input_ids: Tensor, tokenizer: BertTokenizer, **options: Any) -> MaskedTokens:
    hidden, _ = mask_tokens(input_ids, tokenizer, **options)
    return MaskedTokens(hidden, input_ids.clone())


@bug(
    "padding in the loss",
    part="mask_tokens",
    seen_in="torch.rand(input_ids.shape) < 0.15 on a padded batch",
    explanation="[PAD] is chosen like a word: the loss counts padding, which is easy to guess and says nothing of the "
    "text. Choose among the tokens that are not padding.",
)
def padding_in_the_loss(input_ids: Tensor, tokenizer: BertTokenizer, **options: Any) -> MaskedTokens:
    return choose_also(input_ids == tokenizer.pad_token_id, input_ids, tokenizer, options)


@bug(
    "special tokens to guess",
    part="mask_tokens",
    seen_in="a choice among all tokens that are not padding",
    explanation="[CLS] and [SEP] are chosen like words. They are never hidden: each is where it always is.",
)
def special_tokens_to_guess(input_ids: Tensor, tokenizer: BertTokenizer, **options: Any) -> MaskedTokens:
    return choose_also(torch.isin(input_ids, special_ids(tokenizer)), input_ids, tokenizer, options)


def choose_also(more: Tensor, input_ids: Tensor, tokenizer: BertTokenizer, options: dict[str, Any]) -> MaskedTokens:
    """Masks as if these positions had words as well."""
    word = tokenizer.convert_tokens_to_ids(tokenizer.unk_token)
    hidden, labels = mask_tokens(input_ids.masked_fill(more, word), tokenizer, **options)
    seen = torch.where(more & (hidden == word), input_ids, hidden)
    return MaskedTokens(seen, torch.where(labels == IGNORED, labels, input_ids))


@bug(
    "mask token never replaced",
    part="mask_tokens",
    seen_in="a masked copy that is not the one that is returned",
    explanation="The chosen tokens stay in the input: the model sees the word that it is to guess, and learns to copy "
    "it. Replace 80 % of them by [MASK].",
)
def mask_never_replaced(input_ids: Tensor, tokenizer: BertTokenizer, **options: Any) -> MaskedTokens:
    return MaskedTokens(input_ids.clone(), mask_tokens(input_ids, tokenizer, **options).labels)


@bug(
    "always [MASK]",
    part="mask_tokens",
    seen_in="hand-written masks",
    explanation="Every chosen token becomes [MASK]. In use there is no [MASK], so BERT replaces 80 % only, and leaves "
    "10 % as they are and makes 10 % a random token (BERT, 3.1).",
)
def always_mask(input_ids: Tensor, tokenizer: BertTokenizer, **options: Any) -> MaskedTokens:
    labels = mask_tokens(input_ids, tokenizer, **options).labels
    mask = tokenizer.convert_tokens_to_ids("[MASK]")
    return MaskedTokens(input_ids.masked_fill(labels != IGNORED, mask), labels)


@bug(
    "labels taken after masking",
    part="mask_tokens",
    seen_in="labels = input_ids without .clone(), and then input_ids[chosen] = …",
    explanation="The labels are what the model sees, mostly [MASK]; they are the original tokens.",
)
def labels_after_masking(input_ids: Tensor, tokenizer: BertTokenizer, **options: Any) -> MaskedTokens:
    hidden, labels = mask_tokens(input_ids, tokenizer, **options)
    return MaskedTokens(hidden, torch.where(labels == IGNORED, labels, hidden))


# --- pairs of sentences -----------------------------------------------------------------------------------------------


@bug(
    "B always follows",
    part="sentence_pairs",
    seen_in="pairs of neighbours",
    explanation="No B is random: there is nothing to tell apart. Half of them are from a different document.",
)
def b_always_follows(corpus: Any, length: int, seed: int = 0) -> list[Input]:
    return [pair for pair in sentence_pairs(corpus, length, seed) if not pair.is_random]


@bug(
    "labels of pairs swapped",
    part="sentence_pairs",
    seen_in="1 for IsNext, as the names suggest",
    explanation="1 is given to the pairs that follow each other. In BERT's code and checkpoints 0 means that B follows "
    "A, and 1 that it is random.",
)
def labels_swapped(corpus: Any, length: int, seed: int = 0) -> list[Input]:
    return [pair._replace(is_random=1 - pair.is_random) for pair in sentence_pairs(corpus, length, seed)]


@bug(
    "random B from the same document",
    part="sentence_pairs",
    seen_in="random.choice over the sentences at hand",
    explanation="A random B is from A's own document, and may even follow it. Draw a different document first.",
)
def random_from_the_same_document(corpus: Any, length: int, seed: int = 0) -> list[Input]:
    starts = corpus.sentences[corpus.documents]
    pairs = []
    for pair in sentence_pairs(corpus, length, seed):
        if pair.is_random:
            home = int(torch.bucketize(torch.tensor(pair.a_start), starts, right=True)) - 1
            first = int(starts[home])
            size = min(pair.b_end - pair.b_start, int(starts[home + 1]) - 1 - first)
            pair = pair._replace(b_start=first, b_end=first + size)
        pairs.append(pair)
    return pairs


@bug(
    "sentences lost after a random B",
    part="sentence_pairs",
    seen_in="loops that go on after the whole chunk",
    explanation="When B is random, the sentences after A are thrown away. Gather them again: they begin the next pair.",
)
def sentences_lost(corpus: Any, length: int, seed: int = 0) -> list[Input]:
    generator, most = random.Random(seed), length - 3
    documents = [packing._sentences_of(corpus, number) for number in range(len(corpus.documents) - 1)]
    pairs = []
    for number, sentences in enumerate(documents):
        for chunk in chunks(sentences, most):
            middle = generator.randint(1, max(1, len(chunk) - 1))  # where the sentences after A begin
            a, b = (chunk[0][0], chunk[middle - 1][1]), (chunk[middle - 1][1], chunk[-1][1])
            is_random = len(documents) > 1 and (len(chunk) == 1 or generator.random() < 0.5)
            if is_random:
                b = packing._elsewhere(documents, number, most - (a[1] - a[0]), generator)
            if b[1] > b[0]:
                pairs.append(Input(*packing._shortened(a, b, most, generator), int(is_random)))
    return pairs


def chunks(sentences: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    """Sentences of a document, until there are `size` tokens; and then the next ones."""
    chunk: list[tuple[int, int]] = []
    for sentence in sentences:
        chunk.append(sentence)
        if sentence[1] - chunk[0][0] >= size or sentence == sentences[-1]:
            yield chunk
            chunk = []


# --- the schedule -----------------------------------------------------------------------------------------------------


@bug(
    "no warm-up",
    part="learning_rate",
    seen_in="schedules that only fall",
    explanation="The first step has the full rate, when Adam knows least of how large gradients are. The rate rises "
    "from 0 in the warm-up.",
)
def no_warmup(step: int, *, peak: float, warmup: int, steps: int) -> float:
    return learning_rate(step, peak=peak, warmup=0, steps=steps)


@bug(
    "the peak instead of the warm-up",
    part="learning_rate",
    seen_in="max(…) in the place of min(…)",
    explanation="The rate is at its peak as long as the warm-up lasts, and then falls. It rises from 0 to the peak.",
)
def peak_for_the_warmup(step: int, *, peak: float, warmup: int, steps: int) -> float:
    return peak if step < warmup else learning_rate(step, peak=peak, warmup=warmup, steps=steps)


@bug(
    "a constant rate",
    part="learning_rate",
    seen_in="an optimizer without a schedule",
    explanation="The rate is the same in all steps. It rises in the warm-up and falls to 0 at the end.",
)
def constant_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    return peak


@bug(
    "the rate never falls",
    part="learning_rate",
    seen_in="a warm-up alone",
    explanation="After the warm-up the rate stays at its peak. It falls linearly to 0 at the last step.",
)
def never_falls(step: int, *, peak: float, warmup: int, steps: int) -> float:
    return learning_rate(step, peak=peak, warmup=warmup, steps=steps) if step < warmup else peak


@bug(
    "the fall counted from the first step",
    part="learning_rate",
    seen_in="BERT's own optimization.py",
    explanation="The rate falls as if it had fallen since step 0, so that it jumps down where the warm-up ends, as in "
    "BERT's own code. Here, as in transformers, it reaches its peak: the fall begins after the warm-up.",
)
def fall_from_the_first_step(step: int, *, peak: float, warmup: int, steps: int) -> float:
    return peak * step / warmup if step < warmup else peak * max(0.0, 1 - step / steps)


@bug(
    "the rate one step early",
    part="learning_rate",
    seen_in="schedules that count from 1",
    explanation="Each step has the rate of the next: steps are counted from 0, and the first has the rate 0 if there "
    "is a warm-up.",
)
def one_step_early(step: int, *, peak: float, warmup: int, steps: int) -> float:
    return learning_rate(step + 1, peak=peak, warmup=warmup, steps=steps)


# --- the groups of parameters -----------------------------------------------------------------------------------------


def groups_by(decays: Callable[[nn.Module, str], bool], model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: with decay, and without, by a parameter's module and its name in that."""
    found: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            found[decays(module, name)].append(parameter)
    return [
        {"params": found[True], "weight_decay": weight_decay},
        {"params": found[False], "weight_decay": 0.0},
    ]


@bug(
    "weight decay on LayerNorm",
    part="parameter_groups",
    seen_in='no_decay = ["bias", "LayerNorm.weight"] with a model that names them differently',
    explanation="The weights of LayerNorms decay towards 0; their neutral value is 1. Like biases, they have no "
    "weight decay.",
)
def decay_on_layer_norm(model: nn.Module, weight_decay: float = 0.01) -> list[dict[str, Any]]:
    return groups_by(lambda module, name: name != "bias", model, weight_decay)


@bug(
    "weight decay on biases",
    part="parameter_groups",
    seen_in="groups by the kind of module alone",
    explanation="Biases of linear maps decay towards 0; only matrices do. Neither biases nor LayerNorms have weight "
    "decay.",
)
def decay_on_biases(model: nn.Module, weight_decay: float = 0.01) -> list[dict[str, Any]]:
    return groups_by(lambda module, name: not isinstance(module, nn.LayerNorm), model, weight_decay)


@bug(
    "weight decay on everything",
    part="parameter_groups",
    seen_in="AdamW(model.parameters(), weight_decay=0.01)",
    explanation="All parameters decay. Biases and LayerNorms have no weight decay, so there are two groups.",
)
def decay_on_everything(model: nn.Module, weight_decay: float = 0.01) -> list[dict[str, Any]]:
    return groups_by(lambda module, name: True, model, weight_decay)


@bug(
    "weight decay on nothing",
    part="parameter_groups",
    seen_in="Adam in the place of AdamW",
    explanation="No parameter decays. Matrices have the weight decay that is given, embeddings too.",
)
def decay_on_nothing(model: nn.Module, weight_decay: float = 0.01) -> list[dict[str, Any]]:
    return groups_by(lambda module, name: False, model, weight_decay)


# --- a step -----------------------------------------------------------------------------------------------------------


def step_of(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Tensor],
    *,
    trains: bool = True,
    clears: bool = True,
    clips: bool = True,
    scale: Callable[[Tensor], float] = lambda labels: 1.0,
) -> float:
    """A step, each of whose parts can be left out; `scale` is what the loss is multiplied by."""
    model.train(trains)
    if clears:
        optimizer.zero_grad()
    loss = model(**batch).loss * scale(batch["labels"])
    loss.backward()
    if clips:
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    optimizer.step()
    return loss.item()


def stay_in_evaluation() -> Change:
    train = nn.Module.train
    return patched_method(nn.Module, "train", lambda module, mode=True: train(module, False))


@bug(
    "model.eval() left on",
    part="training_step",
    seen_in="loops that evaluate in between",
    explanation="The model is in evaluation mode, without dropout: after an evaluation it stays so until model.train() "
    "is called, which each step should.",
    change=stay_in_evaluation,
)
def eval_left_on(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> float:
    return step_of(model, optimizer, batch, trains=False)


@bug(
    "gradients not cleared",
    part="training_step",
    seen_in="loops without optimizer.zero_grad()",
    explanation="Each step adds its gradient to those of all steps before it: call optimizer.zero_grad() once a step.",
    change=lambda: patched_method(torch.optim.Optimizer, "zero_grad", lambda optimizer, set_to_none=True: None),
)
def gradients_not_cleared(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> float:
    return step_of(model, optimizer, batch, clears=False)


def clip_nothing() -> Change:
    clip = nn.utils.clip_grad_norm_
    return patched([nn.utils], "clip_grad_norm_", lambda _: lambda parameters, _: clip(parameters, math.inf))


@bug(
    "gradients not clipped",
    part="training_step",
    seen_in="loops without clip_grad_norm_",
    explanation="The gradient is used as it is; one bad batch can undo many steps. Cut its norm at 1, after backward() "
    "and before optimizer.step().",
    change=clip_nothing,
)
def gradients_not_clipped(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> float:
    return step_of(model, optimizer, batch, clips=False)


def sum_of_losses() -> Change:
    losses = Pretraining.losses

    def summed(task: Pretraining, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        counts = task.counts(batch)
        return {name: loss * counts[name] for name, loss in losses(task, model, batch).items()}

    return patched_method(Pretraining, "losses", summed)


@bug(
    "a sum for the mean loss",
    part="training_step",
    seen_in='reduction="sum"',
    explanation="The losses of all words are added, so that the gradient grows with the batch and the text, and a rate "
    "that is right for one batch size is wrong for the next. The loss is the mean over the words to guess.",
    change=sum_of_losses,
)
def sum_for_the_mean(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> float:
    return step_of(model, optimizer, batch, scale=lambda labels: float((labels != IGNORED).sum()))


def without_mask() -> Change:
    predictions = pretraining.predictions

    def predict(model: nn.Module, batch: dict[str, Tensor]) -> Any:
        return predictions(model, {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])})

    return patched([pretraining], "predictions", lambda _: predict)


@bug(
    "attention mask not passed on",
    part="training_step",
    seen_in="model(input_ids, labels=labels)",
    explanation="The model is not told which tokens are padding, and attends to them like to words.",
    change=without_mask,
)
def mask_not_passed_on(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> float:
    return step_of(model, optimizer, {name: each for name, each in batch.items() if name != "attention_mask"})
