"""What does a probe get to see?

One vector for each word of sentences that are already divided into words, as annotated corpora are, at the embeddings
and after each layer; and the same from a model that was never trained, which every probe should be compared with.

    features = word_features(model, tokenizer, sentences)               # .values (L + 1, N, D)
    baseline = word_features(untrained(model), tokenizer, sentences)

Untrained encoders as a baseline: Zhang and Bowman 2018, "Language Modeling Teaches You More than Translation Does".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from minibert.checkpoints.loading import Pretrained
from minibert.checks import check_integer, check_one_of, shown
from minibert.errors import InputError, PoolingError, TextTypeError
from minibert.heads import bert_in
from minibert.interpret.runs import bert_of
from minibert.interpret.texts import batches_of
from minibert.model import ATTENTION
from minibert.tokenizer import BertTokenizer
from minibert.vectors.words import SUBWORDS, Subwords

Model = TypeVar("Model", bound=Pretrained)
MOST_SEED = 2**32 - 1  # NumPy's


@dataclass(frozen=True)
class WordFeatures:
    """The vectors of N words, sentence by sentence."""

    values: Tensor  # (L + 1, N, D), on the CPU, at least in float32
    words: list[str]  # N
    sentences: list[int]  # N: the number of each word's sentence, counted from 0

    def by_sentence(self) -> list[Tensor]:
        """The vectors of each sentence, (L + 1, S, D)."""
        _, counts = torch.tensor(self.sentences).unique_consecutive(return_counts=True)
        return list(self.values.split(counts.tolist(), dim=1))


def word_features(
    model: nn.Module, tokenizer: BertTokenizer, sentences: Iterable[Sequence[str]], *, subwords: Subwords = "mean"
) -> WordFeatures:
    """Computes one vector per word and layer. Only these are kept; the rest of a batch is dropped after it.

    Args:
        model: a `BertModel`, or one with a head, in evaluation mode.
        tokenizer: the model's. A word that it cannot spell gets the vector of [UNK].
        sentences: each a list of words. The model reads them joined by spaces.
        subwords: how the vectors of a word's tokens become one: "mean", "sum", "first" or "last".

    Raises:
        InputError: a sentence that is too long for the model, or a word without a token; the message says which.
        TextTypeError: a sentence that is not a list of strings.
        PoolingError: an unknown `subwords`.
    """
    check_one_of("subwords", subwords, SUBWORDS, PoolingError)
    known = _check_sentences(sentences)
    bert = bert_of(model)
    found: dict[int, Tensor] = {}
    for batch in batches_of(model, tokenizer, (" ".join(words) for words in known)):
        with torch.no_grad():
            hidden_states = bert(**batch.inputs, output_hidden_states=True).hidden_states
        states = torch.stack(hidden_states).cpu()  # L + 1 of (B, S, D) → (L + 1, B, S, D)
        states = states.float() if states.dtype in (torch.float16, torch.bfloat16) else states
        for row, number in enumerate(batch.numbers):
            encoding = batch.inputs.encodings[row]
            if encoding.overflowing:
                raise InputError(f"sentence {number} is too long for the model, which reads {len(encoding)} tokens")
            groups = _tokens_of_words(known[number], encoding.offsets, number)
            vectors = [SUBWORDS[subwords](states[:, row, group]) for group in groups]  # S of (L + 1, n, D) → (L + 1, D)
            found[number] = torch.stack(vectors, dim=1)  # (L + 1, S, D)
    return WordFeatures(
        torch.cat([found[number] for number in range(len(known))], dim=1),
        [word for words in known for word in words],
        [number for number, words in enumerate(known) for _ in words],
    )


def untrained(model: Model, *, seed: int = 0) -> Model:
    """Returns a model of the same class, config, dtype and device with fresh random weights, in evaluation mode.

    What a probe finds in it comes from the identity of the words, their neighbours and the probe itself.

    Args:
        model: a `BertModel` or a model with a head; it stays as it is.
        seed: of the weights; PyTorch's own generators are left as they were.

    Raises:
        InputError: a model of another class, for which minibert has no random weights.
    """
    check_integer("seed", seed, 0, MOST_SEED)
    if not isinstance(model, Pretrained):
        raise InputError(f"model must be a BertModel, or one with a head, got {shown(model)}: pass the model inside")
    bert = bert_in(model)
    attention = next(name for name, function in ATTENTION.items() if function is bert.attend)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(seed)
        fresh = type(model)(model.config, attention=attention)
    if bert.pooler is None:
        bert_in(fresh).pooler = None
    weight = bert.embeddings.word_embeddings.weight
    return fresh.to(weight.device, weight.dtype).eval()


def _check_sentences(sentences: Iterable[Sequence[str]]) -> list[list[str]]:
    """The sentences as lists of words, after validation."""
    if isinstance(sentences, str) or not isinstance(sentences, Iterable):
        raise TextTypeError(f"sentences must be lists of words, got {shown(sentences)}")
    known = []
    for number, words in enumerate(sentences):
        is_list = isinstance(words, Sequence) and not isinstance(words, str)
        if not is_list or not all(isinstance(each, str) for each in words):
            raise TextTypeError(f"sentence {number} must be a list of words, got {shown(words)}: split it first")
        if not words:
            raise InputError(f"sentence {number} must have at least one word")
        known.append(list(words))
    if not known:
        raise InputError("sentences must not be empty")
    return known


def _tokens_of_words(words: list[str], offsets: Sequence[tuple[int, int]], number: int) -> list[list[int]]:
    """The tokens that were cut from each word, by their characters in the joined sentence."""
    word_at = [index for index, word in enumerate(words) for _ in range(len(word) + 1)]  # with the space after it
    groups: list[list[int]] = [[] for _ in words]
    for token, (start, end) in enumerate(offsets):
        if start < end:  # not a special token, and not padding
            groups[word_at[start]].append(token)
    for word, group in zip(words, groups, strict=True):
        if not group:
            raise InputError(f"word {shown(word)} of sentence {number} has no token, or is beyond the model's limit")
    return groups
