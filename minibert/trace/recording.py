"""What happens inside, and what if I change it?

    with record(model) as trace:                    every intermediate value, by name, in the order computed
        model(**inputs)
    trace["encoder.layers.3.attention.probabilities"]       # (B, H, S, T)

    with edit(model, "encoder.layers.3.attention.context", zero, heads=5):
        model(**inputs)                             the same model without head 5 of layer 3

`values` says which values have a name, `edits` has the usual functions to edit them by. `model.py` knows nothing of all
this, and nothing stays behind after the block.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minibert.checks import accepts, check_one_of, did_you_mean, required_arguments, shown
from minibert.errors import InputError
from minibert.heads import bert_in
from minibert.inputs import FLOATS
from minibert.show.tables import table
from minibert.trace.hooks import hooked
from minibert.trace.selection import Selection
from minibert.trace.values import Value, aliases, matching

EditFunction = Callable[[Tensor], Tensor] | Callable[[Tensor, str], Tensor]


class Trace(dict[str, Tensor]):
    """The values of one forward pass, by name, in the order computed; aliases such as "hidden_states[3]" find them too.

    `pass_number` is the number of the pass inside the block, from 1; before the first it is 0. `passes` are the traces
    of all passes with `passes="all"`, and otherwise that of the last.
    """

    def __init__(self, values: Mapping[str, Value], also: Mapping[str, str]) -> None:
        super().__init__()
        self.recorded = values  # what will be in it
        self.aliases = also
        self.pass_number = 0
        self.all_passes: list[Trace] | None = None  # with passes="all"

    @property
    def passes(self) -> list["Trace"]:
        """The traces of all passes, or that of the last."""
        if self.all_passes is not None:
            return self.all_passes
        return [self] if self.pass_number else []  # not kept: a trace that holds itself outlives its block

    def __missing__(self, name: str) -> Tensor:
        known = self.aliases.get(name, name)
        if known in self:
            return self[known]
        if known in self.recorded:
            if not self.pass_number:
                raise InputError(f"there is no {name!r} yet: call the model first")
            raise InputError(f"there is no {name!r} in this pass: the model did not compute it")
        hint = did_you_mean(name, self.recorded) or ": ask for it in record(model, names)"
        raise InputError(f"{name!r} was not recorded{hint}")

    def summary(self) -> str:
        """A table of all names, with their shapes in letters and in numbers."""
        rows = []
        for name, value in self.items():
            rows.append((name, self.recorded[name].axes, " × ".join(map(str, value.shape))))
        return table([("name", "axes", "shape"), *rows])


@contextmanager
def record(
    model: nn.Module,
    names: str | Sequence[str] = "*",
    *,
    passes: Literal["last", "all"] = "last",
    to: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[Trace]:
    """Records named values of every forward pass inside the block. Only these are kept, and only as long as the trace.

    Args:
        model: a `BertModel`, or anything that contains one. The values of a head have names if it is in there too.
        names: which, one or several, with * and ? as in file names: "*norm", "encoder.layers.3.*", or by an alias,
            "hidden_states[3]". The steps inside attention are computed by eager attention only: if one of them is asked
            for, it computes the call, whichever attention the model was loaded with; the two differ by rounding.
            Derived values are computed only if a pattern ends as their names do: "*.head_outputs", "*norm.scale".
        passes: "last" keeps the values of the last pass, one call of the BERT; "all" those of every pass, in
            `trace.passes`.
        to: the device to keep them on, such as "cpu"; None leaves each where it was computed.
        dtype: the floating-point type to keep them in; None keeps each as it is.

    The model itself is changed inside the block: its forward passes in other threads are recorded too.

    Raises:
        InputError: no value has such a name, or an option that is not one of these.
    """
    check_one_of("passes", passes, ("last", "all"))
    kept_as = _kept_as(to, dtype)
    bert, wanted, also = bert_in(model), matching(model, names), aliases(model)
    trace = Trace(wanted, also)
    if passes == "all":
        trace.all_passes = []

    def begin(*_: object) -> None:
        trace.clear()
        trace.pass_number += 1
        if trace.all_passes is not None:
            trace.all_passes.append(Trace(wanted, also))
            trace.all_passes[-1].pass_number = trace.pass_number

    def keep(name: str, value: Tensor) -> None:
        kept = value.to(**kept_as) if kept_as else value
        trace[name] = kept
        if trace.all_passes:  # none yet if a module is called by itself, outside any pass
            trace.all_passes[-1][name] = kept

    with ExitStack() as stack:
        stack.callback(bert.register_forward_pre_hook(begin).remove)
        for name, value in wanted.items():
            hooks = stack.enter_context(hooked(model, name, value))
            _add(stack, hooks.recordings, partial(keep, name))
        yield trace


@contextmanager
def edit(
    model: nn.Module,
    names: str | Sequence[str] | Mapping[str, EditFunction],
    function: EditFunction | None = None,
    *,
    heads: int | Sequence[int] | None = None,
    positions: int | Sequence[int] | Tensor | None = None,
    rows: int | Sequence[int] | None = None,
) -> Iterator[None]:
    """Puts function(value) in the place of a named value, for every forward pass inside the block.

        with edit(model, "encoder.layers.3.attention.context", zero, heads=[5, 7]): …
        with edit(model, {"hidden_states[2]": steer, "*.context": gate(gates)}): …

    Args:
        model, names: as for `record`; or a mapping from names to a function each.
        function: gets a copy of the value, and its name if it takes two arguments, and returns what goes on in its
            place: a tensor of the same shape, dtype and device. `trace.edits` has the usual ones.
        heads: the heads that are changed; None means all. The function gets the whole value and returns a whole one,
            but outside what is chosen here the value remains as it was. In a pruned layer, only the heads that remain
            are counted.
        positions: the positions in the sequence that are changed, of queries where a value has queries and keys; or a
            tensor (B, S) that is True where it is. Negative ones count from the end of the padded sequence.
        rows: the rows of the batch that are changed.

    Of two edits of one value, the one whose block began first acts first, and the next gets what it returned. `record`
    sees what all of them return, whichever block began first. The model itself is changed inside the block: its forward
    passes in other threads are edited too.

    Raises:
        InputError: no value has such a name; a choice of heads, positions or rows that a value does not have; or the
            function returns something else than a tensor like the value.
    """
    functions = _by_name(names, function)
    chosen = Selection(heads, positions, rows)
    with ExitStack() as stack:
        for pattern, each in functions:
            for name, value in matching(model, pattern).items():
                chosen.check(name, value)
                hooks = stack.enter_context(hooked(model, name, value))
                _add(stack, hooks.edits, partial(_changed, _with_name(each, name), chosen, name, value))
        yield


def _changed(function: Callable[[Tensor], Tensor], chosen: Selection, name: str, kind: Value, value: Tensor) -> Tensor:
    """The value after an edit, which must be a tensor like it."""
    changed = function(value.clone())  # a copy: what others hold of the value stays as it is
    if not isinstance(changed, Tensor) or changed.shape != value.shape:
        given = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
        raise InputError(f"the function for {name} must return a tensor {tuple(value.shape)}, not {given}")
    if changed.dtype != value.dtype or changed.device != value.device:
        expected, got = (f"{each.dtype} on {each.device}" for each in (value, changed))
        raise InputError(f"the function for {name} must return {expected}, not {got}")
    return chosen.apply(name, kind, value, changed)


def _by_name(names: Any, function: Any) -> list[tuple[Any, Callable[..., Tensor]]]:
    """Each pattern with its function, in the order given."""
    if isinstance(names, Mapping):
        if function is not None:
            raise InputError("function must be left out where names is a mapping from names to functions")
        pairs = list(names.items())
    else:
        pairs = [(names, function)]
    for pattern, each in pairs:
        if not callable(each):
            hint = "to edit values by several functions, pass {name: function}"
            if isinstance(each, Tensor):
                hint = "to put a tensor in its place, pass lambda value: tensor; what mean_of returns is a function too"
            raise InputError(f"the function for {pattern} must be a function of the value, got {shown(each)}: {hint}")
    return pairs


def _with_name(function: Callable[..., Tensor], name: str) -> Callable[[Tensor], Tensor]:
    """The function of a value alone; one that takes two arguments gets its name as the second."""
    with_name = required_arguments(function) > 1
    if not accepts(function, 2 if with_name else 1):
        what = "take the value, or the value and its name"
        raise InputError(f"the function for {name} must {what}, got one of other arguments: {shown(function)}")
    return (lambda value: function(value, name)) if with_name else function


def _kept_as(to: Any, dtype: Any) -> dict[str, Any]:
    """The device and dtype that values are kept in, as arguments of `Tensor.to`."""
    kept: dict[str, Any] = {}
    if to is not None:
        try:
            kept["device"] = torch.device(to)
            torch.empty(0, **kept)
        except (RuntimeError, TypeError, AssertionError, ImportError):  # not a device, or not one that is here
            raise InputError(f"to must be a device of this machine, such as 'cpu', got {shown(to)}") from None
    if dtype is not None:
        kept["dtype"] = check_one_of("dtype", dtype, FLOATS)
    return kept


def _add(stack: ExitStack, functions: list[Any], function: Callable[..., Any]) -> None:
    """Adds a function to a list until the stack is closed."""
    functions.append(function)
    stack.callback(functions.remove, function)
