"""What goes wrong when people write a BERT?

Each bug is a mistake that people make, as the smallest change that gives a healthy model this mistake:

    with BUGS["no scale"].applied(model):
        model(**inputs)                             # as if the scores had not been divided by √W

One catalogue serves three: `diagnose` tries each on the reference to see which reproduces a student's numbers, the
lessons show what a mistake costs, and our own tests are held against it: is every one of these caught?
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.heads import MaskedLMHead
from minibert.model import Attention, EncoderLayer, gelu_tanh
from minibert.teaching.parts import PARTS, exchange, layers_of, masked_loss, norms_of, overwrite
from minibert.trace.recording import EAGER_STEPS, bert_of, through
from minibert.vectors.pooling import combine_layers, mean_pool
from minibert.vectors.similarity import cosine_similarity

Change = Callable[[nn.Module, ExitStack], None]


@dataclass(frozen=True)
class Bug:
    """A mistake.

    Args:
        name: what it is called in messages.
        explanation: what the code does, and what it should do; a sentence for a learner.
        first: the first value that it changes, by its name in `recording`, without "encoder.layers.0.".
        seen: where people met it.
        change: gives a healthy model this bug; what it puts on the stack takes it away again.
        random: are its numbers others each time?
    """

    name: str
    explanation: str
    first: str
    seen: str
    change: Change
    random: bool = False

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model has this bug inside the block, and is healthy again after it, also when it raises."""
        with ExitStack() as stack:
            self.change(model, stack)
            yield


BUGS: dict[str, Bug] = {}


def enter(name: str, first: str, seen: str, explanation: str, change: Change, random: bool = False) -> None:
    BUGS[name] = Bug(name, explanation, first, seen, change, random)


def wrong(part: str, function: Callable[..., object]) -> Change:
    """Another function in the place of a part."""
    return lambda model, stack: PARTS[part].put(model, stack, function)


def steps(**others: Callable[..., Tensor]) -> Change:
    """Attention in which some steps are others."""

    def change(model: nn.Module, stack: ExitStack) -> None:
        for layer in layers_of(model):
            handle = through(layer.attention, lambda attend: replace(attend, steps={**EAGER_STEPS, **others}))
            stack.callback(handle.remove)

    return change


# --- embeddings ----------------------------------------------------------------------------------------------------


def _roll_positions(model: nn.Module, stack: ExitStack) -> None:
    table = bert_of(model).embeddings.position_embeddings.weight
    overwrite(stack, table, table.roll(-1, dims=0))


def _sinusoids(model: nn.Module, stack: ExitStack) -> None:
    table = bert_of(model).embeddings.position_embeddings.weight
    places = torch.arange(len(table), dtype=table.dtype)[:, None]
    rates = 10000 ** (-torch.arange(0, table.shape[1], 2, dtype=table.dtype) / table.shape[1])
    waves = torch.stack([(places * rates).sin(), (places * rates).cos()], dim=-1).flatten(1)  # AIAYN, section 3.5
    overwrite(stack, table, waves[:, : table.shape[1]])


def _other_segment(segment: int) -> Change:
    def change(model: nn.Module, stack: ExitStack) -> None:
        table = bert_of(model).embeddings.token_type_embeddings.weight
        overwrite(stack, table, table[segment].expand_as(table))

    return change


def _no_table(name: str) -> Change:
    def change(model: nn.Module, stack: ExitStack) -> None:
        table = getattr(bert_of(model).embeddings, name).weight
        overwrite(stack, table, torch.zeros_like(table))

    return change


def _no_embedding_norm(model: nn.Module, stack: ExitStack) -> None:
    exchange(stack, [bert_of(model).embeddings.norm], "forward", lambda norm: lambda x: x)


def _scaled_words(model: nn.Module, stack: ExitStack) -> None:
    table = bert_of(model).embeddings.word_embeddings.weight
    overwrite(stack, table, table * math.sqrt(table.shape[1]))


enter(
    "positions off by one", "embeddings.position_embeddings", "RoBERTa counts from 2; loops that count from 1",
    "The first token gets the position vector of place 1; positions count from 0.", _roll_positions,
)  # fmt: skip
enter(
    "sinusoidal positions", "embeddings.position_embeddings", "code written after AIAYN, section 3.5",
    "Positions are sines and cosines; BERT learned a table of them, embeddings.position_embeddings.", _sinusoids,
)  # fmt: skip
enter(
    "positions dropped", "embeddings.position_embeddings", "hand-written embeddings",
    "No position vector is added, so the order of the words is lost.", _no_table("position_embeddings"),
)  # fmt: skip
enter(
    "segment ids all 1", "embeddings.token_type_embeddings", "the lesson source 002",
    "Every token is said to be in the second segment; a single text is segment 0.", _other_segment(-1),
)  # fmt: skip
enter(
    "segment ids all 0", "embeddings.token_type_embeddings", "token_type_ids that are not passed on",
    "Every token is said to be in the first segment: token_type_ids are not looked at.", _other_segment(0),
)  # fmt: skip
enter(
    "token types dropped", "embeddings.token_type_embeddings", "hand-written embeddings",
    "No segment vector is added; also a single text needs that of segment 0.", _no_table("token_type_embeddings"),
)  # fmt: skip
enter(
    "word embeddings times √D", "embeddings.word_embeddings", "code written after AIAYN, section 3.4",
    "Word vectors are multiplied by √D, as in AIAYN; BERT adds them as they are.", _scaled_words,
)  # fmt: skip
enter(
    "embedding norm forgotten", "embeddings.norm", "hand-written embeddings",
    "The sum of the three embeddings goes on as it is; BERT normalises it first.", _no_embedding_norm,
)  # fmt: skip

# --- attention -----------------------------------------------------------------------------------------------------


def _mask_after(probabilities: Tensor, mask: Tensor | None) -> Tensor:
    return F.softmax(probabilities, dim=-1) * (1.0 if mask is None else (mask == 0))


def _masked(constant: float) -> Callable[..., Tensor]:
    def masked_scores(scores: Tensor, mask: Tensor | None) -> Tensor:
        return scores if mask is None else scores + torch.zeros_like(mask).masked_fill(mask != 0, constant)

    return masked_scores


def _mask_of_queries(scores: Tensor, mask: Tensor | None) -> Tensor:
    return scores if mask is None else scores + mask.transpose(2, 3)  # (B, 1, 1, T) → (B, 1, S, 1)


def _from(source: str, target: str) -> Change:
    """One projection computes by the matrix of another."""

    def change(model: nn.Module, stack: ExitStack) -> None:
        for layer in layers_of(model):
            taken = getattr(layer.attention, source)
            exchange(stack, [getattr(layer.attention, target)], "forward", lambda _, taken=taken: taken.forward)

    return change


def _split_without_transpose(attention: Attention, projected: Tensor) -> Tensor:
    batch, sequence, _ = projected.shape
    return projected.view(batch, -1, sequence, attention.head_width)


def _merge_without_transpose(attention: Attention, context: Tensor) -> Tensor:
    batch, _, sequence, _ = context.shape
    return context.contiguous().view(batch, sequence, -1)


def _no_bias(*path: str) -> Change:
    def change(model: nn.Module, stack: ExitStack) -> None:
        for layer in layers_of(model):
            linear: nn.Module = layer
            for name in path:
                linear = getattr(linear, name)
            assert isinstance(linear, nn.Linear)
            overwrite(stack, linear.bias, torch.zeros_like(linear.bias))

    return change


def _transposed(model: nn.Module, stack: ExitStack) -> None:
    for layer in layers_of(model):
        for linear in (layer.attention.query, layer.attention.key, layer.attention.value, layer.attention.output):
            overwrite(stack, linear.weight, linear.weight.T)


def _swapped_query_key(model: nn.Module, stack: ExitStack) -> None:
    for layer in layers_of(model):
        query, key = layer.attention.query, layer.attention.key
        forwards = query.forward, key.forward
        exchange(stack, [query], "forward", lambda _, forwards=forwards: forwards[1])
        exchange(stack, [key], "forward", lambda _, forwards=forwards: forwards[0])


enter(
    "query and key swapped", "attention.query", "weights copied by hand",
    "Queries are computed with the key's matrix and keys with the query's.", _swapped_query_key,
)  # fmt: skip
enter(
    "value from the key's projection", "attention.value", "copied lines",
    "Values are computed with the key's matrix; they have one of their own.", _from("key", "value"),
)  # fmt: skip
enter(
    "key from the query's projection", "attention.key", "copied lines",
    "Keys are computed with the query's matrix; they have one of their own.", _from("query", "key"),
)  # fmt: skip
enter(
    "weights transposed", "attention.query", "checkpoints converted from TensorFlow, whose matrices are (in, out)",
    "The attention's square matrices are transposed; no shape shows it. A Linear computes x·Wᵀ + b.", _transposed,
)  # fmt: skip
enter(
    "query bias dropped", "attention.query", "bias=False",
    "The query has no bias; each of BERT's projections has one.", _no_bias("attention", "query"),
)  # fmt: skip
enter(
    "key bias dropped", "attention.key", "bias=False",
    "The key has no bias. It changes no output, for the softmax takes it out again; but the checkpoint has it.",
    _no_bias("attention", "key"),
)  # fmt: skip
enter(
    "value bias dropped", "attention.value", "bias=False",
    "The value has no bias; each of BERT's projections has one.", _no_bias("attention", "value"),
)  # fmt: skip
enter(
    "heads split without the transpose", "attention.query", "view(B, H, S, W) straight from (B, S, D)",
    "A view as (B, H, S, W) mixes tokens and heads: view as (B, S, H, W), then transpose(1, 2).",
    wrong("split_heads", _split_without_transpose),
)  # fmt: skip
enter(
    "no scale", "attention.scaled_scores", "hand-written attention",
    "The scores are not divided by √W, the square root of a head's width (AIAYN, equation 1).",
    steps(scaled_scores=lambda scores, width: scores * 1.0),
)  # fmt: skip
enter(
    "scale by W", "attention.scaled_scores", "a forgotten square root",
    "The scores are divided by W; it is its square root (AIAYN, equation 1).",
    steps(scaled_scores=lambda scores, width: scores / width),
)  # fmt: skip


def _scale_by_hidden_size(model: nn.Module, stack: ExitStack) -> None:
    size = bert_of(model).config.hidden_size
    steps(scaled_scores=lambda scores, width: scores * size**-0.5)(model, stack)


enter(
    "scale by √D", "attention.scaled_scores", "hidden_size in the place of the head's width",
    "The scores are divided by √D; it is √W, of the width of one head, D / H.", _scale_by_hidden_size,
)  # fmt: skip
enter(
    "no mask", "attention.masked_scores", "hf#2860",
    "Padding is looked at like any token: the mask is not added to the scores.",
    steps(masked_scores=lambda scores, mask: scores * 1.0),
)  # fmt: skip
enter(
    "mask of the queries", "attention.masked_scores", "mask[:, None, :, None]",
    "The mask hides rows, the queries that are padding; it is the columns, the keys: (B, 1, 1, T).",
    steps(masked_scores=_mask_of_queries),
)  # fmt: skip
enter(
    "mask added raw", "attention.masked_scores", "1 and 0 added to the scores",
    "The mask of ones and zeros is added itself, which changes a score by 1; hidden keys need a large negative number.",
    steps(masked_scores=lambda s, mask: s if mask is None else s + (mask == 0).to(s.dtype)),
)  # fmt: skip
enter(
    "mask of −10000", "attention.masked_scores", "Google's original code",
    "The mask is −10000, which a large enough score outweighs: torch.finfo(dtype).min is as low as numbers go.",
    steps(masked_scores=_masked(-10000.0)),
)  # fmt: skip
enter(
    "mask of −10⁹", "attention.masked_scores", "-1e9, which float16 does not have",
    "The mask is −10⁹: in float16 that is −∞. torch.finfo(dtype).min is as low as numbers of this dtype go.",
    steps(masked_scores=_masked(-1e9)),
)  # fmt: skip
enter(
    "mask of −∞", "attention.masked_scores", "float('-inf')",
    "The mask is −∞: a row of nothing but padding becomes 0/0, NaN. Use torch.finfo(dtype).min.",
    steps(masked_scores=_masked(-math.inf)),
)  # fmt: skip
enter(
    "mask after the softmax", "attention.masked_scores", "probabilities * mask",
    "Padding is set to zero after the softmax, so the rest does not sum to 1: mask the scores, before.",
    steps(masked_scores=lambda scores, mask: scores * 1.0, probabilities=_mask_after),
)  # fmt: skip
enter(
    "softmax over the queries", "attention.probabilities", "dim=-2",
    "The softmax goes over the queries; each query's weights over the keys must sum to 1: dim=-1.",
    steps(probabilities=lambda scores, mask: F.softmax(scores, dim=-2)),
)  # fmt: skip
enter(
    "softmax over the heads", "attention.probabilities", "dim=1",
    "The softmax goes over the heads; each query's weights over the keys must sum to 1: dim=-1.",
    steps(probabilities=lambda scores, mask: F.softmax(scores, dim=1)),
)  # fmt: skip
enter(
    "probabilities transposed", "attention.context", "a transpose too many",
    "Each token gets what others would take from it: the probabilities are transposed before they meet the values.",
    steps(context=lambda probabilities, value: probabilities.transpose(2, 3) @ value),
)  # fmt: skip
enter(
    "heads merged without the transpose", "attention.output", "view(B, S, D) straight from (B, H, S, W)",
    "A view as (B, S, D) mixes tokens and heads: transpose(1, 2) first, then flatten(2).",
    wrong("merge_heads", _merge_without_transpose),
)  # fmt: skip
enter(
    "output bias dropped", "attention.output", "bias=False",
    "The attention's output has no bias; each of BERT's projections has one.", _no_bias("attention", "output"),
)  # fmt: skip

# --- feed-forward, norms, residual lines ---------------------------------------------------------------------------


def _eps(eps: float) -> Change:
    return lambda model, stack: exchange(stack, norms_of(model), "eps", lambda _: eps)


def _eps_outside(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True).sqrt() + eps) * weight + bias


def _sample_deviation(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (x.var(-1, keepdim=True) + eps).sqrt() * weight + bias  # var divides by n - 1


def _root_mean_square(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def _over_the_sequence(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-2, keepdim=True)
    return centred / (centred.square().mean(-2, keepdim=True) + eps).sqrt() * weight + bias


def _no_norm(name: str) -> Change:
    def change(model: nn.Module, stack: ExitStack) -> None:
        norms = [getattr(layer, name) for layer in layers_of(model)]
        exchange(stack, norms, "forward", lambda norm: lambda x: x)

    return change


def _gamma_beta(model: nn.Module, stack: ExitStack) -> None:
    for norm in norms_of(model):
        weight, bias = norm.weight.data, norm.bias.data
        overwrite(stack, norm.weight, bias)
        overwrite(stack, norm.bias, weight)


Layer = tuple[Tensor, Tensor | None]


def _no_attention_residual(layer: EncoderLayer, hidden: Tensor, mask: Tensor | None) -> Layer:
    attended, probabilities = layer.attention(hidden, mask)
    hidden = layer.attention_norm(attended)
    return layer.feed_forward_norm(hidden + layer.feed_forward(hidden)), probabilities


def _no_feed_forward_residual(layer: EncoderLayer, hidden: Tensor, mask: Tensor | None) -> Layer:
    attended, probabilities = layer.attention(hidden, mask)
    hidden = layer.attention_norm(hidden + attended)
    return layer.feed_forward_norm(layer.feed_forward(hidden)), probabilities


def _residual_of_the_input(layer: EncoderLayer, hidden: Tensor, mask: Tensor | None) -> Layer:
    attended, probabilities = layer.attention(hidden, mask)
    normed = layer.attention_norm(hidden + attended)
    return layer.feed_forward_norm(hidden + layer.feed_forward(normed)), probabilities


def _residual_after_norm(layer: EncoderLayer, hidden: Tensor, mask: Tensor | None) -> Layer:
    attended, probabilities = layer.attention(hidden, mask)
    hidden = hidden + layer.attention_norm(attended)
    return hidden + layer.feed_forward_norm(layer.feed_forward(hidden)), probabilities


def _pre_norm(layer: EncoderLayer, hidden: Tensor, mask: Tensor | None) -> Layer:
    attended, probabilities = layer.attention(layer.attention_norm(hidden), mask)
    hidden = hidden + attended
    return hidden + layer.feed_forward(layer.feed_forward_norm(hidden)), probabilities


def _norms_swapped(model: nn.Module, stack: ExitStack) -> None:
    for layer in layers_of(model):
        first, second = layer.attention_norm, layer.feed_forward_norm
        forwards = first.forward, second.forward
        exchange(stack, [first], "forward", lambda _, forwards=forwards: forwards[1])
        exchange(stack, [second], "forward", lambda _, forwards=forwards: forwards[0])


enter(
    "GELU by tanh", "feed_forward.activation", "GPT-2's activation; 4e-4 per element",
    "GELU is computed by its approximation with tanh; BERT's is x·Φ(x), with the error function.",
    wrong("gelu", gelu_tanh),
)  # fmt: skip
enter(
    "ReLU for GELU", "feed_forward.activation", "code written after AIAYN, section 3.3",
    "The activation is ReLU, as in AIAYN; BERT's is GELU, x·Φ(x).", wrong("gelu", F.relu),
)  # fmt: skip
enter(
    "activation forgotten", "feed_forward.activation", "two Linear layers in a row",
    "There is no activation between the two linear maps, so they are one.", wrong("gelu", lambda x: x * 1.0),
)  # fmt: skip
enter(
    "expand bias dropped", "feed_forward.expand", "bias=False",
    "The first map of the feed-forward has no bias; it should have one.", _no_bias("feed_forward", "expand"),
)  # fmt: skip
enter(
    "contract bias dropped", "feed_forward.contract", "bias=False",
    "The second map of the feed-forward has no bias; it should have one.", _no_bias("feed_forward", "contract"),
)  # fmt: skip
enter(
    "eps of 1e-5", "embeddings.norm", "PyTorch's default; BERT's is 1e-12",
    "LayerNorm adds 1e-5 to the variance; it should add the eps that the module has.", _eps(1e-5),
)  # fmt: skip
enter(
    "eps of 1e-12", "embeddings.norm", "BERT's, for a checkpoint that has another",
    "LayerNorm adds 1e-12 to the variance; it should add the eps that the module has.", _eps(1e-12),
)  # fmt: skip
enter(
    "eps outside the root", "embeddings.norm", "hand-written LayerNorm",
    "LayerNorm divides by √variance + eps; it is √(variance + eps).", wrong("layer_norm", _eps_outside),
)  # fmt: skip
enter(
    "variance over n − 1", "embeddings.norm", "x.var() and x.std() without unbiased=False",
    "LayerNorm divides the squares by n − 1, as x.var() does; it is n: x.var(unbiased=False).",
    wrong("layer_norm", _sample_deviation),
)  # fmt: skip
enter(
    "mean not subtracted", "embeddings.norm", "RMSNorm",
    "LayerNorm does not subtract the mean: that is RMSNorm.", wrong("layer_norm", _root_mean_square),
)  # fmt: skip
enter(
    "norm over the sequence", "embeddings.norm", "dim=1",
    "LayerNorm goes over the tokens of a text; it goes over the D numbers of each token.",
    wrong("layer_norm", _over_the_sequence),
)  # fmt: skip
enter(
    "gamma and beta swapped", "embeddings.norm", "checkpoints that call them gamma and beta",
    "LayerNorm's weight (gamma) and bias (beta) have changed places.", _gamma_beta,
)  # fmt: skip
enter(
    "norm bias dropped", "embeddings.norm", "hand-written LayerNorm",
    "LayerNorm ends without its bias (beta): weight times the normalised vector, and then the bias is added.",
    wrong("layer_norm", lambda x, weight, bias, eps: F.layer_norm(x, weight.shape, weight, None, eps)),
)  # fmt: skip
enter(
    "norm weight dropped", "embeddings.norm", "hand-written LayerNorm",
    "LayerNorm ends without its weight (gamma): the normalised vector is multiplied by it, before the bias is added.",
    wrong("layer_norm", lambda x, weight, bias, eps: F.layer_norm(x, weight.shape, None, bias, eps)),
)  # fmt: skip
enter(
    "attention norm forgotten", "attention_norm", "hand-written layers",
    "The sum after attention is not normalised.", _no_norm("attention_norm"),
)  # fmt: skip
enter(
    "feed-forward norm forgotten", "feed_forward_norm", "hand-written layers",
    "The sum after the feed-forward is not normalised.", _no_norm("feed_forward_norm"),
)  # fmt: skip
enter(
    "norms swapped", "attention_norm", "weights copied by hand",
    "A layer's two LayerNorms have changed places.", _norms_swapped,
)  # fmt: skip
enter(
    "no residual around attention", "attention_sum", "hand-written layers",
    "Attention's output is not added to its input.", wrong("layer", _no_attention_residual),
)  # fmt: skip
enter(
    "no residual around the feed-forward", "feed_forward_sum", "hand-written layers",
    "The feed-forward's output is not added to its input.", wrong("layer", _no_feed_forward_residual),
)  # fmt: skip
enter(
    "residual from the layer's input", "feed_forward_sum", "a variable that was overwritten too late",
    "The feed-forward's output is added to the layer's input; it is added to what the feed-forward read.",
    wrong("layer", _residual_of_the_input),
)  # fmt: skip
enter(
    "residual after the norm", "attention_sum", "x + norm(sublayer(x))",
    "The residual is added after the norm; BERT normalises the sum: norm(x + sublayer(x)).",
    wrong("layer", _residual_after_norm),
)  # fmt: skip
enter(
    "pre-norm", "attention.query", "GPT-2's layers",
    "Each part normalises what it reads, x + sublayer(norm(x)); BERT normalises the sum: norm(x + sublayer(x)).",
    wrong("layer", _pre_norm),
)  # fmt: skip

# --- the whole model -----------------------------------------------------------------------------------------------


def _layers_in_order(order: Callable[[int], list[int]]) -> Change:
    """Of L layers those with the numbers order(L) compute, each at the next place."""

    def change(model: nn.Module, stack: ExitStack) -> None:
        layers = layers_of(model)
        numbers = order(len(layers))
        parts = [
            {name: part for name, part in layer.named_modules() if isinstance(part, nn.Linear | nn.LayerNorm)}
            for layer in layers
        ]
        forwards = [{name: part.forward for name, part in each.items()} for each in parts]  # before any is exchanged
        for place, number in enumerate(numbers):
            for name, part in parts[place].items():
                exchange(stack, [part], "forward", lambda _, taken=forwards[number][name]: taken)
        exchange(stack, layers[len(numbers) :], "forward", lambda _: lambda hidden, *rest: (hidden, None))

    return change


def _dropout_on(model: nn.Module, stack: ExitStack) -> None:
    was = model.training
    stack.callback(model.train, was)
    model.train()


enter(
    "layers in reverse order", "attention.query", "weights copied by hand",
    "The layers come in the opposite order.", _layers_in_order(lambda count: list(range(count))[::-1]),
)  # fmt: skip
enter(
    "one layer shared", "attention.query", "[layer] * L, or ALBERT's sharing",
    "All layers are the first one: [EncoderLayer(config)] * L makes one layer, a loop makes L.",
    _layers_in_order(lambda count: [0] * count),
)  # fmt: skip
enter(
    "last layer left out", "pooler.dense", "range(L - 1)",
    "The last layer is not computed: there are L of them.", _layers_in_order(lambda count: list(range(count - 1))),
)  # fmt: skip
enter(
    "dropout left on", "attention.query", "hf#403, #695, #9039",
    "The model is in training mode, and drops a tenth of all numbers at random, others at each call: model.eval().",
    _dropout_on, random=True,
)  # fmt: skip
enter(
    "pooler on the last token", "pooler.dense", "hidden[:, -1]",
    "The pooler reads the last token; it reads the first, [CLS].",
    wrong("pooler", lambda pooler, hidden: torch.tanh(pooler.dense(hidden[:, -1]))),
)  # fmt: skip
enter(
    "pooler on the mean", "pooler.dense", "mistaken for a sentence vector",
    "The pooler reads the mean of all tokens; it reads the first, [CLS].",
    wrong("pooler", lambda pooler, hidden: torch.tanh(pooler.dense(hidden.mean(1)))),
)  # fmt: skip
enter(
    "pooler without tanh", "pooler.tanh", "hand-written poolers",
    "The pooler's tanh is missing.", wrong("pooler", lambda pooler, hidden: pooler.dense(hidden[:, 0])),
)  # fmt: skip

# --- the head for masked words -------------------------------------------------------------------------------------


def _transform(head: MaskedLMHead, hidden: Tensor) -> Tensor:
    return head.norm(head.activation(head.dense(hidden)))


def _untied(model: nn.Module, stack: ExitStack) -> None:
    table = bert_of(model).embeddings.word_embeddings.weight
    own = torch.randn_like(table) * bert_of(model).config.initializer_range

    def untied(head: MaskedLMHead, hidden: Tensor, _: Tensor) -> Tensor:
        return F.linear(_transform(head, hidden), own.to(hidden.dtype), head.bias)

    wrong("masked_lm", untied)(model, stack)


def _no_decoder_bias(head: MaskedLMHead, hidden: Tensor, table: Tensor) -> Tensor:
    return F.linear(_transform(head, hidden), table)


def _no_transform(head: MaskedLMHead, hidden: Tensor, table: Tensor) -> Tensor:
    return F.linear(hidden, table, head.bias)


enter(
    "decoder not tied", "logits", "decoder.weight, which is in no file, starts at random",
    "The decoder has a matrix of its own, which no checkpoint has, so it is random; it is the word embedding table.",
    _untied, random=True,
)  # fmt: skip
enter(
    "decoder bias dropped", "logits", "hand-written heads",
    "The decoder has no bias; its matrix is the word embedding table, its bias is its own.",
    wrong("masked_lm", _no_decoder_bias),
)  # fmt: skip
enter(
    "transform left out", "logits", "hidden @ table.T",
    "The hidden states go to the decoder as they are; BERT's head transforms them first: dense, activation, norm.",
    wrong("masked_lm", _no_transform),
)  # fmt: skip

# --- what is made of the output ------------------------------------------------------------------------------------


def _inner_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    inner = mask.clone()
    inner[:, 0] = 0
    inner[torch.arange(len(mask)), mask.sum(1) - 1] = 0
    return mean_pool(hidden, inner)


enter(
    "padding in the mean", "mean_pool", "the lesson source 003: token_vecs.mean(dim=0)",
    "The mean goes over padding too, whose vectors are not zero: multiply by the mask, divide by its sum.",
    wrong("mean_pool", lambda hidden, mask: hidden.mean(1)),
)  # fmt: skip
enter(
    "mean divided by the padded length", "mean_pool", "sum over the mask, then .mean()",
    "The sum leaves padding out, but is divided by the length with padding: divide by the mask's sum.",
    wrong("mean_pool", lambda hidden, mask: (hidden * mask[:, :, None]).mean(1)),
)  # fmt: skip
enter(
    "[CLS] and [SEP] left out of the mean", "mean_pool", "hand-written pooling",
    "The mean leaves [CLS] and [SEP] out; sentence-transformers' has them in.", wrong("mean_pool", _inner_mean),
)  # fmt: skip
enter(
    "[CLS] for the mean", "mean_pool", "st#1317",
    "The vector is that of [CLS]; it is the mean of all tokens.", wrong("mean_pool", lambda hidden, mask: hidden[:, 0]),
)  # fmt: skip
enter(
    "[CLS] off by one", "word_vector", "the lesson source 000: tokens.index(word) in a list without [CLS]",
    "The word is counted in the tokens of the text, where the model has [CLS] before them: it is one place further.",
    wrong("word_vector", lambda hidden, pieces, word: hidden[pieces.index(word)]),
)  # fmt: skip
enter(
    "[CLS] for the word", "word_vector", "hidden[0]",
    "The vector is that of [CLS]; a word has one of its own.", wrong("word_vector", lambda hidden, *_: hidden[0]),
)  # fmt: skip


def _fixed_layer(before_the_last: int) -> Change:
    def change(model: nn.Module, stack: ExitStack) -> None:
        number = len(layers_of(model)) - before_the_last
        PARTS["second_to_last"].put(model, stack, lambda states: states[number])

    return change


enter(
    "last layer for the second-to-last", "second_to_last", "the lesson source 002: encoded_layers[11] of 12",
    "That is the last layer; with the embeddings there are L + 1, and the second-to-last is hidden_states[-2].",
    wrong("second_to_last", lambda states: states[-1]),
)  # fmt: skip
enter(
    "embeddings not counted", "second_to_last", "hidden_states[L - 2]: hf#1332, #2461",
    "That is a layer too early: hidden_states[0] are the embeddings, so layer L - 1 is hidden_states[L - 1], or [-2].",
    wrong("second_to_last", lambda states: states[len(states) - 3]),
)  # fmt: skip
enter(
    "a fixed layer number", "second_to_last", "hidden_states[11]: another layer in a model of another size",
    "That layer has a fixed number, so with fewer layers it is another one: count from the end, hidden_states[-2].",
    _fixed_layer(1),
)  # fmt: skip
enter(
    "a fixed layer number, and too early", "second_to_last", "hidden_states[10] in a model of 12 layers",
    "That is a layer too early, hidden_states[0] are the embeddings; and in a model of another size it is another one: "
    "count from the end, hidden_states[-2].",
    _fixed_layer(2),
)  # fmt: skip
enter(
    "first four layers", "sum_of_last_four", "hf#2461: layers counted from the wrong end",
    "These are the embeddings and the first three layers: the list begins with the embeddings and ends with the last.",
    wrong("sum_of_last_four", lambda states: combine_layers(states, [0, 1, 2, 3])),
)  # fmt: skip
enter(
    "mean of four layers", "sum_of_last_four", "mean for sum",
    "The four layers are averaged; here their sum is asked for, four times as long.",
    wrong("sum_of_last_four", lambda states: combine_layers(states, [-4, -3, -2, -1], "mean")),
)  # fmt: skip
enter(
    "distance for similarity", "cosine_similarity", "the lesson source 000: scipy.spatial.distance.cosine",
    "That is the cosine distance, 1 − cosine: 0 for the same direction.",
    wrong("cosine_similarity", lambda a, b: 1 - cosine_similarity(a, b)),
)  # fmt: skip
enter(
    "not divided by the lengths", "cosine_similarity", "a @ b.T",
    "That is the dot product; a cosine divides it by both lengths.", wrong("cosine_similarity", lambda a, b: a @ b.T),
)  # fmt: skip
enter(
    "one vector's length forgotten", "cosine_similarity", "F.normalize on one side only",
    "Only a is divided by its lengths; a cosine divides by both.",
    wrong("cosine_similarity", lambda a, b: F.normalize(a, dim=-1) @ b.T),
)  # fmt: skip
enter(
    "length over the wrong axis", "cosine_similarity", "F.normalize(a, dim=0)",
    "The vectors are divided by lengths over dim 0, across the texts; the length of a vector is over its last axis.",
    wrong("cosine_similarity", lambda a, b: F.normalize(a, dim=0) @ F.normalize(b, dim=0).T),
)  # fmt: skip


def _loss_of_all(logits: Tensor, labels: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return losses.mean()  # 0 where nothing is masked


enter(
    "loss divided by all tokens", "masked_loss", ".mean() over everything",
    "The loss is averaged over all tokens, also those that are not masked, which count 0: divide by the masked ones.",
    wrong("masked_loss", _loss_of_all),
)  # fmt: skip
enter(
    "softmax before the loss", "masked_loss", "F.cross_entropy(logits.softmax(-1), …)",
    "F.cross_entropy takes logits and does the softmax itself; here it is done twice.",
    wrong("masked_loss", lambda logits, labels: masked_loss(logits.softmax(dim=-1), labels)),
)  # fmt: skip
enter(
    "loss summed", "masked_loss", 'reduction="sum"',
    "The losses of the masked words are added; BERT's loss is their mean.",
    wrong("masked_loss", lambda logits, labels: masked_loss(logits, labels) * (labels != -100).sum()),
)  # fmt: skip
