"""What do the weights of one head, or of one neuron, say by themselves?

A head is two small circuits: QK decides where it looks, OV what it moves from there (Elhage et al. 2021, "A
Mathematical Framework for Transformer Circuits"). A neuron of a feed-forward block is a key, which it compares with the
hidden state, and a value, which it adds (Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value Memories"):

    head = circuit(model, layer=3, head=5)
    head.svd("OV").U[:, 0]                          # the direction that it writes most strongly
    head.words(head.svd("OV").U[:, 0], tokenizer)

    memories = neurons(model, layer=4)
    memories.words(17, tokenizer)                   # what neuron 17 adds, in the vocabulary
    memories.words(17, tokenizer, through="head")   # and as the head of a masked language model reads it
    memories.top_tokens(17, tokenizer, texts)       # what it fires on

The biases belong to both, and are kept: with them, the circuits give the scores, the outputs and the sums of the model
itself. What they leave out is the LayerNorm between one layer and the next.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from minibert.checks import check_integer, check_one_of
from minibert.errors import InputError
from minibert.interpret.nearest import nearest_words
from minibert.interpret.reading import masked_lm_of, read
from minibert.interpret.runs import bert_of
from minibert.interpret.texts import batches_of
from minibert.model import EncoderLayer
from minibert.show.tables import table
from minibert.tokenizer import BertTokenizer
from minibert.trace.recording import record


class SVD(NamedTuple):
    """A = U · diag(S) · Vᵀ, the largest singular value first; as many as the head size."""

    U: Tensor  # (D, W): what is written, or for QK the query's side
    S: Tensor  # (W,)
    V: Tensor  # (D, W): what is read, or for QK the key's side


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """The weights of one head; a hidden state x is (D,), and W_Q · x + b_Q its query."""

    model: nn.Module
    layer: int
    head: int
    W_Q: Tensor  # (W, D)
    W_K: Tensor  # (W, D)
    W_V: Tensor  # (W, D)
    W_O: Tensor  # (D, W)
    b_Q: Tensor  # (W,)
    b_K: Tensor  # (W,)
    b_V: Tensor  # (W,)
    b_O: Tensor  # (D,): one for all heads of the layer, and in no head's output

    @property
    def OV(self) -> Tensor:
        """What the head writes for what it reads, (D, D): OV · x, beside the constant W_O · b_V."""
        return self.W_O @ self.W_V

    @property
    def QK(self) -> Tensor:
        """How strongly a query looks at a key, (D, D): x · QK · y, divided by √W, beside what the biases add."""
        return self.W_Q.T @ self.W_K * self.W_Q.shape[0] ** -0.5

    def scores(self, hidden: Tensor) -> Tensor:
        """The attention scores before mask and softmax, with all biases: hidden states (B, S, D) → (B, S, T).

        Raises:
            InputError: relative positions, whose scores also depend on the distance.
        """
        if not bert_of(self.model).embeddings.absolute:
            raise InputError("scores of a model with relative positions also depend on the distance: record them")
        scale = self.W_Q.shape[0] ** -0.5
        by_query = hidden @ self.W_Q.T @ self.b_K * scale  # (B, S): the same for all keys
        by_key = hidden @ self.W_K.T @ self.b_Q * scale  # (B, T)
        constant = self.b_Q @ self.b_K * scale
        return hidden @ self.QK @ hidden.transpose(1, 2) + by_query[:, :, None] + by_key[:, None] + constant

    def outputs(self, hidden: Tensor, probabilities: Tensor) -> Tensor:
        """What the head adds to the output of attention: hidden states (B, S, D), its pattern (B, S, T) → (B, S, D)."""
        return probabilities @ (hidden @ self.OV.T + self.W_O @ self.b_V)

    def svd(self, of: Literal["OV", "QK"] = "OV") -> SVD:
        """The singular value decomposition of a circuit."""
        check_one_of("of", of, ("OV", "QK"))
        left, right = (self.W_O, self.W_V) if of == "OV" else (self.W_Q.T, self.W_K)  # (D, W), (W, D)
        dtype = torch.promote_types(left.dtype, torch.float32)  # PyTorch has no SVD of half precision
        # The product has rank W: with orthonormal bases of both sides, what is left is W × W.
        left_basis, left_rest = torch.linalg.qr(left.to(dtype))
        right_basis, right_rest = torch.linalg.qr(right.T.to(dtype))
        u, s, vt = torch.linalg.svd(left_rest @ right_rest.T)
        scale = 1.0 if of == "OV" else self.W_Q.shape[0] ** -0.5
        return SVD(left_basis @ u, s * scale, right_basis @ vt.T)

    def words(self, direction: Tensor, tokenizer: BertTokenizer, k: int = 10) -> list[tuple[str, float]]:
        """The k words whose embeddings are nearest to a direction (D,).

        The sign of a singular vector is arbitrary: ask for −direction as well.
        """
        found: list[tuple[str, float]] = nearest_words(direction, self.model, tokenizer, k)
        return found

    def __str__(self) -> str:
        rows = [("circuit", "norm", "largest singular values")]
        for name in ("OV", "QK"):
            values = self.svd(name).S
            rows.append((name, f"{values.norm():.3f}", " ".join(f"{value:.3f}" for value in values[:5])))
        size, width = self.W_O.shape
        return f"layer {self.layer} head {self.head}: {size} dimensions through {width}\n{table(rows, right=[1])}"

    __repr__ = __str__

    def plot(self, of: Literal["OV", "QK"] = "OV") -> Any:
        """A picture of a circuit's singular values, the largest first."""
        from minibert.show.plots import plot_bars

        values = self.svd(of).S.tolist()
        title = f"{of} of layer {self.layer} head {self.head}"
        return plot_bars(values, list(map(str, range(len(values)))), quantity="singular value", title=title)


class Composition(NamedTuple):
    """How much of what a head reads is what an earlier one writes, from 0 to 1 (Elhage et al. 2021, "Composition")."""

    query: float
    key: float
    value: float


@torch.no_grad()
def circuit(model: nn.Module, layer: int, head: int) -> Circuit:
    """Returns the weights of one head.

    Args:
        model: a `BertModel`, or one with a head.
        layer, head: counted from 0.

    Raises:
        InputError: the model has no such layer or head.
    """
    bert = bert_of(model)
    check_integer("layer", layer, 0, len(bert.encoder.layers) - 1)
    module = bert.encoder.layers[layer]
    assert isinstance(module, EncoderLayer)
    attention, size = module.attention, bert.config.head_size
    check_integer("head", head, 0, len(bert.config.kept_heads(layer)) - 1)
    rows = slice(head * size, (head + 1) * size)
    weights = (attention.query.weight[rows], attention.key.weight[rows], attention.value.weight[rows])
    biases = (attention.query.bias[rows], attention.key.bias[rows], attention.value.bias[rows])
    output = attention.output
    values = (*weights, output.weight[:, rows], *biases, output.bias)
    return Circuit(model, layer, head, *(value.detach() for value in values))


@torch.no_grad()
def composition(earlier: Circuit, later: Circuit) -> Composition:
    """Returns how much the query, key and value of a later head read of what an earlier one writes.

    It is ‖A · B‖ / (‖A‖ · ‖B‖), in Frobenius norms, of the circuit that reads and the OV circuit that writes. The
    LayerNorms between them are left out, and so is everything else that the later head reads. Two random matrices of
    this rank score about 1/√D. Of a circuit that is 0, no score is more than 0.

    Raises:
        InputError: the second head is not in a later layer.
    """
    if later.layer <= earlier.layer:
        raise InputError(f"later must be in a later layer than {earlier.layer}, got {later.layer}")
    written = earlier.OV

    def score(reads: Tensor, writes: Tensor) -> float:
        both = reads.norm() * writes.norm()
        return ((reads @ writes).norm() / torch.where(both == 0, 1, both)).item()

    return Composition(score(later.QK.T, written), score(later.QK, written), score(later.OV, written))


class Activation(NamedTuple):
    """Where a neuron fires."""

    activation: float
    token: str
    position: int
    text: str


@dataclass(frozen=True, eq=False, repr=False)
class Neurons:
    """The F neurons of one feed-forward block."""

    model: nn.Module
    layer: int
    keys: Tensor  # (F, D): each compares its key with the hidden state
    key_biases: Tensor  # (F,)
    values: Tensor  # (F, D): and adds its value as often as it fires
    bias: Tensor  # (D,): what the block adds besides

    def __str__(self) -> str:
        count, size = self.values.shape
        longest = self.values.norm(dim=-1).topk(min(5, count))
        rows = [("neuron", "norm of its value", "norm of its key", "key bias")]
        for neuron, norm in zip(longest.indices.tolist(), longest.values.tolist(), strict=True):
            rows.append(
                (str(neuron), f"{norm:.3f}", f"{self.keys[neuron].norm():.3f}", f"{self.key_biases[neuron]:.3f}")
            )
        first = f"layer {self.layer}: {count:,} neurons of {size} dimensions, those that add most when they fire"
        return f"{first}\n{table(rows, right=[0, 1, 2, 3])}"

    __repr__ = __str__

    @torch.no_grad()
    def words(
        self,
        neuron: int,
        tokenizer: BertTokenizer,
        k: int = 10,
        *,
        through: Literal["embeddings", "head"] = "embeddings",
    ) -> list[tuple[str, float]]:
        """What a neuron adds, in the vocabulary (Geva et al. 2022, section 4).

        Later layers and the rest of the hidden state change it before it becomes a prediction.

        Args:
            neuron: counted from 0.
            tokenizer: the model's.
            k: how many words.
            through: "embeddings" for the words whose embeddings are nearest, each with its cosine; "head" for those
                that the head of a masked language model would predict if the value were the hidden state, each with
                its logit less the one at a hidden state of 0.

        Raises:
            InputError: no such neuron, or a head that the model does not have.
        """
        check_integer("neuron", neuron, 0, len(self.values) - 1)
        check_one_of("through", through, ("embeddings", "head"))
        if through == "head":
            value = torch.stack([self.values[neuron], torch.zeros_like(self.values[neuron])])
            logits, at_zero = read(masked_lm_of(self.model), value)  # (2, D) → (2, V)
            check_integer("k", k, 1, len(logits))
            best = (logits - at_zero).topk(k)
            tokens = tokenizer.convert_ids_to_tokens(best.indices.tolist())
            return list(zip(tokens, best.values.tolist(), strict=True))
        found: list[tuple[str, float]] = nearest_words(self.values[neuron], self.model, tokenizer, k)
        return found

    @torch.no_grad()
    def top_tokens(self, neuron: int, tokenizer: BertTokenizer, texts: Iterable[str], k: int = 10) -> list[Activation]:
        """The k tokens of a corpus that a neuron fires on most, the strongest first; padding is no token.

        Texts may be a generator of any length: k activations are kept.
        """
        check_integer("neuron", neuron, 0, len(self.values) - 1)
        check_integer("k", k, 1)
        name = f"encoder.layers.{self.layer}.feed_forward.activation"
        best: list[tuple[float, int, int, str, str]] = []
        for batch in batches_of(self.model, tokenizer, texts):
            with record(self.model, name) as trace:
                bert_of(self.model)(**batch.inputs)
            fired = trace[name][..., neuron].masked_fill(batch.inputs["attention_mask"] == 0, -torch.inf)  # (B, S)
            strongest = fired.flatten().topk(min(k, fired.numel()))
            for value, place in zip(strongest.values.tolist(), strongest.indices.tolist(), strict=True):
                row, position = divmod(place, fired.shape[1])
                if value > -torch.inf:
                    # The number of the text breaks ties: the order of the batches does not matter.
                    entry = (
                        value,
                        -batch.numbers[row],
                        -position,
                        batch.inputs.tokens(row)[position],
                        batch.texts[row],
                    )
                    heapq.heappush(best, entry)
                    if len(best) > k:
                        heapq.heappop(best)
        return [Activation(value, token, -position, text) for value, _, position, token, text in sorted(best)[::-1]]


@torch.no_grad()
def neurons(model: nn.Module, layer: int) -> Neurons:
    """Returns the neurons of one feed-forward block: activation(x · key + key bias) times value, summed, plus the bias.

    Args:
        model: a `BertModel`, or one with a head.
        layer: counted from 0.

    Raises:
        InputError: the model has no such layer.
    """
    bert = bert_of(model)
    check_integer("layer", layer, 0, len(bert.encoder.layers) - 1)
    module = bert.encoder.layers[layer]
    assert isinstance(module, EncoderLayer)
    block = module.feed_forward
    values = (block.expand.weight, block.expand.bias, block.contract.weight.T, block.contract.bias)
    return Neurons(model, layer, *(value.detach() for value in values))
