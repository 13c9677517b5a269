"""Where did mine go wrong?

    print(diagnose(my_attention, reference, part="attention"))

A student's code and a reference compute the same inputs. The first value in which they differ shows where to look; and
for every known mistake the reference is made to make it too: the one that gives the student's numbers is the one that
the student made. Both compute in float64, where a mistake stays as large as it was and rounding all but disappears.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minibert.bugs import BUGS, exchange, layers_of, norms_of
from minibert.errors import InputError
from minibert.model import BertModel, BertOutput
from minibert.pooling import mean_pool
from minibert.recording import OpenAttention, record, through

Values = dict[str, Tensor]
Inputs = Mapping[str, Tensor]
Function = Callable[..., Any]
Put = Callable[[BertModel, Function, ExitStack], None]

RANDOM = "dropout left on"  # the one mistake that gives no numbers to compare with
SAME = 1e-8  # in float64, relative to the typical size of a value: below it is rounding, in whatever order


@dataclass(frozen=True)
class Diagnosis:
    """What was found; `print` it for a learner's words.

    Args:
        verdict: "equal" to the last bit, "rounding", "bug" if a known mistake gives the student's numbers, "random" if
            two calls differ, or "unknown".
        where: the first value that differs, by its name in `recording`.
        difference: how much, at most, in float64.
        bugs: the mistakes that give the same numbers there, the most complete explanation first.
        then: the next value that differs from the reference with the first of these mistakes; None if that explains
            everything.
        text: all of it in words.
    """

    verdict: str
    text: str
    where: str | None = None
    difference: float = 0.0
    bugs: tuple[str, ...] = ()
    then: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def healthy(self) -> bool:
        """Is it the same function?"""
        return self.verdict in ("equal", "rounding")


def diagnose(
    student: Function, reference: BertModel, inputs: Inputs | None = None, *, part: str | None = None
) -> Diagnosis:
    """Finds the first value in which a student's code differs from a reference, and the mistake that explains it.

    Args:
        student: a whole model with the reference's parameters: one that contains a `BertModel`, whose every value is
            compared, or any callable that takes the inputs and returns hidden states, as a tensor or as a `BertOutput`.
            Or a function for one part, see `PARTS`.
        reference: the healthy model, in evaluation mode.
        inputs: `input_ids`, `attention_mask` and `token_type_ids` as `BertModel` takes them; by default a few texts of
            random ids, with padding and a pair.
        part: which part a function stands for; left out, its own name says it.

    Raises:
        InputError: a part that there is not, or a reference that is none.
    """
    if not isinstance(reference, BertModel) or reference.training:
        raise InputError("the reference must be a BertModel in evaluation mode: call reference.eval()")
    if part is None and not isinstance(student, nn.Module):
        part = getattr(student, "__name__", None)
        part = part if part in PARTS else None
    if part is not None and part not in PARTS:
        raise InputError(f"there is no part {part!r}; there are {', '.join(PARTS)}")
    inputs = some_inputs(reference) if inputs is None else inputs
    with torch.no_grad():
        once, again = _student(student, reference, inputs, part), _student(student, reference, inputs, part)
        expected = observe(reference, inputs)
        moved = _first_difference(once, again, {})
        if moved is not None:
            text = f"Two calls with the same inputs differ, first in {moved}. {BUGS[RANDOM].explanation}"
            return Diagnosis("random", text, moved, bugs=(RANDOM,))
        if all(torch.equal(value, expected[name]) for name, value in once.items() if name in expected):
            return Diagnosis("equal", "The same, to the last bit.")
        rounding = max(distance(value, expected[name]) for name, value in once.items() if name in expected)
        with ExitStack() as stack:
            for module in [reference, student]:
                if isinstance(module, nn.Module):
                    stack.enter_context(_in_float64(module))
            mine, exact = _student(student, reference, inputs, part), observe(reference, inputs)
            noise = {}
            if any(value.dtype != torch.float64 for value in mine.values()):  # it has a precision of its own
                noise = {name: 30 * distance(expected[name], value) for name, value in exact.items()}
            where = _first_difference(mine, exact, noise)
            if where is not None:
                return _explain(mine, exact, where, reference, inputs, noise)
            left = max(distance(value, exact[name]) for name, value in mine.items() if name in exact)
            text = f"The same function, rounded otherwise: it differs by {rounding:.1e}, in float64 by {left:.1e}."
            return Diagnosis("rounding", text, difference=left)


def _explain(
    mine: Values, expected: Values, where: str, reference: BertModel, inputs: Inputs, noise: dict[str, float]
) -> Diagnosis:
    """Tries every known mistake on the reference; all in float64."""
    names = [name for name in expected if name in mine]
    # A mistake explains a value if next to nothing of the difference is left: a student's own constants are rounded.
    slack = {name: 1e-5 * min(distance(mine[name], expected[name]), 10 * _typical(expected[name])) for name in names}
    slack = {name: max(value, noise.get(name, 0.0)) for name, value in slack.items()}
    found: list[tuple[int, str, str | None]] = []
    for bug in BUGS.values():
        if bug.name == RANDOM:
            continue
        with bug.applied(reference):
            tried = observe(reference, inputs)
        if where not in tried or not is_close(mine[where], tried[where], slack[where]):
            continue
        then = _first_difference(mine, tried, slack)
        if then is None or names.index(then) > names.index(where):
            found.append((names.index(then) if then else len(names), bug.name, then))
    found.sort(key=lambda each: -each[0])
    best = [each for each in found if each[0] == found[0][0]]
    difference = distance(mine[where], expected[where])
    size = _typical(expected[where])
    place = f"The first value that differs is {where}, by up to {difference:.2g} (values there are about {size:.2g})."
    if not best:
        text = (
            f"{place} No single known mistake gives these numbers. Everything before it is right: compare the line "
            f"that computes it with the one in model.py."
        )
        return Diagnosis("unknown", text, where, difference)
    names_found = tuple(name for _, name, _ in best)
    then = best[0][2]
    reproduces = "gives exactly these numbers" if then is None else "gives exactly this value"
    text = f"{place} One known mistake {reproduces}: {names_found[0]}. {BUGS[names_found[0]].explanation}"
    if len(names_found) > 1:
        text += f" Or, with the same numbers: {', '.join(names_found[1:])}."
    if then is not None:
        text += f" Mend it, and look again: with it alone, {then} would still differ."
    return Diagnosis("bug", text, where, difference, names_found, then)


# --- what is compared ----------------------------------------------------------------------------------------------


def observe(model: BertModel, inputs: Inputs) -> Values:
    """Every named value of a model for these inputs, then what it returns, then the mean over the tokens."""
    with record(model) as trace:
        out = model(**inputs, output_hidden_states=True)
    pool = vars(model).get("pool", mean_pool)  # a student's, or one with a bug
    return _with_results(dict(trace), out, inputs, pool)


def some_inputs(model: BertModel, seed: int = 0) -> dict[str, Tensor]:
    """A few texts of random ids: of several lengths, padded, one of them a pair."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    longest = min(11, config.max_position_embeddings)
    lengths = [longest, max(2, longest - 4), max(2, longest // 2)]
    ids = torch.randint(config.vocab_size, (len(lengths), longest), generator=generator)
    mask = torch.tensor([[int(place < length) for place in range(longest)] for length in lengths])
    types = torch.zeros_like(ids)
    types[1, lengths[1] // 2 : lengths[1]] = config.type_vocab_size - 1
    device = model.embeddings.word_embeddings.weight.device
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "token_type_ids": types.to(device)}


def _student(student: Function, reference: BertModel, inputs: Inputs, part: str | None) -> Values:
    if part is not None:
        with ExitStack() as stack:
            PARTS[part](reference, student, stack)
            return observe(reference, inputs)
    berts = (
        [each for each in student.modules() if isinstance(each, BertModel)] if isinstance(student, nn.Module) else []
    )
    if len(berts) == 1:
        return observe(berts[0], inputs)
    out = student(**inputs)
    return _with_results({}, BertOutput(out, None) if isinstance(out, Tensor) else out, inputs, mean_pool)


def _with_results(values: Values, out: Any, inputs: Inputs, pool: Function) -> Values:
    """Adds what a model returned: hidden states if it has them, the last, the pooled; and the mean over the tokens."""
    for number, state in enumerate(getattr(out, "hidden_states", None) or ()):
        values[f"hidden_states[{number}]"] = state
    last = out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0]
    values["last_hidden_state"] = last
    pooled = getattr(out, "pooler_output", None)
    if pooled is not None:
        values["pooler_output"] = pooled
    if "attention_mask" in inputs:
        values["mean_pool"] = pool(last, inputs["attention_mask"])
    return values


def _first_difference(mine: Values, expected: Values, noise: Mapping[str, float]) -> str | None:
    shared = [name for name in expected if name in mine]
    return next((name for name in shared if not is_close(mine[name], expected[name], noise.get(name, 0.0))), None)


def is_close(a: Tensor, b: Tensor, noise: float = 0.0) -> bool:
    """Is it the same but for rounding? `noise` is by how much the precision of `a` may move it."""
    if a.shape != b.shape:
        return False
    return torch.allclose(a.double(), b.double(), rtol=SAME, atol=max(noise, SAME * _typical(b)), equal_nan=True)


def _typical(value: Tensor) -> float:
    """How large its numbers are; most of them, for those of a mask are as large as numbers go."""
    return value.abs().nan_to_num(posinf=0.0).median().item()


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference; infinite between other shapes, or where one is no number."""
    if a.shape != b.shape:
        return float("inf")
    same = (a == b) | (a.isnan() & b.isnan())
    return (a.double() - b.double()).abs().nan_to_num(nan=float("inf")).masked_fill(same, 0).max().item()


@contextmanager
def _in_float64(module: nn.Module) -> Iterator[None]:
    """Parameters and buffers in float64 inside the block; afterwards they are their own again, untouched."""
    tensors = [tensor for tensor in [*module.parameters(), *module.buffers()] if tensor.is_floating_point()]
    kept = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.double()
        yield
    finally:
        for tensor, data in zip(tensors, kept, strict=True):
            tensor.data = data


# --- a student's function in the place of ours ---------------------------------------------------------------------


def _gelu(model: BertModel, function: Function, stack: ExitStack) -> None:
    exchange(stack, [layer.feed_forward for layer in layers_of(model)], "activation", lambda _: function)


def _layer_norm(model: BertModel, function: Function, stack: ExitStack) -> None:
    exchange(stack, norms_of(model), "forward", lambda norm: lambda x: function(x, norm.weight, norm.bias, norm.eps))


def _attention(model: BertModel, function: Function, stack: ExitStack) -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Any:
        context = function(query, key, value, mask)
        return context if isinstance(context, tuple) else (context, None)

    for layer in layers_of(model):
        stack.callback(through(layer.attention, lambda open_: OpenAttention(attend, None, open_.taps)).remove)


def _split_heads(model: BertModel, function: Function, stack: ExitStack) -> None:
    parts = [layer.attention for layer in layers_of(model)]
    exchange(stack, parts, "split_heads", lambda part: lambda projected: function(projected, part.head_width))


def _merge_heads(model: BertModel, function: Function, stack: ExitStack) -> None:
    exchange(stack, [layer.attention for layer in layers_of(model)], "merge_heads", lambda _: function)


def _forward_of(modules: Callable[[BertModel], Sequence[nn.Module]]) -> Put:
    return lambda model, function, stack: exchange(
        stack, modules(model), "forward", lambda module: partial(function, module)
    )


def _mean_pool(model: BertModel, function: Function, stack: ExitStack) -> None:
    exchange(stack, [model], "pool", lambda _: function)


# The parts a student may write, by the name of the function, and how each is put in its place.
PARTS: dict[str, Put] = {
    "gelu": _gelu,  # (x) → x
    "layer_norm": _layer_norm,  # (x, weight, bias, eps) → x
    "split_heads": _split_heads,  # ((B, S, D), head_width) → (B, H, S, W)
    "attention": _attention,  # (query, key, value, mask) → context
    "merge_heads": _merge_heads,  # (B, H, S, W) → (B, S, D)
    # The others are methods: the first argument is the module of model.py that has the parameters.
    "embeddings": _forward_of(lambda model: [model.embeddings]),  # (self, input_ids, token_type_ids, position_ids)
    "feed_forward": _forward_of(lambda model: [layer.feed_forward for layer in layers_of(model)]),  # (self, hidden)
    "layer": _forward_of(layers_of),  # (self, hidden, mask, attend) → hidden, probabilities
    "pooler": _forward_of(lambda model: [] if model.pooler is None else [model.pooler]),  # (self, hidden) → (B, D)
    "mean_pool": _mean_pool,  # (hidden, attention_mask) → (B, D)
}
