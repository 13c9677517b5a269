"""What would the model predict, if it stopped after this layer?

A masked language model reads the last hidden state with its head. The logit lens reads every hidden state with the same
head (nostalgebraist 2020, "interpreting GPT: the logit lens"):

    lens = logit_lens(mlm, tokenizer("He sat by the [MASK] bank."))
    lens.top(5)                         # the most probable tokens after each layer
    lens.rank("river")                  # (L + 1, B, S): how many tokens are more probable

The head was trained for the last layer only, and earlier ones may say the same in another basis. A tuned lens learns to
translate each of them, by an affine map per layer (Belrose et al. 2023, "Eliciting Latent Predictions from Transformers
with the Tuned Lens"):

    tuned = TunedLens.fit(mlm, tokenizer, texts)
    logit_lens(mlm, inputs, tuned).kl()         # (L + 1,): how far each layer is from the final prediction, in nats

A model without a head has no logits, and no lens: `nearest_words` says which word embeddings a vector is close to,
which is a different question.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minibert.checks import as_integer, check_integer, shown
from minibert.errors import InputError
from minibert.interpret.reading import MaskedLM, divergence, log_probabilities, masked_lm_of, nested, read
from minibert.interpret.runs import (
    Inputs,
    as_inputs,
    check_row,
    mask_of,
    position_of,
    rows_of,
    token_id,
    tokens_of,
)
from minibert.interpret.tuned_lens import TunedLens
from minibert.show.tables import table


class Top(NamedTuple):
    """The most probable tokens after each layer, the most probable first."""

    ids: Tensor  # (L + 1, B, S, k)
    probabilities: Tensor  # (L + 1, B, S, k)
    tokens: list[list[list[list[str]]]]  # the same shape; their ids, if no tokenizer made the inputs


@dataclass(frozen=True)
class Lens:
    """The hidden states of a run, read with the model's head.

    Logits are computed when they are asked for, one layer at a time, by the head as it is then: ask inside an `edit` of
    the head, and before its parameters are changed.
    """

    model: MaskedLM
    inputs: Inputs
    hidden_states: tuple[Tensor, ...]  # L + 1 of (B, S, D), translated if there is a tuned lens
    error: float  # how far the logits of the last hidden state are from the model's own

    @torch.no_grad()
    def logits(self, layer: int) -> Tensor:
        """The scores of all tokens after a layer, (B, S, V); 0 is the embeddings, -1 the last layer."""
        count, number = len(self.hidden_states), as_integer(layer)
        if number is None or not -count <= number < count:
            raise InputError(f"layer must be a hidden state from 0 to {count - 1}, got {shown(layer)}")
        return read(self.model, self.hidden_states[number])

    def top(self, k: int = 5) -> Top:
        """The k most probable tokens after each layer, at each position.

        Raises:
            InputError: k is not from 1 to the size of the vocabulary, or the logits of a token that is not padding are
                NaN, of which none is more probable than another.
        """
        check_integer("k", k, 1, self.model.config.vocab_size)
        found, probabilities = [], []
        for logits in self._ordered():
            best = logits.topk(k, dim=-1).indices  # (B, S, V) → (B, S, k); probabilities may round to the same number
            found.append(best)
            probabilities.append(log_probabilities(logits).gather(-1, best).exp())
        ids = torch.stack(found)
        return Top(ids, torch.stack(probabilities), _as_tokens(ids, self.inputs))

    def rank(self, token: str | int) -> Tensor:
        """How many tokens are more probable than this one, (L + 1, B, S): 0 if it is the most probable.

        Raises:
            InputError: the token is not in the vocabulary; or NaN, as in `top`.
        """
        number = token_id(token, self.inputs, self.model)
        return torch.stack([(logits > logits[..., number : number + 1]).sum(dim=-1) for logits in self._ordered()])

    def probability(self, token: str | int) -> Tensor:
        """The probability of a token after each layer, (L + 1, B, S)."""
        number = token_id(token, self.inputs, self.model)
        return torch.stack([log_probabilities(layer)[..., number].exp() for layer in self])

    def kl(self) -> Tensor:
        """The divergence KL(final ‖ layer) of each layer's prediction, (L + 1,): mean over positions, in nats."""
        final, real = log_probabilities(self.logits(-1)), mask_of(self.inputs)
        return torch.stack([divergence(final, log_probabilities(layer), real) for layer in self])

    def at(self, position: int | None = None, row: int = 0, k: int = 5) -> str:
        """A table of the k most probable tokens after each layer at one position; None is that of the only [MASK]."""
        row = check_row(row, self.inputs)
        place = int(position_of(position, rows_of(self.inputs, [row])))
        top = self.top(k)
        rows = [("layer", "token", "probability", *[""] * (2 * k - 2))]
        for layer in range(len(self.hidden_states)):
            cells = [str(layer)]
            for token, probability in zip(
                top.tokens[layer][row][place], top.probabilities[layer, row, place].tolist(), strict=True
            ):
                cells += [token, f"{probability:.3f}"]
            rows.append(tuple(cells))
        return table(rows)

    def table(self, row: int = 0) -> str:
        """A table of the most probable token after each layer, at each position of one text."""
        row = check_row(row, self.inputs)
        real = mask_of(self.inputs)[row].nonzero()[:, 0].tolist()
        labels = tokens_of(self.inputs)[row]
        rows = [["layer", *(labels[index] for index in real)]]
        for layer, tokens in enumerate(self.top(1).tokens):
            rows.append([str(layer), *(tokens[row][index][0] for index in real)])
        return table(rows)

    def __str__(self) -> str:
        return self.table()

    def plot(self, row: int = 0) -> Any:
        """A picture of how probable the most probable token is, layer by layer and position by position."""
        from minibert.show.plots import plot_matrix

        row = check_row(row, self.inputs)
        real = mask_of(self.inputs)[row].nonzero()[:, 0].tolist()
        tokens = tokens_of(self.inputs)[row]
        values = self.top(1).probabilities[:, row, real, 0]
        layers = [f"layer {layer}" if layer else "embeddings" for layer in range(len(values))]
        title = "probability of the most probable token"
        return plot_matrix(values, layers, [tokens[index] for index in real], title=title, limits=(0, 1))

    def __iter__(self) -> Iterator[Tensor]:
        return (self.logits(layer) for layer in range(len(self.hidden_states)))

    def _ordered(self) -> Iterator[Tensor]:
        """The logits of each layer, in which tokens have an order."""
        real = mask_of(self.inputs)
        for layer, logits in enumerate(self):
            if (logits.isnan().any(dim=-1) & real).any():
                raise InputError(
                    f"logits must be numbers for tokens to have an order, got NaN after layer {layer}: "
                    "a hidden state or a parameter is not finite"
                )
            yield logits


@torch.no_grad()
def logit_lens(model: nn.Module, inputs: Inputs, lens: TunedLens | None = None) -> Lens:
    """Reads every hidden state with the head of a masked language model.

    Args:
        model: a `BertForMaskedLM` or `BertForPreTraining`, in evaluation mode.
        inputs: what a tokenizer returns, (B, S).
        lens: a tuned lens, which translates each hidden state before it is read; None is the plain logit lens.

    Raises:
        InputError: a model without such a head, whose hidden states say nothing about tokens (see `nearest_words`), or
            a lens that was fitted to a model of another size.
    """
    mlm = masked_lm_of(model)
    as_inputs(inputs)
    if lens is not None and not isinstance(lens, TunedLens):
        raise InputError(f"lens must be a TunedLens or None, got {shown(lens)}")
    output = mlm(**inputs, output_hidden_states=True)
    states = output.hidden_states if lens is None else lens.translate(output.hidden_states)
    error = (read(mlm, states[-1]) - output[1]).abs().max().item()
    return Lens(mlm, inputs, states, error)


def _as_tokens(ids: Tensor, inputs: Inputs) -> Any:
    """The tokens of ids (…), as nested lists; an id itself where there is no token."""
    tokenizer = getattr(inputs, "tokenizer", None)
    flat = ids.flatten().tolist()
    if tokenizer is None:
        return nested([str(each) for each in flat], ids.shape)
    names = {each: tokenizer.tokenizer.id_to_token(each) for each in set(flat)}
    tokens = [names[each] or str(each) for each in flat]  # some models have more logits than there are tokens
    return nested(tokens, ids.shape)
