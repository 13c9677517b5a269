"""From which tokens does a position take what it becomes?

Attention weights are only half of the answer: a weight multiplies a vector, which may be short, and the residual
connection and the LayerNorms mix on. The methods of the field, from the weights alone to all of the network:

    attention           the weights, mean over heads
    norm                how long the weighted vectors are: ‖Σ α·f(x)‖ over heads (Kobayashi et al. 2020, equation 7)
    norm+residual       the same with the residual connection (Kobayashi et al. 2021, equation 9)
    norm+residual+ln    and with the LayerNorm after it, its scale as it was (Kobayashi et al. 2021, equation 12)
    rollout             half weights, half residual connection, multiplied through the layers (Abnar and Zuidema 2020)
    globenc             norm+residual+ln and the second LayerNorm, its residual connection without the feed-forward
                        block, multiplied through (Modarressi et al. 2022)
    alti                how near each vector is to the output of attention, multiplied through (Ferrando et al. 2022)
    decompx             the vectors themselves, carried through every layer with the feed-forward blocks' gates as they
                        were, so that they sum to each hidden state (Modarressi et al. 2023)

    maps = contributions(model, inputs, how="decompx")
    maps.values[-1, 0]                  # (S, S): row s says from which positions hidden state s comes
    maps.error                          # how far the vectors' sum is from the hidden states: rounding

The first four are of each layer alone, the others from the embeddings up to each layer. The maps that are multiplied
have rows that sum to 1, but for "globenc": as in its authors' code the norms themselves are multiplied, so that a
position on the way counts by the sum of its norms; here each row of the product is then divided by its sum.
In "alti" a vector that is farther from the output than the zero vector counts as 0. If all of a row are, the row is 0,
and `.error` says by how much it misses 1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minibert.checks import as_integer, check_one_of, shown
from minibert.errors import InputError
from minibert.interpret.layer_runs import largest, layer_runs, mixing_names, normed
from minibert.interpret.runs import Inputs, as_inputs, bert_of, mask_of, tokens_of
from minibert.interpret.whole_words import by_word
from minibert.model import BertModel
from minibert.show.tables import table
from minibert.trace.recording import Trace, record

Method = Literal["attention", "norm", "norm+residual", "norm+residual+ln", "rollout", "globenc", "alti", "decompx"]


@dataclass(frozen=True)
class Contributions:
    """How much of each position comes from each: rows are the positions that receive, columns those that give."""

    values: Tensor  # (L, B, S, S); rows and columns of padding are 0
    layers: list[int]  # L, from 1: the hidden state after that layer
    labels: list[list[str]]  # B lists of S tokens, or words; a text of fewer words has fewer labels
    mask: Tensor  # (B, S), False for padding
    how: str
    error: float  # how far the vectors, or the rows, are from the sum that they are the parts of, up to the last layer
    # (L, B, S + 1, S, D) of "decompx": by source, the last of which is all biases; by token, even with `words`.
    vectors: Tensor | None = None

    @property
    def shares(self) -> Tensor:
        """The same with rows that sum to 1; a row of zeros stays one."""
        return summing_to_one(self.values)

    def strongest(self, layer: int = -1, row: int = 0) -> list[tuple[str, str, float]]:
        """For each position that is not padding: its label, that of the position it takes most from, and that share.

        Args:
            layer: one of `layers`, or from the end: -1 is the last of them.
            row: the text.
        """
        shares, labels = self.shares[self._index(layer), row], self.labels[row]
        found = []
        for index in self._real(row):
            source = int(shares[index].argmax())
            found.append((labels[index], labels[source], shares[index, source].item()))
        return found

    def __str__(self) -> str:
        rows = [("position", "takes most from", "share")]
        rows += [(label, source, f"{share:.2f}") for label, source, share in self.strongest()]
        return f"{self.how}, layer {self.layers[-1]}\n{table(rows, right=[2])}\nthe sum is off by {self.error:.1e}"

    def plot(self, layer: int = -1, row: int = 0) -> Any:
        """A picture of one layer's map of one text; the arguments are those of `strongest`."""
        from minibert.show.plots import plot_matrix

        index, real = self._index(layer), self._real(row)
        labels = [self.labels[row][position] for position in real]
        values = self.values[index, row][real][:, real]
        return plot_matrix(values, labels, title=f"{self.how}, layer {self.layers[index]}")

    def _index(self, layer: int) -> int:
        """Where a layer is in `values`."""
        number = as_integer(layer)
        if number in self.layers:
            return self.layers.index(number)
        if number is None or not -len(self.layers) <= number < 0:
            listed = ", ".join(map(str, self.layers))
            raise InputError(f"layer must be one of {listed}, or counted from the end, got {shown(layer)}")
        return len(self.layers) + number

    def _real(self, row: int) -> list[int]:
        """The positions of a text that are not padding."""
        return [index for index, is_real in enumerate(self.mask[row].tolist()) if is_real]


@torch.no_grad()
def contributions(
    model: nn.Module, inputs: Inputs, how: Method = "attention", layer: int | None = None, words: bool = False
) -> Contributions:
    """Returns how much of each position's vector comes from each position, by one of the methods above.

    Args:
        model: a `BertModel`, or one with a head, in evaluation mode.
        inputs: what a tokenizer returns, (B, S).
        how: the method.
        layer: after which layer, from 1 to L, or from the end: -1 is the last. None means all.
        words: whole words instead of tokens: to a word the sum over its tokens, from a word their mean (Clark et al.
            2019, section 4.1). [CLS], [SEP] and [MASK] are words of their own. Needs inputs that a tokenizer made.

    Raises:
        InputError: an unknown method, a layer that the model does not have, or words of inputs without them.
    """
    bert = bert_of(model)
    as_inputs(inputs)
    check_one_of("how", how, METHODS)
    check_one_of("words", words, (True, False))
    chosen = _chosen(layer, len(bert.encoder.layers))
    with record(bert, mixing_names(bert)) as trace:
        bert(**inputs)
    real = mask_of(inputs)
    maps, errors, vectors = [], [], []
    layers = islice(METHODS[how](bert, trace, real), chosen[-1])
    for number, (values, error, parts) in enumerate(layers, 1):
        errors.append(error)
        if number in chosen:
            maps.append(without_padding(values, real))
            vectors += [] if parts is None else [parts]
    values, labels = torch.stack(maps), tokens_of(inputs)
    if words:
        values, labels = by_word(values, inputs)
        real = as_mask(labels, values.device)
    error = largest(torch.tensor(errors))  # unlike max(), NaN if one of them is
    return Contributions(values, chosen, labels, real, how, error, torch.stack(vectors) if vectors else None)


# --- methods: a map (B, S, S) after each layer, how far its sum is off, and for one of them the vectors ---------------

LayerMap = tuple[Tensor, float, Tensor | None]


def by_attention(bert: BertModel, trace: Trace, real: Tensor) -> Iterator[LayerMap]:
    for run in layer_runs(bert, trace):
        weights = run.probabilities.mean(dim=1)  # (B, H, S, T) → (B, S, T)
        yield weights, _rows_off(weights, real), None


def by_norm(bert: BertModel, trace: Trace, real: Tensor) -> Iterator[LayerMap]:
    for run in layer_runs(bert, trace):
        vectors = run.attended()
        yield vectors.norm(dim=-1), run.attention_off(vectors, real), None


def by_norm_with_residual(bert: BertModel, trace: Trace, real: Tensor) -> Iterator[LayerMap]:
    for run in layer_runs(bert, trace):
        vectors = run.attended()
        yield run.with_residual(vectors).norm(dim=-1), run.attention_off(vectors, real), None


def by_norm_with_layer_norm(bert: BertModel, trace: Trace, real: Tensor) -> Iterator[LayerMap]:
    for run in layer_runs(bert, trace):
        vectors = run.attended()
        normed = run.through_attention_norm(run.with_residual(vectors))
        yield normed.norm(dim=-1), run.attention_off(vectors, real), None


def by_rollout(bert: BertModel, trace: Trace, real: Tensor) -> Iterator[LayerMap]:
    def maps() -> Iterator[tuple[Tensor, float]]:
        for run in layer_runs(bert, trace):
            weights = run.probabilities.mean(dim=1)
            yield 0.5 * weights + 0.5 * torch.eye(weights.shape[-1]).to(weights), 0.0

    yield from _multiplied(maps(), real)


def by_globenc(bert: BertModel, trace: Trace, real: Tensor) -> Iterator[LayerMap]:
    product = None
    for run in layer_runs(bert, trace):
        vectors = run.attended()
        normed = run.through_attention_norm(run.with_residual(vectors))
        norms = without_padding(run.through_feed_forward_norm(normed).norm(dim=-1), real)
        product = norms if product is None else norms @ product
        shares = summing_to_one(product)
        yield shares, largest(torch.tensor([run.attention_off(vectors, real), _rows_off(shares, real)])), None
        # One number for the whole text, which changes no share: in float16 the product would overflow.
        product = product / product.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(product.dtype).tiny)


def by_alti(bert: BertModel, trace: Trace, real: Tensor) -> Iterator[LayerMap]:
    def maps() -> Iterator[tuple[Tensor, float]]:
        for run in layer_runs(bert, trace):
            vectors = run.attended()
            normed = run.through_attention_norm(run.with_residual(vectors))
            whole = run.attention_norm  # (B, S, D)
            distance = (whole[:, :, None] - normed).abs().sum(dim=-1)  # (B, S, T, D) → (B, S, T)
            near = (whole.abs().sum(dim=-1, keepdim=True) - distance).clamp_min(0)
            yield summing_to_one(near), run.attention_off(vectors, real)

    yield from _multiplied(maps(), real)


def by_decompx(bert: BertModel, trace: Trace, real: Tensor) -> Iterator[LayerMap]:
    """Carries a vector from each source to each position, (B, S + 1, S, D), through the whole network."""
    embedded = trace["embeddings.sum"]
    batch, length, size = embedded.shape
    everywhere = torch.arange(length, device=embedded.device)
    parts = embedded.new_zeros(batch, length + 1, length, size)
    parts[:, everywhere, everywhere] = embedded
    parts = normed(parts, bert.embeddings.norm, trace["embeddings.norm.scale"][:, None])
    parts[:, -1] += bert.embeddings.norm.bias
    for run in layer_runs(bert, trace):
        parts = run.carried(parts)
        off = largest((parts.sum(dim=1) - run.hidden)[real])  # (B, S + 1, S, D) → (B, S, D)
        yield parts[:, :-1].norm(dim=-1).transpose(1, 2), off, parts  # (B, T, S) → (B, S, T)


METHODS: dict[str, Callable[[BertModel, Trace, Tensor], Iterator[LayerMap]]] = {
    "attention": by_attention,
    "norm": by_norm,
    "norm+residual": by_norm_with_residual,
    "norm+residual+ln": by_norm_with_layer_norm,
    "rollout": by_rollout,
    "globenc": by_globenc,
    "alti": by_alti,
    "decompx": by_decompx,
}


def _multiplied(maps: Iterator[tuple[Tensor, float]], real: Tensor) -> Iterator[LayerMap]:
    """The maps of all layers so far, multiplied: what of a position comes from each embedding."""
    product = None
    for each, error in maps:
        each = without_padding(each, real)
        product = each if product is None else each @ product
        yield product, largest(torch.tensor([error, _rows_off(product, real)])), None


def summing_to_one(weights: Tensor) -> Tensor:
    """Rows divided by their sums; a row of zeros stays one."""
    total = weights.sum(dim=-1, keepdim=True)
    return weights / torch.where(total == 0, 1, total)


def without_padding(weights: Tensor, real: Tensor) -> Tensor:
    """Maps (B, S, S) with rows and columns of padding set to 0, also where padding has become infinite or NaN."""
    return weights.masked_fill(~(real[:, :, None] & real[:, None, :]), 0)


def as_mask(labels: list[list[str]], device: torch.device) -> Tensor:
    """True for each text's words, False for the rest of the longest: (B, N)."""
    counts = torch.tensor([len(each) for each in labels], device=device)
    return torch.arange(int(counts.max()), device=device) < counts[:, None]


def _rows_off(weights: Tensor, real: Tensor) -> float:
    """How far the rows of real positions are from a sum of 1."""
    return largest((weights.sum(dim=-1) - 1)[real])


def _chosen(layer: Any, layers: int) -> list[int]:
    """The layers that were asked for, counted from 1."""
    if layer is None:
        return list(range(1, layers + 1))
    number = as_integer(layer)
    if number is None or number == 0 or not -layers <= number <= layers:
        raise InputError(f"layer must be from 1 to {layers}, or from -1 to -{layers}, got {shown(layer)}")
    return [number if number > 0 else layers + 1 + number]
