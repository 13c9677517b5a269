"""What goes wrong when people write a BERT?

Each bug is a mistake that people make, as the smallest change that gives a healthy model this mistake:

    with BUGS["no scale"].applied(model):
        model(**inputs)                             # as if the scores had not been divided by √W

One catalogue serves three: `diagnose` tries each on the reference to see which reproduces a student's numbers, the
lessons show what a mistake costs, and our own tests are held against it: is every one of these caught?
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.model import BertModel, EncoderLayer, Pooler, gelu_tanh
from minibert.pooling import mean_pool
from minibert.recording import EAGER_STEPS, Steps, through

Change = Callable[[BertModel, ExitStack], None]


@dataclass(frozen=True)
class Bug:
    """A mistake.

    Args:
        name: what it is called in messages.
        explanation: what the code does, and what it should do; a sentence for a learner.
        first: the first value that it changes, by its name in `recording`, without "encoder.layers.0.".
        seen: where people met it.
        change: gives a healthy model this bug; what it puts on the stack takes it away again.
    """

    name: str
    explanation: str
    first: str
    seen: str
    change: Change

    @contextmanager
    def applied(self, model: BertModel) -> Iterator[None]:
        """The model has this bug inside the block, and is healthy again after it, also when it raises."""
        with ExitStack() as stack:
            self.change(model, stack)
            yield


BUGS: dict[str, Bug] = {}


def bug(name: str, first: str, seen: str, explanation: str) -> Callable[[Change], Change]:
    """Enters the decorated function into the catalogue."""

    def enter(change: Change) -> Change:
        BUGS[name] = Bug(name, explanation, first, seen, change)
        return change

    return enter


# --- how a model is changed, and back ------------------------------------------------------------------------------


def layers_of(model: BertModel) -> list[EncoderLayer]:
    return [layer for layer in model.encoder.layers if isinstance(layer, EncoderLayer)]


def norms_of(model: BertModel) -> list[nn.LayerNorm]:
    return [module for module in model.modules() if isinstance(module, nn.LayerNorm)]


def exchange(stack: ExitStack, things: Sequence[object], name: str, make: Callable[..., object]) -> None:
    """Sets an attribute of each single object to make(object)."""
    for thing in things:
        own = vars(thing)
        if name in own:
            stack.callback(setattr, thing, name, own[name])
        else:  # the class has it: afterwards it is that one again
            stack.callback(delattr, thing, name)
        object.__setattr__(thing, name, make(thing))


def overwrite(stack: ExitStack, parameter: Tensor, values: Tensor) -> None:
    """Gives a parameter other values; its own are kept, and come back untouched."""
    stack.callback(setattr, parameter, "data", parameter.data)
    parameter.data = values.detach().clone()


def exchange_step(**steps: Callable[..., Tensor]) -> Change:
    """Attention in which some steps are others."""

    def change(model: BertModel, stack: ExitStack) -> None:
        wrong: Steps = {**EAGER_STEPS, **steps}
        for layer in layers_of(model):
            handle = through(layer.attention, lambda attend: replace(attend, steps=wrong))
            stack.callback(handle.remove)

    return change


def exchange_forward(kind: str, forward: Callable[..., object]) -> Change:
    """Modules of a kind compute forward(module, …)."""

    def change(model: BertModel, stack: ExitStack) -> None:
        kinds: dict[str, Sequence[nn.Module]] = {
            "layers": layers_of(model),
            "norms": norms_of(model),
            "pooler": [] if model.pooler is None else [model.pooler],
        }
        exchange(stack, kinds[kind], "forward", lambda module: partial(forward, module))

    return change


def enter(name: str, first: str, seen: str, explanation: str, change: Change) -> None:
    bug(name, first, seen, explanation)(change)


# --- embeddings ----------------------------------------------------------------------------------------------------


def _roll_positions(model: BertModel, stack: ExitStack) -> None:
    table = model.embeddings.position_embeddings.weight
    overwrite(stack, table, table.roll(-1, dims=0))


def _sinusoids(model: BertModel, stack: ExitStack) -> None:
    table = model.embeddings.position_embeddings.weight
    places = torch.arange(len(table), dtype=table.dtype)[:, None]
    rates = 10000 ** (-torch.arange(0, table.shape[1], 2, dtype=table.dtype) / table.shape[1])
    waves = torch.stack([(places * rates).sin(), (places * rates).cos()], dim=-1).flatten(1)  # AIAYN, section 3.5
    overwrite(stack, table, waves[:, : table.shape[1]])


def _other_segment(model: BertModel, stack: ExitStack) -> None:
    table = model.embeddings.token_type_embeddings.weight
    overwrite(stack, table, table[-1:].expand_as(table))


def _no_table(name: str) -> Change:
    def change(model: BertModel, stack: ExitStack) -> None:
        table = getattr(model.embeddings, name).weight
        overwrite(stack, table, torch.zeros_like(table))

    return change


def _no_embedding_norm(model: BertModel, stack: ExitStack) -> None:
    exchange(stack, [model.embeddings.norm], "forward", lambda norm: lambda x: x)


def _scaled_words(model: BertModel, stack: ExitStack) -> None:
    table = model.embeddings.word_embeddings.weight
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
    "Every token is said to be in the second segment; a single text is segment 0.", _other_segment,
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

    def change(model: BertModel, stack: ExitStack) -> None:
        for layer in layers_of(model):
            taken = getattr(layer.attention, source)
            exchange(stack, [getattr(layer.attention, target)], "forward", lambda _, taken=taken: taken.forward)

    return change


def _split_without_transpose(model: BertModel, stack: ExitStack) -> None:
    def split(projected: Tensor, width: int) -> Tensor:
        batch, sequence, _ = projected.shape
        return projected.view(batch, -1, sequence, width)

    things = [layer.attention for layer in layers_of(model)]
    exchange(stack, things, "split_heads", lambda attention: lambda x: split(x, attention.head_width))


def _merge_without_transpose(model: BertModel, stack: ExitStack) -> None:
    def merge(context: Tensor) -> Tensor:
        batch, _, sequence, _ = context.shape
        return context.contiguous().view(batch, sequence, -1)

    exchange(stack, [layer.attention for layer in layers_of(model)], "merge_heads", lambda attention: merge)


def _no_bias(*path: str) -> Change:
    def change(model: BertModel, stack: ExitStack) -> None:
        for layer in layers_of(model):
            linear: nn.Module = layer
            for name in path:
                linear = getattr(linear, name)
            assert isinstance(linear, nn.Linear)
            overwrite(stack, linear.bias, torch.zeros_like(linear.bias))

    return change


def _transposed(model: BertModel, stack: ExitStack) -> None:
    for layer in layers_of(model):
        for linear in (layer.attention.query, layer.attention.key, layer.attention.value, layer.attention.output):
            overwrite(stack, linear.weight, linear.weight.T)


def _swapped_query_key(model: BertModel, stack: ExitStack) -> None:
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
    _split_without_transpose,
)  # fmt: skip
enter(
    "no scale", "attention.scaled_scores", "hand-written attention",
    "The scores are not divided by √W, the square root of a head's width (AIAYN, equation 1).",
    exchange_step(scaled_scores=lambda scores, width: scores * 1.0),
)  # fmt: skip
enter(
    "scale by W", "attention.scaled_scores", "a forgotten square root",
    "The scores are divided by W; it is its square root (AIAYN, equation 1).",
    exchange_step(scaled_scores=lambda scores, width: scores / width),
)  # fmt: skip


def _scale_by_hidden_size(model: BertModel, stack: ExitStack) -> None:
    size = model.config.hidden_size
    exchange_step(scaled_scores=lambda scores, width: scores * size**-0.5)(model, stack)


enter(
    "scale by √D", "attention.scaled_scores", "hidden_size in the place of the head's width",
    "The scores are divided by √D; it is √W, of the width of one head, D / H.", _scale_by_hidden_size,
)  # fmt: skip
enter(
    "no mask", "attention.masked_scores", "hf#2860",
    "Padding is looked at like any token: the mask is not added to the scores.",
    exchange_step(masked_scores=lambda scores, mask: scores * 1.0),
)  # fmt: skip
enter(
    "mask of the queries", "attention.masked_scores", "mask[:, None, :, None]",
    "The mask hides rows, the queries that are padding; it is the columns, the keys: (B, 1, 1, T).",
    exchange_step(masked_scores=_mask_of_queries),
)  # fmt: skip
enter(
    "mask added raw", "attention.masked_scores", "1 and 0 added to the scores",
    "The mask of ones and zeros is added itself, which changes a score by 1; hidden keys need a large negative number.",
    exchange_step(masked_scores=lambda s, mask: s if mask is None else s + (mask == 0).to(s.dtype)),
)  # fmt: skip
enter(
    "mask of −10000", "attention.masked_scores", "Google's original code",
    "The mask is −10000, which a large enough score outweighs: torch.finfo(dtype).min is as low as numbers go.",
    exchange_step(masked_scores=_masked(-10000.0)),
)  # fmt: skip
enter(
    "mask of −∞", "attention.masked_scores", "float('-inf')",
    "The mask is −∞: a row of nothing but padding becomes 0/0, NaN. Use torch.finfo(dtype).min.",
    exchange_step(masked_scores=_masked(-math.inf)),
)  # fmt: skip
enter(
    "mask after the softmax", "attention.masked_scores", "probabilities * mask",
    "Padding is set to zero after the softmax, so the rest does not sum to 1: mask the scores, before.",
    exchange_step(masked_scores=lambda scores, mask: scores * 1.0, probabilities=_mask_after),
)  # fmt: skip
enter(
    "softmax over the queries", "attention.probabilities", "dim=-2",
    "The softmax goes over the queries; each query's weights over the keys must sum to 1: dim=-1.",
    exchange_step(probabilities=lambda scores, mask: F.softmax(scores, dim=-2)),
)  # fmt: skip
enter(
    "softmax over the heads", "attention.probabilities", "dim=1",
    "The softmax goes over the heads; each query's weights over the keys must sum to 1: dim=-1.",
    exchange_step(probabilities=lambda scores, mask: F.softmax(scores, dim=1)),
)  # fmt: skip
enter(
    "probabilities transposed", "attention.context", "a transpose too many",
    "Each token gets what others would take from it: the probabilities are transposed before they meet the values.",
    exchange_step(context=lambda probabilities, value: probabilities.transpose(2, 3) @ value),
)  # fmt: skip
enter(
    "heads merged without the transpose", "attention.output", "view(B, S, D) straight from (B, H, S, W)",
    "A view as (B, S, D) mixes tokens and heads: transpose(1, 2) first, then flatten(2).", _merge_without_transpose,
)  # fmt: skip
enter(
    "output bias dropped", "attention.output", "bias=False",
    "The attention's output has no bias; each of BERT's projections has one.", _no_bias("attention", "output"),
)  # fmt: skip

# --- feed-forward, norms, residual lines ---------------------------------------------------------------------------


def _activation(function: Callable[[Tensor], Tensor]) -> Change:
    def change(model: BertModel, stack: ExitStack) -> None:
        exchange(stack, [layer.feed_forward for layer in layers_of(model)], "activation", lambda _: function)

    return change


def _norm(compute: Callable[[nn.LayerNorm, Tensor], Tensor]) -> Change:
    return exchange_forward("norms", compute)


def _eps(model: BertModel, stack: ExitStack) -> None:
    exchange(stack, norms_of(model), "eps", lambda norm: 1e-5 if norm.eps < 1e-6 else 1e-12)


def _eps_outside(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True).sqrt() + norm.eps) * norm.weight + norm.bias


def _sample_deviation(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (x.var(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias  # var divides by n - 1


def _root_mean_square(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def _over_the_sequence(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-2, keepdim=True)
    deviation = (centred.square().mean(-2, keepdim=True) + norm.eps).sqrt()
    return centred / deviation * norm.weight + norm.bias


def _no_norm(name: str) -> Change:
    def change(model: BertModel, stack: ExitStack) -> None:
        norms = [getattr(layer, name) for layer in layers_of(model)]
        exchange(stack, norms, "forward", lambda norm: lambda x: x)

    return change


def _gamma_beta(model: BertModel, stack: ExitStack) -> None:
    for norm in norms_of(model):
        weight, bias = norm.weight.data, norm.bias.data
        overwrite(stack, norm.weight, bias)
        overwrite(stack, norm.bias, weight)


def _layer(compute: Callable[..., Tensor]) -> Change:
    """Layers compute compute(layer, hidden, attend), where attend(hidden) is attention."""

    def forward(layer: EncoderLayer, hidden: Tensor, *rest: object) -> tuple[Tensor, Tensor | None]:
        kept: list[Tensor | None] = [None]

        def attend(x: Tensor) -> Tensor:
            attended, kept[0] = layer.attention(x, *rest)
            return attended

        return compute(layer, hidden, attend), kept[0]

    return exchange_forward("layers", forward)


def _no_attention_residual(layer: EncoderLayer, hidden: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    hidden = layer.attention_norm(attend(hidden))
    return layer.feed_forward_norm(hidden + layer.feed_forward(hidden))


def _no_feed_forward_residual(layer: EncoderLayer, hidden: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    hidden = layer.attention_norm(hidden + attend(hidden))
    return layer.feed_forward_norm(layer.feed_forward(hidden))


def _residual_of_the_input(layer: EncoderLayer, hidden: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    attended = layer.attention_norm(hidden + attend(hidden))
    return layer.feed_forward_norm(hidden + layer.feed_forward(attended))


def _residual_after_norm(layer: EncoderLayer, hidden: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    hidden = hidden + layer.attention_norm(attend(hidden))
    return hidden + layer.feed_forward_norm(layer.feed_forward(hidden))


def _pre_norm(layer: EncoderLayer, hidden: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    hidden = hidden + attend(layer.attention_norm(hidden))
    return hidden + layer.feed_forward(layer.feed_forward_norm(hidden))


def _norms_swapped(model: BertModel, stack: ExitStack) -> None:
    for layer in layers_of(model):
        first, second = layer.attention_norm, layer.feed_forward_norm
        forwards = first.forward, second.forward
        exchange(stack, [first], "forward", lambda _, forwards=forwards: forwards[1])
        exchange(stack, [second], "forward", lambda _, forwards=forwards: forwards[0])


enter(
    "GELU by tanh", "feed_forward.activation", "GPT-2's activation; 4e-4 per element",
    "GELU is computed by its approximation with tanh; BERT's is x·Φ(x), with the error function.",
    _activation(gelu_tanh),
)  # fmt: skip
enter(
    "ReLU for GELU", "feed_forward.activation", "code written after AIAYN, section 3.3",
    "The activation is ReLU, as in AIAYN; BERT's is GELU, x·Φ(x).", _activation(F.relu),
)  # fmt: skip
enter(
    "activation forgotten", "feed_forward.activation", "two Linear layers in a row",
    "There is no activation between the two linear maps, so they are one.", _activation(lambda x: x * 1.0),
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
    "LayerNorm's eps", "embeddings.norm", "PyTorch's default of 1e-5; BERT's is 1e-12",
    "LayerNorm adds another eps to the variance than the checkpoint's layer_norm_eps says.", _eps,
)  # fmt: skip
enter(
    "eps outside the root", "embeddings.norm", "hand-written LayerNorm",
    "LayerNorm divides by √variance + eps; it is √(variance + eps).", _norm(_eps_outside),
)  # fmt: skip
enter(
    "variance over n − 1", "embeddings.norm", "x.var() and x.std() without unbiased=False",
    "LayerNorm divides the squares by n − 1, as x.var() does; it is n: x.var(unbiased=False).",
    _norm(_sample_deviation),
)  # fmt: skip
enter(
    "mean not subtracted", "embeddings.norm", "RMSNorm",
    "LayerNorm does not subtract the mean: that is RMSNorm.", _norm(_root_mean_square),
)  # fmt: skip
enter(
    "norm over the sequence", "embeddings.norm", "dim=1",
    "LayerNorm goes over the tokens of a text; it goes over the D numbers of each token.", _norm(_over_the_sequence),
)  # fmt: skip
enter(
    "gamma and beta swapped", "embeddings.norm", "checkpoints that call them gamma and beta",
    "LayerNorm's weight (gamma) and bias (beta) have changed places.", _gamma_beta,
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
    "Attention's output is not added to its input.", _layer(_no_attention_residual),
)  # fmt: skip
enter(
    "no residual around the feed-forward", "feed_forward_sum", "hand-written layers",
    "The feed-forward's output is not added to its input.", _layer(_no_feed_forward_residual),
)  # fmt: skip
enter(
    "residual from the layer's input", "feed_forward_sum", "a variable that was overwritten too late",
    "The feed-forward's output is added to the layer's input; it is added to what the feed-forward read.",
    _layer(_residual_of_the_input),
)  # fmt: skip
enter(
    "residual after the norm", "attention_sum", "x + norm(sublayer(x))",
    "The residual is added after the norm; BERT normalises the sum: norm(x + sublayer(x)).",
    _layer(_residual_after_norm),
)  # fmt: skip
enter(
    "pre-norm", "attention.query", "GPT-2's layers",
    "Each part normalises what it reads, x + sublayer(norm(x)); BERT normalises the sum: norm(x + sublayer(x)).",
    _layer(_pre_norm),
)  # fmt: skip

# --- the whole model -----------------------------------------------------------------------------------------------


def _layers_in_order(order: Callable[[int], list[int]]) -> Change:
    """Of L layers those with the numbers order(L) compute, each at the next place."""

    def change(model: BertModel, stack: ExitStack) -> None:
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


def _dropout_on(model: BertModel, stack: ExitStack) -> None:
    was = model.training
    stack.callback(model.train, was)
    model.train()


def _pooler(compute: Callable[[Pooler, Tensor], Tensor]) -> Change:
    return exchange_forward("pooler", compute)


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
    "last layer left out", "attention.query", "range(L - 1)",
    "The last layer is not computed: there are L of them.", _layers_in_order(lambda count: list(range(count - 1))),
)  # fmt: skip
enter(
    "dropout left on", "attention.query", "hf#403, #695, #9039",
    "The model is in training mode, and drops a tenth of all numbers at random, others at each call: model.eval().",
    _dropout_on,
)  # fmt: skip
enter(
    "pooler on the last token", "pooler.dense", "hidden[:, -1]",
    "The pooler reads the last token; it reads the first, [CLS].",
    _pooler(lambda pooler, hidden: torch.tanh(pooler.dense(hidden[:, -1]))),
)  # fmt: skip
enter(
    "pooler on the mean", "pooler.dense", "mistaken for a sentence vector",
    "The pooler reads the mean of all tokens; it reads the first, [CLS].",
    _pooler(lambda pooler, hidden: torch.tanh(pooler.dense(hidden.mean(1)))),
)  # fmt: skip
enter(
    "pooler without tanh", "pooler.tanh", "hand-written poolers",
    "The pooler's tanh is missing.", _pooler(lambda pooler, hidden: pooler.dense(hidden[:, 0])),
)  # fmt: skip

# --- sentence vectors ----------------------------------------------------------------------------------------------


def _pool(compute: Callable[[Tensor, Tensor], Tensor]) -> Change:
    """What `diagnose` pools by; a `BertModel` itself has no pooling."""
    return lambda model, stack: exchange(stack, [model], "pool", lambda _: compute)


def _inner_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    inner = mask.clone()
    inner[:, 0] = 0
    inner[torch.arange(len(mask)), mask.sum(1) - 1] = 0
    return mean_pool(hidden, inner)


enter(
    "padding in the mean", "mean_pool", "the lesson source 003: token_vecs.mean(dim=0)",
    "The mean goes over padding too, whose vectors are not zero: multiply by the mask, divide by its sum.",
    _pool(lambda hidden, mask: hidden.mean(1)),
)  # fmt: skip
enter(
    "mean divided by the padded length", "mean_pool", "sum over the mask, then .mean()",
    "The sum leaves padding out, but is divided by the length with padding: divide by the mask's sum.",
    _pool(lambda hidden, mask: (hidden * mask[:, :, None]).mean(1)),
)  # fmt: skip
enter(
    "[CLS] and [SEP] left out of the mean", "mean_pool", "hand-written pooling",
    "The mean leaves [CLS] and [SEP] out; sentence-transformers' has them in.", _pool(_inner_mean),
)  # fmt: skip
enter(
    "[CLS] for the mean", "mean_pool", "st#1317",
    "The vector is that of [CLS]; it is the mean of all tokens.", _pool(lambda hidden, mask: hidden[:, 0]),
)  # fmt: skip
