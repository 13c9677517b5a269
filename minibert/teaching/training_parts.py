"""Which functions does training consist of, and what shows whether one of them is right?

Each is a function that a student can write: it is run here on inputs that are made for it, and what it does is measured
as values with names. A schedule or a step gives numbers that are the same for everybody. Masks and pairs are random:
there the values are shares of many, and `noise` is how far chance can move each of them.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.heads import IGNORED, BertForMaskedLM
from minibert.teaching.answers import NotRunnableError, is_unchanged
from minibert.teaching.parts import Function, patched
from minibert.tokenizer import BertTokenizer
from minibert.trace.compare import Values
from minibert.training import masking, optimizer, packing, pretraining
from minibert.training.corpus import Corpus
from minibert.training.packing import Input

MAX_NORM = 1.0  # of a step's gradient


@dataclass(frozen=True)
class TrainingPart:
    """A function that training is made of."""

    ours: Function
    parameters: tuple[str, ...]  # what it is called with, by name
    measure: Callable[[Function], Values]  # what a function in its place does, as values in the order to look at them
    noise: Mapping[str, float] = field(default_factory=dict)  # how far chance can move a value; left out, not at all
    helpers: tuple[Function, ...] = ()  # what ours calls, and a solution shows as well


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> float:
    """One update of the weights, with the gradient's norm cut at 1; returns the loss before it.

    The model may come from an evaluation, and its gradients from the step before.
    """
    model.train()
    optimizer.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    optimizer.step()
    return loss.item()


def number(value: object, what: str) -> Tensor:
    """A single number that a student's function returned; raises a `NotRunnableError` for anything else."""
    is_single = isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
    if is_single or (isinstance(value, int | float) and not isinstance(value, bool)):
        return torch.as_tensor(value).detach().cpu().double().reshape(())
    returned = "nothing (is there a return?)" if value is None else type(value).__name__
    raise NotRunnableError(f"{what} must be a number, and is {returned}.")


# --- the schedule -----------------------------------------------------------------------------------------------------


def measure_learning_rate(function: Function) -> Values:
    """The rate of every step of two runs, with a warm-up and without."""
    values = {}
    for warmup, steps in ((5, 20), (0, 8)):
        for step in range(steps + 1):
            rate = function(step, peak=1e-3, warmup=warmup, steps=steps)
            name = f"the rate of step {step} of {steps}, {warmup} of them warm-up"
            values[name] = number(rate, "the rate that learning_rate returns")
    return values


# --- the groups of parameters -----------------------------------------------------------------------------------------

SMALL = BertConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=16,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def small_model() -> BertForMaskedLM:
    """A model of random weights in float64, the same every time; without dropout, so that no step is random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForMaskedLM(SMALL).double()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.4)
    return model


def measure_parameter_groups(function: Function) -> Values:
    """The weight decay of each parameter, NaN for one that is in no group."""
    model = small_model()
    groups = function(model, 0.02)
    groups = groups.param_groups if isinstance(groups, torch.optim.Optimizer) else groups
    if not isinstance(groups, list | tuple) or not all(isinstance(each, dict) for each in groups):
        returned = "nothing (is there a return?)" if groups is None else type(groups).__name__
        what = 'a list of dictionaries {"params": […], "weight_decay": …}, or an optimizer made with it'
        raise NotRunnableError(f"parameter_groups returns {returned}; it should be {what}.")
    groups = [{**group, "params": list(group.get("params", ()))} for group in groups]
    try:
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0)
    except (ValueError, TypeError) as error:
        raise NotRunnableError(f"an optimizer does not take these groups: {error}.") from None
    decays = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    return {
        f"the weight decay of {name}": number(decays.get(id(each), float("nan")), "a weight decay")
        for name, each in model.named_parameters()
    }


# --- masks ------------------------------------------------------------------------------------------------------------

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(195))]
PAD, _, CLS, SEP, MASK = range(5)


def small_tokenizer() -> BertTokenizer:
    """Two hundred tokens, of which the first five are special."""
    vocabulary = {token: index for index, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return BertTokenizer(tokenizer)


def padded_pairs(rows: int = 400, length: int = 64) -> Tensor:
    """Token ids of pairs of many lengths: (rows, length)."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(MASK + 1, len(TOKENS), (rows, length), generator=generator)
    for row, end in enumerate(torch.randint(12, length, (rows,), generator=generator).tolist()):
        ids[row, end + 1 :] = PAD
        ids[row, [0, end // 2, end]] = torch.tensor([CLS, SEP, SEP])
    return ids


def measure_mask_tokens(function: Function) -> Values:
    """Which tokens are to be guessed, and what the model sees in their place, in shares of many."""
    ids = padded_pairs()
    before = ids.clone()
    result = function(ids, small_tokenizer())
    if not isinstance(result, tuple | list) or len(result) != 2 or not all(isinstance(each, Tensor) for each in result):
        returned = "nothing (is there a return?)" if result is None else type(result).__name__
        raise NotRunnableError(f"mask_tokens returns {returned}; it should be two tensors, input_ids and labels.")
    for name, each in zip(("input_ids", "labels"), result, strict=True):
        if each.shape != ids.shape or each.is_floating_point():
            what = f"integers of the shape {tuple(ids.shape)}"
            raise NotRunnableError(f"the {name} that mask_tokens returns must be {what}, as it gets them.")
    if not is_unchanged(ids, before):
        raise NotRunnableError("mask_tokens changes its argument input_ids in place: begin with input_ids.clone().")
    seen, labels = (each.detach().cpu().long() for each in result)
    chosen = labels != IGNORED
    special, padding = (ids == CLS) | (ids == SEP), ids == PAD
    counted = chosen & ~special & ~padding
    is_mask, is_kept = seen == MASK, seen == ids
    return {
        "the share of words with a label": share(chosen, ~special & ~padding),
        "the share of padding with a label": share(chosen, padding),
        "the share of [CLS] and [SEP] with a label": share(chosen, special),
        "the share of labels that are the original token": share(labels == ids, chosen),
        "the share of words with a label that are hidden by [MASK]": share(is_mask, counted),
        "the share of words with a label that stay as they are": share(is_kept, counted),
        "the share of words with a label that become a random token": share(~is_mask & ~is_kept, counted),
        "the mean id of these random tokens": mean(seen[counted & ~is_mask & ~is_kept]),
        "the share of tokens without a label that are changed": share(~is_kept, ~chosen),
    }


MASK_NOISE = {
    "the share of words with a label": 0.025,  # in [CLS] and [SEP] may be counted as words, or not
    "the share of padding with a label": 0.0,
    "the share of [CLS] and [SEP] with a label": 0.0,
    "the share of words with a label that are hidden by [MASK]": 0.06,
    "the share of words with a label that stay as they are": 0.045,
    "the share of words with a label that become a random token": 0.045,
    "the mean id of these random tokens": 25.0,
    "the share of tokens without a label that are changed": 0.0,
}


def share(which: Tensor, among: Tensor) -> Tensor:
    """The share of the positions `among` these that are `which`; NaN if there are none."""
    return which[among].double().mean()


def mean(values: Tensor) -> Tensor:
    return values.double().mean()


# --- pairs of sentences -----------------------------------------------------------------------------------------------

PAIR_LENGTH = 40


def small_corpus() -> Corpus:
    """Eight hundred documents of 2 to 16 sentences of 2 to 8 tokens, each token with an id of its own."""
    generator = random.Random(1)
    sentences, documents, count = [0], [0], 0
    for _ in range(800):
        for _ in range(generator.randint(2, 16)):
            count += generator.randint(2, 8)
            sentences.append(count)
        count += 1  # [SEP], which belongs to the last sentence
        sentences[-1] = count
        documents.append(len(sentences) - 1)
    ids = torch.arange(MASK + 1, MASK + 1 + count, dtype=torch.int32)
    ids[torch.tensor(sentences)[documents[1:]] - 1] = SEP
    return Corpus(ids, torch.tensor(sentences), torch.tensor(documents), "made up")


def measure_sentence_pairs(function: Function) -> Values:
    """What the pairs are made of, in shares of some two thousand."""
    corpus = small_corpus()
    pairs = as_inputs(function(corpus, PAIR_LENGTH, 0), len(corpus.ids))
    a, b = pairs[:, 0:2].contiguous(), pairs[:, 2:4].contiguous()
    is_random = pairs[:, 4] != 0
    lengths = [segment[:, 1] - segment[:, 0] for segment in (a, b)]
    starts = corpus.sentences[corpus.documents]
    homes = [torch.bucketize(segment[:, 0].contiguous(), starts, right=True) for segment in (a, b)]
    ends = [torch.bucketize(segment[:, 1] - 1, starts, right=True) for segment in (a, b)]
    everywhere = torch.ones_like(is_random)
    follows = (homes[0] == homes[1]) & (a[:, 1] <= b[:, 0])
    total = lengths[0] + lengths[1]
    separators = sum((corpus.ids[start:end] == SEP).any() for start, end in [*a.tolist(), *b.tolist()])
    return {
        "the share of pairs with an empty segment": share((lengths[0] <= 0) | (lengths[1] <= 0), everywhere),
        "the share of pairs longer than an input": share(total > PAIR_LENGTH - 3, everywhere),
        "the share of segments from two documents": share((homes[0] != ends[0]) | (homes[1] != ends[1]), everywhere),
        "the number of segments with a document's [SEP]": torch.as_tensor(separators).double(),
        "the share of random B": share(is_random, everywhere),
        "the share of random B that are from A's own document": share(homes[0] == homes[1], is_random),
        "the share of other B that do not follow A": share(~follows, ~is_random),
        "the share of sentences in no A and no B that follows": unused(corpus, a, b[~is_random]),
        "the mean length, of the longest possible": (total / (PAIR_LENGTH - 3)).double().mean(),
    }


PAIR_NOISE = {
    "the share of random B": 0.1,
    "the share of sentences in no A and no B that follows": 0.06,
    "the mean length, of the longest possible": 0.12,  # one pair in ten may be made for a shorter input, or not
}


def as_inputs(pairs: Any, most: int) -> Tensor:
    """What `sentence_pairs` returned as a tensor (N, 5); raises a `NotRunnableError` for anything else."""
    what = "a list of pairs, each of five integers: a_start, a_end, b_start, b_end, is_random"
    if not isinstance(pairs, list | tuple | Tensor):
        returned = "nothing (is there a return?)" if pairs is None else type(pairs).__name__
        raise NotRunnableError(f"sentence_pairs returns {returned}; it should be {what}.")
    try:
        found = torch.as_tensor(pairs if isinstance(pairs, Tensor) else [[int(each) for each in row] for row in pairs])
    except (ValueError, TypeError):
        raise NotRunnableError(f"sentence_pairs must return {what}.") from None
    if not len(found):
        raise NotRunnableError("sentence_pairs returns no pairs, of a corpus that has many.")
    if found.dim() != 2 or found.shape[1] != len(Input._fields) or found.is_floating_point():
        raise NotRunnableError(f"sentence_pairs must return {what}.")
    if (found[:, :4] < 0).any() or (found[:, :4] > most).any():
        raise NotRunnableError(f"a pair must begin and end within the corpus, from 0 to {most:,}; one does not.")
    return found.long()


def unused(corpus: Corpus, *segments: Tensor) -> Tensor:
    """The share of sentences of which no token is in any of the segments."""
    read = torch.zeros(len(corpus.ids), dtype=torch.bool)
    for segment in segments:
        for start, end in segment.tolist():
            read[start:end] = True
    spans = list(pairwise(corpus.sentences.tolist()))
    return torch.tensor([not read[start:end].any() for start, end in spans]).double().mean()


# --- a step -----------------------------------------------------------------------------------------------------------


def small_batches() -> list[dict[str, Tensor]]:
    """Three batches of padded texts, (B, S), some of whose words are to be guessed."""
    generator = torch.Generator().manual_seed(2)
    batches = []
    for _ in range(3):
        ids = torch.randint(5, SMALL.vocab_size, (4, 10), generator=generator)
        mask = (torch.arange(10) < torch.tensor([10, 7, 5, 3])[:, None]).long()
        chosen = (torch.rand(ids.shape, generator=generator) < 0.4) & (mask == 1)
        chosen[:, 1] = True  # at least one in each text
        batches.append(
            {
                "input_ids": ids.masked_fill(chosen, MASK).masked_fill(mask == 0, PAD),
                "attention_mask": mask,
                "labels": ids.masked_fill(~chosen, IGNORED),
            }
        )
    return batches


def measure_training_step(function: Function) -> Values:
    """Three steps with plain gradient descent, whose updates show what the gradient was.

    Before the first, the model is in training mode; an evaluation comes between that and the second.
    """
    model = small_model().train()
    parameters = list(model.parameters())
    descent = torch.optim.SGD(parameters, lr=0.1)
    values: Values = {}
    modes: list[bool] = []
    gradients: list[Tensor] = []
    watched = [
        model.bert.register_forward_pre_hook(lambda *_: note_mode(model, modes)),
        descent.register_step_pre_hook(lambda *_: gradients.append(flat(each.grad for each in parameters))),
    ]
    with torch.enable_grad():
        for step, batch in enumerate(small_batches()):
            modes.clear()
            gradients.clear()
            given = {name: tensor.clone() for name, tensor in batch.items()}
            loss = function(model, descent, given)
            if any(not is_unchanged(given.get(name), tensor) for name, tensor in batch.items()):
                raise NotRunnableError("training_step changes the batch, which the caller still needs: copy it first.")
            if modes:  # else it never calls model.bert as a whole
                values[f"training mode in step {step} (1 is on)"] = torch.tensor(float(all(modes)))
            values[f"the loss of step {step}"] = number(loss, "the loss that training_step returns")
            values[f"the number of updates in step {step}"] = torch.tensor(float(len(gradients)))
            values[f"the gradient of step {step}"] = gradients[-1] if gradients else torch.zeros(0)
            values[f"the weights after step {step}"] = flat(each.detach() for each in parameters)
            if step == 0:
                model.eval()
    for handle in watched:
        handle.remove()
    return values


def note_mode(model: nn.Module, modes: list[bool]) -> None:
    """Notes whether the model is in training mode, at a forward pass that is to be differentiated."""
    if torch.is_grad_enabled():
        modes.append(all(module.training for module in model.modules()))


def flat(tensors: Iterable[Tensor | None]) -> Tensor:
    """All numbers of some tensors, one after another; those of a tensor that is None are left out."""
    return torch.cat([each.detach().double().flatten() for each in tensors if each is not None] or [torch.zeros(0)])


TRAINING_PARTS: dict[str, TrainingPart] = {
    "mask_tokens": TrainingPart(
        masking.mask_tokens,
        ("input_ids", "tokenizer"),
        measure_mask_tokens,
        MASK_NOISE,
        (masking._choose, masking.predictions_per_row),
    ),
    "sentence_pairs": TrainingPart(
        packing.sentence_pairs,
        ("corpus", "length", "seed"),
        measure_sentence_pairs,
        PAIR_NOISE,
        (packing._pairs_of, packing._elsewhere, packing._shortened),
    ),
    "learning_rate": TrainingPart(optimizer.learning_rate, ("step", "peak", "warmup", "steps"), measure_learning_rate),
    "parameter_groups": TrainingPart(optimizer.parameter_groups, ("model", "weight_decay"), measure_parameter_groups),
    "training_step": TrainingPart(training_step, ("model", "optimizer", "batch"), measure_training_step),
}


# --- in the training loop ---------------------------------------------------------------------------------------------


def replace_in_loop(name: str, function: Function) -> AbstractContextManager[None]:
    """Inside the block, `pretrain` computes one of these parts, but for a whole step, with this function."""
    owner = {
        "mask_tokens": pretraining,
        "sentence_pairs": packing,
        "learning_rate": optimizer,
        "parameter_groups": optimizer,
    }[name]
    return patched([owner], name, lambda _: function)


@contextmanager
def patched_method(kind: type, name: str, function: Function) -> Iterator[None]:
    """Inside the block, a class has this function for one of its own methods."""
    own = vars(kind)[name]
    setattr(kind, name, function)
    try:
        yield
    finally:
        setattr(kind, name, own)
