"""What goes wrong when people write a BERT?

Each bug is a mistake that people make, as the smallest change that gives a correct model this mistake:

    with BUGS["no scale"].applied(model):
        model(**inputs)                             # as if the scores had not been divided by √W

One catalogue serves three purposes: `diagnose` tries each bug on the reference to see which one reproduces a student's
numbers, the lessons show what a mistake costs, and our own tests are checked against it: is each of these caught?
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.heads import MaskedLMHead, bert_in
from minibert.model import Attention, EncoderLayer, gelu_tanh
from minibert.teaching.parts import (
    Change,
    all_of,
    layers_of,
    masked_loss,
    norms_of,
    patched,
    patched_parameter,
    replace_part,
)
from minibert.trace.attention import TracedAttention, replace_attention
from minibert.vectors.pooling import combine_layers, mean_pool
from minibert.vectors.similarity import cosine_similarity

ChangeOf = Callable[[nn.Module], Change]  # gives a correct model a bug inside a block


@dataclass(frozen=True)
class Bug:
    """A mistake."""

    name: str  # what messages call it
    explanation: str  # what the code does, and what it should do: a sentence for a learner
    shows_at: str  # the first value that it changes, by its short name
    seen_in: str  # where people have met it; hf#N and st#N: issues of transformers and of sentence-transformers
    change: ChangeOf
    random: bool = False  # whether its numbers change on every call

    def applied(self, model: nn.Module) -> Change:
        """The model has this bug inside the block, and is correct again after it, also when it raises."""
        return self.change(model)


BUGS: dict[str, Bug] = {}


def bug(
    name: str, *, shows_at: str, seen_in: str, explanation: str, random: bool = False
) -> Callable[[ChangeOf], ChangeOf]:
    """Enters the function below it into the catalogue: given a model, it returns the change that makes the mistake."""

    def register(change: ChangeOf) -> ChangeOf:
        BUGS[name] = Bug(name, explanation, shows_at, seen_in, change, random)
        return change

    return register


# --- embeddings ------------------------------------------------------------------------------------------------------


def change_table(model: nn.Module, name: str, make: Callable[[Tensor], Tensor]) -> Change:
    """One of the three embedding tables has the values make(table)."""
    table = getattr(bert_in(model).embeddings, name).weight
    return patched_parameter(table, make(table))


@bug(
    "positions off by one",
    shows_at="embeddings.position_embeddings",
    seen_in="RoBERTa, which counts from 2; loops that count from 1",
    explanation="The first token gets the vector of position 1; positions count from 0.",
)
def positions_off_by_one(model: nn.Module) -> Change:
    return change_table(model, "position_embeddings", lambda table: table.roll(-1, dims=0))


@bug(
    "sinusoidal positions",
    shows_at="embeddings.position_embeddings",
    seen_in="code written after AIAYN, section 3.5",
    explanation="Positions are sines and cosines; BERT learned a table of them, embeddings.position_embeddings.",
)
def sinusoidal_positions(model: nn.Module) -> Change:
    return change_table(model, "position_embeddings", sinusoids)


def sinusoids(table: Tensor) -> Tensor:
    """The positions of AIAYN, section 3.5, in the shape of a table (positions, D)."""
    positions = torch.arange(len(table), dtype=table.dtype, device=table.device)[:, None]
    rates = 10000 ** (-torch.arange(0, table.shape[1], 2, dtype=table.dtype, device=table.device) / table.shape[1])
    waves = torch.stack([(positions * rates).sin(), (positions * rates).cos()], dim=-1).flatten(1)
    return waves[:, : table.shape[1]]


@bug(
    "positions dropped",
    shows_at="embeddings.position_embeddings",
    seen_in="hand-written embeddings",
    explanation="No position vector is added, so the order of the words is lost.",
)
def positions_dropped(model: nn.Module) -> Change:
    return change_table(model, "position_embeddings", torch.zeros_like)


@bug(
    "segment ids all 1",
    shows_at="embeddings.token_type_embeddings",
    seen_in="a popular tutorial, which sets segments_ids = [1] * len(tokens)",
    explanation="Every token is said to be in the second segment; a single text is segment 0.",
)
def segment_ids_all_1(model: nn.Module) -> Change:
    return change_table(model, "token_type_embeddings", lambda table: table[-1].expand_as(table))


@bug(
    "segment ids all 0",
    shows_at="embeddings.token_type_embeddings",
    seen_in="token_type_ids that are not passed on",
    explanation="Every token is said to be in the first segment: token_type_ids are ignored.",
)
def segment_ids_all_0(model: nn.Module) -> Change:
    return change_table(model, "token_type_embeddings", lambda table: table[0].expand_as(table))


@bug(
    "token types dropped",
    shows_at="embeddings.token_type_embeddings",
    seen_in="hand-written embeddings",
    explanation="No segment vector is added; a single text needs that of segment 0 as well.",
)
def token_types_dropped(model: nn.Module) -> Change:
    return change_table(model, "token_type_embeddings", torch.zeros_like)


@bug(
    "word embeddings times √D",
    shows_at="embeddings.word_embeddings",
    seen_in="code written after AIAYN, section 3.4",
    explanation="Word vectors are multiplied by √D, as in AIAYN; BERT adds them as they are.",
)
def word_embeddings_scaled(model: nn.Module) -> Change:
    # The output, not the table: that one is the decoder of masked words as well.
    embedding = bert_in(model).embeddings.word_embeddings
    forward, scale = embedding.forward, math.sqrt(embedding.embedding_dim)
    return patched([embedding], "forward", lambda _: lambda ids: forward(ids) * scale)


@bug(
    "embedding norm forgotten",
    shows_at="embeddings.norm",
    seen_in="hand-written embeddings",
    explanation="The sum of the three embeddings goes on as it is; BERT normalises it first.",
)
def embedding_norm_forgotten(model: nn.Module) -> Change:
    return patched([bert_in(model).embeddings.norm], "forward", lambda norm: lambda x: x)


# --- attention: its projections --------------------------------------------------------------------------------------


def projections(model: nn.Module, name: str) -> list[nn.Linear]:
    """One of a layer's linear maps, of every layer: "attention.query", "feed_forward.expand"."""
    found = [layer.get_submodule(name) for layer in layers_of(model)]
    return [linear for linear in found if isinstance(linear, nn.Linear)]


def compute_by(model: nn.Module, target: str, source: str) -> Change:
    """One projection of every layer uses the weight and bias of a different one."""
    sources = dict(
        zip(projections(model, f"attention.{target}"), projections(model, f"attention.{source}"), strict=True)
    )
    return patched(sources, "forward", lambda linear: sources[linear].forward)


def drop_bias(model: nn.Module, name: str) -> Change:
    biases = [linear.bias for linear in projections(model, name)]
    return all_of(patched_parameter(bias, torch.zeros_like(bias)) for bias in biases)


@bug(
    "query and key swapped",
    shows_at="attention.query",
    seen_in="weights copied by hand",
    explanation="Queries are computed with the key's matrix and keys with the query's.",
)
def query_and_key_swapped(model: nn.Module) -> Change:
    def swap(query: nn.Linear, key: nn.Linear) -> Change:
        return patched([query, key], "forward", lambda each: key.forward if each is query else query.forward)

    return all_of(swap(layer.attention.query, layer.attention.key) for layer in layers_of(model))


@bug(
    "value from the key's projection",
    shows_at="attention.value",
    seen_in="copied lines",
    explanation="Values are computed with the key's matrix; they have one of their own.",
)
def value_from_key(model: nn.Module) -> Change:
    return compute_by(model, "value", "key")


@bug(
    "key from the query's projection",
    shows_at="attention.key",
    seen_in="copied lines",
    explanation="Keys are computed with the query's matrix; they have one of their own.",
)
def key_from_query(model: nn.Module) -> Change:
    return compute_by(model, "key", "query")


@bug(
    "weights transposed",
    shows_at="attention.query",
    seen_in="checkpoints converted from TensorFlow, whose matrices are (in, out)",
    explanation="The attention's square matrices are transposed; no shape shows it. A Linear computes x·Wᵀ + b.",
)
def weights_transposed(model: nn.Module) -> Change:
    names = ("attention.query", "attention.key", "attention.value", "attention.output")
    weights = [linear.weight for name in names for linear in projections(model, name)]
    return all_of(patched_parameter(weight, weight.T) for weight in weights)


@bug(
    "query bias dropped",
    shows_at="attention.query",
    seen_in="bias=False",
    explanation="The query has no bias; each of BERT's projections has one.",
)
def query_bias_dropped(model: nn.Module) -> Change:
    return drop_bias(model, "attention.query")


@bug(
    "key bias dropped",
    shows_at="attention.key",
    seen_in="bias=False",
    explanation="The key has no bias. It changes no output, because the softmax cancels it; but the checkpoint has it.",
)
def key_bias_dropped(model: nn.Module) -> Change:
    return drop_bias(model, "attention.key")


@bug(
    "value bias dropped",
    shows_at="attention.value",
    seen_in="bias=False",
    explanation="The value has no bias; each of BERT's projections has one.",
)
def value_bias_dropped(model: nn.Module) -> Change:
    return drop_bias(model, "attention.value")


@bug(
    "heads split without the transpose",
    shows_at="attention.query",
    seen_in="view(B, H, S, W) straight from (B, S, D)",
    explanation="A view as (B, H, S, W) mixes tokens and heads: view as (B, S, H, W), then transpose(1, 2).",
)
def heads_split_without_the_transpose(model: nn.Module) -> Change:
    def split(attention: Attention, projected: Tensor) -> Tensor:
        batch, sequence, _ = projected.shape
        return projected.view(batch, -1, sequence, attention.head_size)

    return replace_part(model, "split_heads", split)


# --- attention: its steps --------------------------------------------------------------------------------------------


def replace_attention_by(model: nn.Module, attention: TracedAttention) -> Change:
    return all_of(replace_attention(layer.attention, attention) for layer in layers_of(model))


def replace_step(model: nn.Module, **steps: Callable[..., Tensor]) -> Change:
    """Attention in which some of the methods of `TracedAttention` are different."""
    wrong = type("WrongAttention", (TracedAttention,), {name: staticmethod(step) for name, step in steps.items()})
    return replace_attention_by(model, wrong())


@bug(
    "no scale",
    shows_at="attention.scaled_scores",
    seen_in="hand-written attention",
    explanation="The scores are not divided by √W, the square root of the head size (AIAYN, equation 1).",
)
def no_scale(model: nn.Module) -> Change:
    return replace_step(model, scale=lambda scores, head_size: scores * 1.0)


@bug(
    "scale by W",
    shows_at="attention.scaled_scores",
    seen_in="a forgotten square root",
    explanation="The scores are divided by W; it should be its square root (AIAYN, equation 1).",
)
def scale_by_w(model: nn.Module) -> Change:
    return replace_step(model, scale=lambda scores, head_size: scores / head_size)


@bug(
    "scale by √D",
    shows_at="attention.scaled_scores",
    seen_in="hidden_size where the head size belongs",
    explanation="The scores are divided by √D; it should be √W, where W = D / H is the head size.",
)
def scale_by_hidden_size(model: nn.Module) -> Change:
    hidden_size = bert_in(model).config.hidden_size
    return replace_step(model, scale=lambda scores, head_size: scores * hidden_size**-0.5)


@bug(
    "no mask",
    shows_at="attention.masked_scores",
    seen_in="hf#2860",
    explanation="Padding is attended to like any token: the mask is not added to the scores.",
)
def no_mask(model: nn.Module) -> Change:
    return replace_step(model, add_mask=lambda scores, mask: scores * 1.0)


@bug(
    "mask of the queries",
    shows_at="attention.masked_scores",
    seen_in="mask[:, None, :, None]",
    explanation="The mask hides rows, the queries that are padding; it should hide columns, the keys: (B, 1, 1, T).",
)
def mask_of_the_queries(model: nn.Module) -> Change:
    def add_mask(scores: Tensor, mask: Tensor | None) -> Tensor:
        return scores if mask is None else scores + mask.transpose(2, 3)  # (B, 1, 1, T) → (B, 1, S, 1)

    return replace_step(model, add_mask=add_mask)


@bug(
    "mask added raw",
    shows_at="attention.masked_scores",
    seen_in="1 and 0 added to the scores",
    explanation="The mask of ones and zeros is added itself, which changes a score by 1; hidden keys need a large "
    "negative number.",
)
def mask_added_raw(model: nn.Module) -> Change:
    def add_mask(scores: Tensor, mask: Tensor | None) -> Tensor:
        return scores if mask is None else scores + (mask == 0).to(scores.dtype)

    return replace_step(model, add_mask=add_mask)


def mask_with(model: nn.Module, constant: float) -> Change:
    def add_mask(scores: Tensor, mask: Tensor | None) -> Tensor:
        return scores if mask is None else scores + torch.zeros_like(mask).masked_fill(mask != 0, constant)

    return replace_step(model, add_mask=add_mask)


@bug(
    "mask of −10000",
    shows_at="attention.masked_scores",
    seen_in="Google's original code",
    explanation="The mask is −10000, which a large enough score outweighs: torch.finfo(dtype).min is the most negative "
    "number there is.",
)
def mask_of_10000(model: nn.Module) -> Change:
    return mask_with(model, -10000.0)


@bug(
    "mask of −10⁹",
    shows_at="attention.masked_scores",
    seen_in="-1e9, which float16 does not have",
    explanation="The mask is −10⁹: in float16 that is −∞. torch.finfo(dtype).min is the most negative number of each "
    "dtype.",
)
def mask_of_a_billion(model: nn.Module) -> Change:
    return mask_with(model, -1e9)


@bug(
    "mask of −∞",
    shows_at="attention.masked_scores",
    seen_in="float('-inf')",
    explanation="The mask is −∞: a row of nothing but padding becomes 0/0, NaN. Use torch.finfo(dtype).min.",
)
def mask_of_infinity(model: nn.Module) -> Change:
    return mask_with(model, -math.inf)


class MaskAfterSoftmax(TracedAttention):
    """Sets the probabilities of hidden keys to zero, and leaves the scores alone."""

    def add_mask(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        self.visible = 1.0 if mask is None else mask == 0
        return scores * 1.0

    def softmax(self, scores: Tensor) -> Tensor:
        return F.softmax(scores, dim=-1) * self.visible


@bug(
    "mask after the softmax",
    shows_at="attention.masked_scores",
    seen_in="probabilities * mask",
    explanation="Padding is set to zero after the softmax, so the rest does not sum to 1: mask the scores, before it.",
)
def mask_after_the_softmax(model: nn.Module) -> Change:
    return replace_attention_by(model, MaskAfterSoftmax())


@bug(
    "softmax over the queries",
    shows_at="attention.probabilities",
    seen_in="dim=-2",
    explanation="The softmax goes over the queries; each query's weights over the keys must sum to 1: dim=-1.",
)
def softmax_over_the_queries(model: nn.Module) -> Change:
    return replace_step(model, softmax=lambda scores: F.softmax(scores, dim=-2))


@bug(
    "softmax over the heads",
    shows_at="attention.probabilities",
    seen_in="dim=1",
    explanation="The softmax goes over the heads; each query's weights over the keys must sum to 1: dim=-1.",
)
def softmax_over_the_heads(model: nn.Module) -> Change:
    return replace_step(model, softmax=lambda scores: F.softmax(scores, dim=1))


@bug(
    "probabilities transposed",
    shows_at="attention.context",
    seen_in="one transpose too many",
    explanation="Each token gets what the others would take from it: the probabilities are transposed before they meet "
    "the values.",
)
def probabilities_transposed(model: nn.Module) -> Change:
    return replace_step(model, weigh=lambda probabilities, value: probabilities.transpose(2, 3) @ value)


@bug(
    "heads merged without the transpose",
    shows_at="attention.output",
    seen_in="view(B, S, D) straight from (B, H, S, W)",
    explanation="A view as (B, S, D) mixes tokens and heads: transpose(1, 2) first, then flatten(2).",
)
def heads_merged_without_the_transpose(model: nn.Module) -> Change:
    def merge(attention: Attention, context: Tensor) -> Tensor:
        batch, _, sequence, _ = context.shape
        return context.contiguous().view(batch, sequence, -1)

    return replace_part(model, "merge_heads", merge)


@bug(
    "output bias dropped",
    shows_at="attention.output",
    seen_in="bias=False",
    explanation="The attention's output has no bias; each of BERT's projections has one.",
)
def output_bias_dropped(model: nn.Module) -> Change:
    return drop_bias(model, "attention.output")


# --- feed-forward ----------------------------------------------------------------------------------------------------


@bug(
    "GELU by tanh",
    shows_at="feed_forward.activation",
    seen_in="GPT-2's activation; 4e-4 per element",
    explanation="GELU is computed by its approximation with tanh; BERT's is x·Φ(x), with the error function.",
)
def gelu_by_tanh(model: nn.Module) -> Change:
    return replace_part(model, "gelu", gelu_tanh)


@bug(
    "ReLU for GELU",
    shows_at="feed_forward.activation",
    seen_in="code written after AIAYN, section 3.3",
    explanation="The activation is ReLU, as in AIAYN; BERT's is GELU, x·Φ(x).",
)
def relu_for_gelu(model: nn.Module) -> Change:
    return replace_part(model, "gelu", F.relu)


@bug(
    "activation forgotten",
    shows_at="feed_forward.activation",
    seen_in="two Linear layers in a row",
    explanation="There is no activation between the two linear maps, so together they are only one.",
)
def activation_forgotten(model: nn.Module) -> Change:
    return replace_part(model, "gelu", lambda x: x * 1.0)


@bug(
    "expand bias dropped",
    shows_at="feed_forward.expand",
    seen_in="bias=False",
    explanation="The first map of the feed-forward has no bias; it should have one.",
)
def expand_bias_dropped(model: nn.Module) -> Change:
    return drop_bias(model, "feed_forward.expand")


@bug(
    "contract bias dropped",
    shows_at="feed_forward.contract",
    seen_in="bias=False",
    explanation="The second map of the feed-forward has no bias; it should have one.",
)
def contract_bias_dropped(model: nn.Module) -> Change:
    return drop_bias(model, "feed_forward.contract")


# --- LayerNorm -------------------------------------------------------------------------------------------------------


@bug(
    "eps of 1e-5",
    shows_at="embeddings.norm",
    seen_in="PyTorch's default; BERT's is 1e-12",
    explanation="LayerNorm adds 1e-5 to the variance; it should add the eps that the module has.",
)
def eps_of_1e_5(model: nn.Module) -> Change:
    return patched(norms_of(model), "eps", lambda _: 1e-5)


@bug(
    "eps of 1e-12",
    shows_at="embeddings.norm",
    seen_in="BERT's, for a checkpoint that has a different one",
    explanation="LayerNorm adds 1e-12 to the variance; it should add the eps that the module has.",
)
def eps_of_1e_12(model: nn.Module) -> Change:
    return patched(norms_of(model), "eps", lambda _: 1e-12)


@bug(
    "eps outside the root",
    shows_at="embeddings.norm",
    seen_in="hand-written LayerNorm",
    explanation="LayerNorm divides by √variance + eps; it should be √(variance + eps).",
)
def eps_outside_the_root(model: nn.Module) -> Change:
    def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True).sqrt() + eps) * weight + bias

    return replace_part(model, "layer_norm", norm)


@bug(
    "variance over n − 1",
    shows_at="embeddings.norm",
    seen_in="x.var() and x.std() without unbiased=False",
    explanation="LayerNorm divides the squares by n − 1, as x.var() does; it should be n: x.var(unbiased=False).",
)
def variance_over_n_minus_1(model: nn.Module) -> Change:
    def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (x.var(-1, keepdim=True) + eps).sqrt() * weight + bias

    return replace_part(model, "layer_norm", norm)


@bug(
    "mean not subtracted",
    shows_at="embeddings.norm",
    seen_in="RMSNorm",
    explanation="LayerNorm does not subtract the mean: that is RMSNorm.",
)
def mean_not_subtracted(model: nn.Module) -> Change:
    def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias

    return replace_part(model, "layer_norm", norm)


@bug(
    "norm over the sequence",
    shows_at="embeddings.norm",
    seen_in="dim=1",
    explanation="LayerNorm goes over the tokens of a text; it should go over the D numbers of each token.",
)
def norm_over_the_sequence(model: nn.Module) -> Change:
    def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(-2, keepdim=True)
        return centred / (centred.square().mean(-2, keepdim=True) + eps).sqrt() * weight + bias

    return replace_part(model, "layer_norm", norm)


@bug(
    "gamma and beta swapped",
    shows_at="embeddings.norm",
    seen_in="checkpoints that call them gamma and beta",
    explanation="LayerNorm's weight (gamma) and bias (beta) are swapped.",
)
def gamma_and_beta_swapped(model: nn.Module) -> Change:
    def swap(norm: nn.LayerNorm) -> Change:
        weight, bias = norm.weight.data, norm.bias.data
        return all_of([patched_parameter(norm.weight, bias), patched_parameter(norm.bias, weight)])

    return all_of(swap(norm) for norm in norms_of(model))


@bug(
    "norm bias dropped",
    shows_at="embeddings.norm",
    seen_in="hand-written LayerNorm",
    explanation="LayerNorm ends without its bias (beta): weight times the normalised vector, and then the bias is "
    "added.",
)
def norm_bias_dropped(model: nn.Module) -> Change:
    return replace_part(
        model, "layer_norm", lambda x, weight, bias, eps: F.layer_norm(x, weight.shape, weight, None, eps)
    )


@bug(
    "norm weight dropped",
    shows_at="embeddings.norm",
    seen_in="hand-written LayerNorm",
    explanation="LayerNorm ends without its weight (gamma): the normalised vector is multiplied by it, before the bias "
    "is added.",
)
def norm_weight_dropped(model: nn.Module) -> Change:
    return replace_part(
        model, "layer_norm", lambda x, weight, bias, eps: F.layer_norm(x, weight.shape, None, bias, eps)
    )


@bug(
    "attention norm forgotten",
    shows_at="attention_norm",
    seen_in="hand-written layers",
    explanation="The sum after attention is not normalised.",
)
def attention_norm_forgotten(model: nn.Module) -> Change:
    return patched([layer.attention_norm for layer in layers_of(model)], "forward", lambda norm: lambda x: x)


@bug(
    "feed-forward norm forgotten",
    shows_at="feed_forward_norm",
    seen_in="hand-written layers",
    explanation="The sum after the feed-forward is not normalised.",
)
def feed_forward_norm_forgotten(model: nn.Module) -> Change:
    return patched([layer.feed_forward_norm for layer in layers_of(model)], "forward", lambda norm: lambda x: x)


@bug(
    "norms swapped",
    shows_at="attention_norm",
    seen_in="weights copied by hand",
    explanation="A layer's two LayerNorms are swapped.",
)
def norms_swapped(model: nn.Module) -> Change:
    def swap(first: nn.LayerNorm, second: nn.LayerNorm) -> Change:
        return patched([first, second], "forward", lambda each: second.forward if each is first else first.forward)

    return all_of(swap(layer.attention_norm, layer.feed_forward_norm) for layer in layers_of(model))


# --- residual connections: the layer, each time with one line different -----------------------------------------------

LayerOutput = tuple[Tensor, Tensor | None]  # what a layer returns: hidden states and attention probabilities


@bug(
    "no residual around attention",
    shows_at="attention_sum",
    seen_in="hand-written layers",
    explanation="Attention's output is not added to its input.",
)
def no_residual_around_attention(model: nn.Module) -> Change:
    def forward(layer: EncoderLayer, hidden: Tensor, mask: Tensor | None) -> LayerOutput:
        attended, probabilities = layer.attention(hidden, mask)
        hidden = layer.attention_norm(attended)
        return layer.feed_forward_norm(hidden + layer.feed_forward(hidden)), probabilities

    return replace_part(model, "layer", forward)


@bug(
    "no residual around the feed-forward",
    shows_at="feed_forward_sum",
    seen_in="hand-written layers",
    explanation="The feed-forward's output is not added to its input.",
)
def no_residual_around_the_feed_forward(model: nn.Module) -> Change:
    def forward(layer: EncoderLayer, hidden: Tensor, mask: Tensor | None) -> LayerOutput:
        attended, probabilities = layer.attention(hidden, mask)
        hidden = layer.attention_norm(hidden + attended)
        return layer.feed_forward_norm(layer.feed_forward(hidden)), probabilities

    return replace_part(model, "layer", forward)


@bug(
    "residual from the layer's input",
    shows_at="feed_forward_sum",
    seen_in="a variable that was overwritten too late",
    explanation="The feed-forward's output is added to the layer's input; it should be added to what the feed-forward "
    "read.",
)
def residual_from_the_layers_input(model: nn.Module) -> Change:
    def forward(layer: EncoderLayer, hidden: Tensor, mask: Tensor | None) -> LayerOutput:
        attended, probabilities = layer.attention(hidden, mask)
        normed = layer.attention_norm(hidden + attended)
        return layer.feed_forward_norm(hidden + layer.feed_forward(normed)), probabilities

    return replace_part(model, "layer", forward)


@bug(
    "residual after the norm",
    shows_at="attention_sum",
    seen_in="x + norm(sublayer(x))",
    explanation="The residual is added after the norm; BERT normalises the sum: norm(x + sublayer(x)).",
)
def residual_after_the_norm(model: nn.Module) -> Change:
    def forward(layer: EncoderLayer, hidden: Tensor, mask: Tensor | None) -> LayerOutput:
        attended, probabilities = layer.attention(hidden, mask)
        hidden = hidden + layer.attention_norm(attended)
        return hidden + layer.feed_forward_norm(layer.feed_forward(hidden)), probabilities

    return replace_part(model, "layer", forward)


@bug(
    "pre-norm",
    shows_at="attention.query",
    seen_in="GPT-2's layers",
    explanation="Each part normalises what it reads, x + sublayer(norm(x)); BERT normalises the sum: "
    "norm(x + sublayer(x)).",
)
def pre_norm(model: nn.Module) -> Change:
    def forward(layer: EncoderLayer, hidden: Tensor, mask: Tensor | None) -> LayerOutput:
        attended, probabilities = layer.attention(layer.attention_norm(hidden), mask)
        hidden = hidden + attended
        return hidden + layer.feed_forward(layer.feed_forward_norm(hidden)), probabilities

    return replace_part(model, "layer", forward)


# --- the whole model -------------------------------------------------------------------------------------------------


def compute_layers(model: nn.Module, order: Callable[[int], list[int]]) -> Change:
    """Of L layers, those numbered order(L) compute, one after the other; layers beyond them pass on what they read."""
    layers = layers_of(model)
    numbers = order(len(layers))
    changes = []
    for layer, number in zip(layers, numbers, strict=False):
        kinds = (nn.Linear, nn.LayerNorm)
        names = [name for name, module in layer.named_modules() if isinstance(module, kinds)]
        forwards = {layer.get_submodule(name): layers[number].get_submodule(name).forward for name in names}
        changes.append(patched(forwards, "forward", forwards.__getitem__))
    left_out = layers[len(numbers) :]
    changes.append(patched(left_out, "forward", lambda _: lambda hidden, *rest: (hidden, None)))
    return all_of(changes)


@bug(
    "layers in reverse order",
    shows_at="attention.query",
    seen_in="weights copied by hand",
    explanation="The layers come in the opposite order.",
)
def layers_in_reverse_order(model: nn.Module) -> Change:
    return compute_layers(model, lambda count: list(reversed(range(count))))


@bug(
    "one layer shared",
    shows_at="attention.query",
    seen_in="[layer] * L, or ALBERT's sharing",
    explanation="All layers are the first one: [EncoderLayer(config)] * L makes one layer, a loop makes L.",
)
def one_layer_shared(model: nn.Module) -> Change:
    return compute_layers(model, lambda count: [0] * count)


@bug(
    "last layer left out",
    shows_at="pooler.dense",
    seen_in="range(L - 1)",
    explanation="The last layer is not computed: there are L of them.",
)
def last_layer_left_out(model: nn.Module) -> Change:
    return compute_layers(model, lambda count: list(range(count - 1)))


@bug(
    "dropout left on",
    shows_at="attention.query",
    seen_in="hf#403, hf#695, hf#9039",
    explanation="The model is in training mode, and drops a tenth of all numbers at random, different ones on every "
    "call: model.eval().",
    random=True,
)
@contextmanager
def dropout_left_on(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.train()
    try:
        yield
    finally:
        model.train(training)


@bug(
    "pooler on the last token",
    shows_at="pooler.dense",
    seen_in="hidden[:, -1]",
    explanation="The pooler reads the last token; it should read the first, [CLS].",
)
def pooler_on_the_last_token(model: nn.Module) -> Change:
    return replace_part(model, "pooler", lambda pooler, hidden: torch.tanh(pooler.dense(hidden[:, -1])))


@bug(
    "pooler on the mean",
    shows_at="pooler.dense",
    seen_in="the pooler mistaken for a sentence vector",
    explanation="The pooler reads the mean of all tokens; it should read the first, [CLS].",
)
def pooler_on_the_mean(model: nn.Module) -> Change:
    return replace_part(model, "pooler", lambda pooler, hidden: torch.tanh(pooler.dense(hidden.mean(1))))


@bug(
    "pooler without tanh",
    shows_at="pooler.tanh",
    seen_in="hand-written poolers",
    explanation="The pooler's tanh is missing.",
)
def pooler_without_tanh(model: nn.Module) -> Change:
    return replace_part(model, "pooler", lambda pooler, hidden: pooler.dense(hidden[:, 0]))


# --- the head for masked words ---------------------------------------------------------------------------------------


def transform(head: MaskedLMHead, hidden: Tensor) -> Tensor:
    return head.norm(head.activation(head.dense(hidden)))


@bug(
    "decoder not tied",
    shows_at="logits",
    seen_in="decoder.weight, which is in no file, starts at random",
    explanation="The decoder has a matrix of its own, which no checkpoint has, so it is random; it should be the word "
    "embedding table.",
    random=True,
)
def decoder_not_tied(model: nn.Module) -> Change:
    table = bert_in(model).embeddings.word_embeddings.weight
    own = torch.randn_like(table) * bert_in(model).config.initializer_range

    def forward(head: MaskedLMHead, hidden: Tensor, _: Tensor) -> Tensor:
        return F.linear(transform(head, hidden), own.to(hidden.dtype), head.bias)

    return replace_part(model, "masked_lm", forward)


@bug(
    "decoder bias dropped",
    shows_at="logits",
    seen_in="hand-written heads",
    explanation="The decoder has no bias; its matrix is the word embedding table, its bias is its own.",
)
def decoder_bias_dropped(model: nn.Module) -> Change:
    return replace_part(model, "masked_lm", lambda head, hidden, table: F.linear(transform(head, hidden), table))


@bug(
    "transform left out",
    shows_at="logits",
    seen_in="hidden @ table.T",
    explanation="The hidden states go to the decoder as they are; BERT's head transforms them first: dense, "
    "activation, norm.",
)
def transform_left_out(model: nn.Module) -> Change:
    return replace_part(model, "masked_lm", lambda head, hidden, table: F.linear(hidden, table, head.bias))


# --- what is applied to the output: pooling --------------------------------------------------------------------------


@bug(
    "padding in the mean",
    shows_at="mean_pool",
    seen_in="token_vecs.mean(dim=0) on a padded text",
    explanation="The mean goes over padding too, whose vectors are not zero: multiply by the mask, divide by its sum.",
)
def padding_in_the_mean(model: nn.Module) -> Change:
    return replace_part(model, "mean_pool", lambda hidden, mask: hidden.mean(1))


@bug(
    "mean divided by the padded length",
    shows_at="mean_pool",
    seen_in="sum over the mask, then .mean()",
    explanation="The sum leaves padding out, but is divided by the length with padding: divide by the mask's sum.",
)
def mean_divided_by_the_padded_length(model: nn.Module) -> Change:
    return replace_part(model, "mean_pool", lambda hidden, mask: (hidden * mask[:, :, None]).mean(1))


@bug(
    "[CLS] and [SEP] left out of the mean",
    shows_at="mean_pool",
    seen_in="hand-written pooling",
    explanation="The mean leaves [CLS] and [SEP] out; that of sentence-transformers includes them.",
)
def special_tokens_left_out_of_the_mean(model: nn.Module) -> Change:
    def pool(hidden: Tensor, mask: Tensor) -> Tensor:
        inner = mask.clone()
        inner[:, 0] = 0
        inner[torch.arange(len(mask)), mask.sum(1) - 1] = 0
        return mean_pool(hidden, inner)

    return replace_part(model, "mean_pool", pool)


@bug(
    "[CLS] for the mean",
    shows_at="mean_pool",
    seen_in="st#1317",
    explanation="The vector is that of [CLS]; it should be the mean of all tokens.",
)
def cls_for_the_mean(model: nn.Module) -> Change:
    return replace_part(model, "mean_pool", lambda hidden, mask: hidden[:, 0])


# --- what is applied to the output: words and layers -----------------------------------------------------------------


@bug(
    "[CLS] off by one",
    shows_at="word_vector",
    seen_in="tokens.index(word) in a list without [CLS]",
    explanation="The word is counted in the tokens of the text, where the model has [CLS] before them: it is one "
    "position further.",
)
def cls_off_by_one(model: nn.Module) -> Change:
    return replace_part(model, "word_vector", lambda hidden, pieces, word: hidden[pieces.index(word)])


@bug(
    "[CLS] for the word",
    shows_at="word_vector",
    seen_in="hidden[0]",
    explanation="The vector is that of [CLS]; a word has one of its own.",
)
def cls_for_the_word(model: nn.Module) -> Change:
    return replace_part(model, "word_vector", lambda hidden, *_: hidden[0])


@bug(
    "last layer for the second-to-last",
    shows_at="second_to_last",
    seen_in="encoded_layers[11] of 12, called the second-to-last",
    explanation="That is the last layer; with the embeddings there are L + 1, and the second-to-last is "
    "hidden_states[-2].",
)
def last_layer_for_the_second_to_last(model: nn.Module) -> Change:
    return replace_part(model, "second_to_last", lambda states: states[-1])


@bug(
    "embeddings not counted",
    shows_at="second_to_last",
    seen_in="hidden_states[L - 2]: hf#1332, hf#2461",
    explanation="That is a layer too early: hidden_states[0] are the embeddings, so layer L - 1 is "
    "hidden_states[L - 1], or [-2].",
)
def embeddings_not_counted(model: nn.Module) -> Change:
    return replace_part(model, "second_to_last", lambda states: states[-3])


@bug(
    "a fixed layer number",
    shows_at="second_to_last",
    seen_in="hidden_states[11]: a different layer in a model of a different size",
    explanation="That layer has a fixed number, so with fewer layers it is a different one: count from the end, "
    "hidden_states[-2].",
)
def a_fixed_layer_number(model: nn.Module) -> Change:
    number = len(layers_of(model)) - 1
    return replace_part(model, "second_to_last", lambda states: states[number])


@bug(
    "a fixed layer number, and too early",
    shows_at="second_to_last",
    seen_in="hidden_states[10] in a model of 12 layers",
    explanation="That is a layer too early, because hidden_states[0] are the embeddings; and in a model of a different "
    "size it is a different one: count from the end, hidden_states[-2].",
)
def a_fixed_layer_number_too_early(model: nn.Module) -> Change:
    number = len(layers_of(model)) - 2
    return replace_part(model, "second_to_last", lambda states: states[number])


@bug(
    "first four layers",
    shows_at="sum_of_last_four",
    seen_in="hf#2461: layers counted from the wrong end",
    explanation="These are the embeddings and the first three layers: the list begins with the embeddings and ends "
    "with the last layer.",
)
def first_four_layers(model: nn.Module) -> Change:
    return replace_part(model, "sum_of_last_four", lambda states: combine_layers(states, [0, 1, 2, 3]))


@bug(
    "mean of four layers",
    shows_at="sum_of_last_four",
    seen_in="mean for sum",
    explanation="The four layers are averaged; their sum is asked for here, which is four times as long.",
)
def mean_of_four_layers(model: nn.Module) -> Change:
    return replace_part(model, "sum_of_last_four", lambda states: combine_layers(states, [-4, -3, -2, -1], "mean"))


# --- what is applied to the output: similarity and loss --------------------------------------------------------------


@bug(
    "distance for similarity",
    shows_at="cosine_similarity",
    seen_in="scipy.spatial.distance.cosine",
    explanation="That is the cosine distance, 1 − cosine: 0 for the same direction.",
)
def distance_for_similarity(model: nn.Module) -> Change:
    return replace_part(model, "cosine_similarity", lambda a, b: 1 - cosine_similarity(a, b))


@bug(
    "not divided by the lengths",
    shows_at="cosine_similarity",
    seen_in="a @ b.T",
    explanation="That is the dot product; a cosine divides it by both lengths.",
)
def not_divided_by_the_lengths(model: nn.Module) -> Change:
    return replace_part(model, "cosine_similarity", lambda a, b: a @ b.T)


@bug(
    "one vector's length forgotten",
    shows_at="cosine_similarity",
    seen_in="F.normalize on one side only",
    explanation="Only a is divided by its lengths; a cosine divides by both.",
)
def one_vectors_length_forgotten(model: nn.Module) -> Change:
    return replace_part(model, "cosine_similarity", lambda a, b: F.normalize(a, dim=-1) @ b.T)


@bug(
    "length over the wrong axis",
    shows_at="cosine_similarity",
    seen_in="F.normalize(a, dim=0)",
    explanation="The vectors are divided by lengths over dim 0, across the texts; the length of a vector is over its "
    "last axis.",
)
def length_over_the_wrong_axis(model: nn.Module) -> Change:
    return replace_part(model, "cosine_similarity", lambda a, b: F.normalize(a, dim=0) @ F.normalize(b, dim=0).T)


@bug(
    "loss divided by all tokens",
    shows_at="masked_loss",
    seen_in=".mean() over everything",
    explanation="The loss is averaged over all tokens, also those that are not masked, which count as 0: divide by the "
    "number of masked ones.",
)
def loss_divided_by_all_tokens(model: nn.Module) -> Change:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        return losses.mean()  # 0 where nothing is masked

    return replace_part(model, "masked_loss", loss)


@bug(
    "softmax before the loss",
    shows_at="masked_loss",
    seen_in="F.cross_entropy(logits.softmax(-1), …)",
    explanation="F.cross_entropy takes logits and does the softmax itself; here it is done twice.",
)
def softmax_before_the_loss(model: nn.Module) -> Change:
    return replace_part(model, "masked_loss", lambda logits, labels: masked_loss(logits.softmax(dim=-1), labels))


@bug(
    "loss summed",
    shows_at="masked_loss",
    seen_in='reduction="sum"',
    explanation="The losses of the masked words are added; BERT's loss is their mean.",
)
def loss_summed(model: nn.Module) -> Change:
    return replace_part(
        model, "masked_loss", lambda logits, labels: masked_loss(logits, labels) * (labels != -100).sum()
    )


# --- the steps of an analysis ----------------------------------------------------------------------------------------


@bug(
    "a layer off by one",
    shows_at="layer_output",
    seen_in="hidden_states[layer], whose first entry is the embeddings",
    explanation="The hidden state is what the layer reads: hidden_states has the embeddings first, so that the output "
    "of layer k, counted from 0, is entry k + 1.",
)
def layer_off_by_one(model: nn.Module) -> Change:
    return replace_part(model, "layer_output", lambda hidden_states, layer: hidden_states[layer])


@bug(
    "zero for mean ablation",
    shows_at="mean_ablation",
    seen_in="ablation studies of heads",
    explanation="The value is replaced by 0, which takes out what all texts share as well; its mean over texts takes "
    "out only what differs between them.",
)
def zero_for_mean_ablation(model: nn.Module) -> Change:
    return replace_part(model, "mean_ablation", lambda value, mask: torch.zeros_like(value))


@bug(
    "padding in the mean of an ablation",
    shows_at="mean_ablation",
    seen_in="value.mean(dim=(0, 1)) on a padded batch",
    explanation="The mean goes over padding too: take it over the positions where the mask is 1.",
)
def padding_in_the_mean_of_an_ablation(model: nn.Module) -> Change:
    return replace_part(model, "mean_ablation", lambda value, mask: value.mean(dim=(0, 1)).expand_as(value))


@bug(
    "parts summed without the LayerNorm",
    shows_at="normed_part",
    seen_in="decompositions made for models with the LayerNorm before each block",
    explanation="The part is taken as it was added. In a BERT a LayerNorm follows each sum: the part is centred, "
    "divided by the deviation of the sum, and multiplied by the weight.",
)
def parts_without_the_layer_norm(model: nn.Module) -> Change:
    return replace_part(model, "normed_part", lambda part, total, weight, eps: part)


@bug(
    "each part with a LayerNorm of its own",
    shows_at="normed_part",
    seen_in="norm(part) for each part",
    explanation="The part is divided by its own deviation; with that of the sum, the parts still sum to the whole.",
)
def part_with_its_own_layer_norm(model: nn.Module) -> Change:
    def normed(part: Tensor, total: Tensor, weight: Tensor, eps: float) -> Tensor:
        return torch.nn.functional.layer_norm(part, part.shape[-1:], weight, None, eps)

    return replace_part(model, "normed_part", normed)


@bug(
    "gradient × input without a baseline",
    shows_at="linear_attribution",
    seen_in="saliency scripts",
    explanation="The value itself is multiplied by the gradient. What a position adds is the difference from the "
    "baseline times the gradient.",
)
def attribution_without_a_baseline(model: nn.Module) -> Change:
    def attribute(value: Tensor, baseline: Tensor, gradient: Tensor) -> Tensor:
        return (value * gradient).sum(dim=-1)

    return replace_part(model, "linear_attribution", attribute)


@bug(
    "word pieces not merged",
    shows_at="word_attention",
    seen_in="attention maps of the first token of each word",
    explanation="Each word is its first token, and what the others get and give is lost.",
)
def word_pieces_not_merged(model: nn.Module) -> Change:
    def first_tokens(attention: Tensor, words: Sequence[int]) -> Tensor:
        first = [words.index(word) for word in range(max(words) + 1)]
        return attention[first][:, first]

    return replace_part(model, "word_attention", first_tokens)


@bug(
    "mean to a word",
    shows_at="word_attention",
    seen_in="attention maps averaged over tokens on both sides",
    explanation="What goes to a word is averaged over its tokens: rows no longer sum to 1. To a word goes the sum.",
)
def mean_to_a_word(model: nn.Module) -> Change:
    def merged(attention: Tensor, words: Sequence[int]) -> Tensor:
        members = torch.eye(max(words) + 1).to(attention)[list(words)].T
        members = members / members.sum(dim=1, keepdim=True)
        return members @ attention @ members.T

    return replace_part(model, "word_attention", merged)


@bug(
    "padding among the queries",
    shows_at="mean_entropy",
    seen_in="attention statistics of padded batches",
    explanation="The mean goes over the rows of padding too, which attend like any other token.",
)
def padding_among_the_queries(model: nn.Module) -> Change:
    def entropy(attention: Tensor, mask: Tensor) -> Tensor:
        return torch.special.entr(attention).sum(dim=-1).mean()

    return replace_part(model, "mean_entropy", entropy)
