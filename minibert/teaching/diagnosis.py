"""Where did mine go wrong?

    print(diagnose(my_attention, reference, part="attention"))

A student's code and a reference compute the same inputs. The first value in which they differ shows where to look; and
for every known mistake the reference is made to make it too: the one that gives the student's numbers is the one that
the student made. Both compute in float64, where a mistake stays as large as it was and rounding all but disappears.
"""

import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minibert.checkpoints.loading import Pretrained
from minibert.errors import InputError, MinibertError
from minibert.model import BertModel, BertOutput
from minibert.teaching.bugs import BUGS
from minibert.teaching.parts import PARTS, Function, Inputs, Part
from minibert.trace.compare import (
    Values,
    example_inputs,
    first_difference,
    in_float64,
    is_close,
    max_difference,
    typical_size,
)
from minibert.trace.recording import bert_of, edit, names_of, record

DROPOUT = "dropout left on"


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What was found; shown or printed, it is in a learner's words.

    Args:
        verdict: "equal" to the last bit, "rounding", "bug" if a known mistake gives the student's numbers, "random" if
            two calls differ, "broken" if it gives no numbers at all, or "unknown".
        where: the first value that differs, by its name in `recording`.
        difference: how much, at most, in float64.
        bugs: the mistakes that give the same numbers there, the most complete explanation first; for "unknown", those
            that begin there and have other numbers each time.
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

    def __repr__(self) -> str:
        return self.text

    @property
    def healthy(self) -> bool:
        """Is it the same function?"""
        return self.verdict in ("equal", "rounding")


def diagnose(
    student: Function, reference: Pretrained, inputs: Inputs | None = None, *, part: str | None = None
) -> Diagnosis:
    """Finds the first value in which a student's code differs from a reference, and the mistake that explains it.

    Args:
        student: a whole model with the reference's parameters: one that contains a `BertModel`, whose every value is
            compared, or any callable that takes the inputs and returns hidden states, as a tensor or as a `BertOutput`.
            Or a function for one part, in the form that `parts.PARTS` says.
        reference: the healthy model, a `BertModel` or one of the heads on it, in evaluation mode.
        inputs: `input_ids`, `attention_mask` and `token_type_ids` as `BertModel` takes them; by default a few texts of
            random ids, with padding and a pair.
        part: which part a function stands for; left out, its own name says it.

    Raises:
        InputError: a part that there is not, or that the reference does not have, or a reference that is none.
    """
    if not isinstance(reference, Pretrained) or reference.training:
        raise InputError("the reference must be a BertModel, or a head on one, in evaluation mode: call .eval()")
    if part is None and not isinstance(student, nn.Module):
        part = getattr(student, "__name__", None)
        part = part if part in PARTS else None
    if part is not None and part not in PARTS:
        raise InputError(f"there is no part {part!r}; there are {', '.join(PARTS)}")
    inputs = example_inputs(bert_of(reference)) if inputs is None else inputs
    with torch.no_grad():
        try:
            if part is not None:
                _check_shapes(student, reference, inputs, part)
            once, again = _student(student, reference, inputs, part), _student(student, reference, inputs, part)
        except _BrokenError as error:
            return Diagnosis("broken", str(error))
        expected = observe(reference, inputs)
        if not expected.keys() & once.keys():
            raise InputError("nothing can be compared: return hidden states (B, S, D), as a tensor or as a BertOutput")
        if part is not None and "pooler_output" not in once and "pooler_output" in expected:
            return Diagnosis("broken", f"{part} does not return the pooled vectors, (B, D), after the hidden states.")
        moved = first_difference(once, again, {})
        if moved is not None:
            text = f"Two calls with the same inputs differ, first in {moved}."
            if isinstance(student, nn.Module) and not student.training:
                why = "Something in it is random: dropout that is always on, or weights that are made at each call."
                return Diagnosis("random", f"{text} {why}", moved)
            why = f"Is it new weights at each call, or dropout? {BUGS[DROPOUT].explanation}"
            return Diagnosis("random", f"{text} {why}", moved, bugs=(DROPOUT,))
        inside = PARTS[part].inside if part else ()
        if _agree(once, expected, inside, torch.equal):
            return Diagnosis("equal", "The same, to the last bit.")
        outer = _outer(once, inside)
        rounding = max(max_difference(value, expected[name]) for name, value in outer.items() if name in expected)
        with ExitStack() as stack:
            for module in [reference, student]:
                if isinstance(module, nn.Module):
                    stack.enter_context(in_float64(module))
            exact = observe(reference, inputs)
            try:
                mine = _student(student, reference, inputs, part)
            except RuntimeError:  # code that insists on float32
                mine = once
            noise = {}
            if any(value.dtype != torch.float64 for value in mine.values()):  # it has a precision of its own
                noise = {name: 30 * max_difference(expected[name], value) for name, value in exact.items()}
            where = first_difference(mine, exact, noise)
            if where is not None and not _agree(mine, exact, inside, is_close):
                found = _explain(mine, exact, where, student, reference, inputs, noise)
                if found.bugs:
                    return found
                outer = _outer(mine, inside)
                # Code that rounds to float32 on its way differs in float64 about as the reference in float32 does.
                coarse = {name: 30 * max_difference(expected[name], value) for name, value in exact.items()}
                later = first_difference(outer, exact, coarse)
                if later is not None:  # it may do other things inside, and still make a mistake that has a name
                    outside = _explain(outer, exact, later, student, reference, inputs, noise)
                    return outside if outside.bugs else found
                noise = coarse
            # The mask's lowest number is another in each precision.
            named = [name for name in _outer(mine, (*inside, "masked_scores")) if name in exact]
            left = max(max_difference(mine[name], exact[name]) for name in named)
            text = f"The same function, rounded otherwise: it differs by {rounding:.1e}, in float64 by {left:.1e}."
            if noise:
                text = f"The same function, up to the rounding of a precision of its own: it differs by {left:.1e}."
            return Diagnosis("rounding", text, difference=left)


def _explain(
    mine: Values,
    expected: Values,
    where: str,
    student: Function,
    reference: Pretrained,
    inputs: Inputs,
    noise: dict[str, float],
) -> Diagnosis:
    """Tries every known mistake on the reference; all in float64."""
    names = [name for name in expected if name in mine]
    # A mistake explains a value if next to nothing of the difference is left: a student's own constants are rounded.
    slack = {}
    for name in names:
        slack[name] = 1e-5 * min(max_difference(mine[name], expected[name]), 10 * typical_size(expected[name]))
    slack = {name: max(value, noise.get(name, 0.0)) for name, value in slack.items()}
    found: list[tuple[int, str, str | None]] = []
    for bug in BUGS.values():
        elsewhere = not where.endswith(bug.first) and any(name.endswith(bug.first) for name in names)
        if bug.random or elsewhere:  # it has no numbers to compare with, or it begins at another value
            continue
        with bug.applied(reference):
            value = _value_at(where, reference, inputs)
            if value is None or not is_close(mine[where], value, slack[where]):
                continue
            tried = observe(reference, inputs)
        then = first_difference(mine, tried, slack)
        if then is None or names.index(then) > names.index(where):
            found.append((names.index(then) if then else len(names), bug.name, then))
    found.sort(key=lambda each: -each[0])
    best = [each for each in found if each[0] == found[0][0]]
    difference = max_difference(mine[where], expected[where])
    size = typical_size(expected[where])
    amount = f"up to {difference:.2g} (values there are about {size:.2g})"
    if difference > 1e30:
        amount = "as much as the lowest number of a mask"
    place = f"The first value that differs is {where}, by {amount}."
    if not best:
        text = f"{place} No single known mistake gives these numbers. "
        if where in PARTS:
            text += "What it is given is right: look at what it takes from that, and over which axis."
        else:
            text += "What was recorded before it agrees: compare the line that computes it with the one in model.py."
        if isinstance(student, Pretrained):
            own = dict(student.named_parameters())
            others = [name for name, each in reference.named_parameters() if not torch.equal(own.get(name, each), each)]
            if others:
                text += f" Its {others[0]} is not the reference's: were the weights loaded as they are?"
        suspects = [bug for bug in BUGS.values() if bug.random and bug.first == where]
        if suspects and torch.corrcoef(torch.stack([mine[where].flatten(), expected[where].flatten()]))[0, 1] > 0.5:
            suspects = []  # numbers that are alike are not random
        text += "".join(
            f" It may be this one, whose numbers are random: {bug.name}. {bug.explanation}" for bug in suspects
        )
        return Diagnosis("unknown", text, where, difference, tuple(bug.name for bug in suspects))
    names_found = tuple(name for _, name, _ in best)
    then = best[0][2]
    reproduces = "gives exactly these numbers" if then is None else "gives exactly this value"
    text = f"{place} One known mistake {reproduces}: {names_found[0]}. {BUGS[names_found[0]].explanation}"
    if len(names_found) > 1:
        text += f" Or, with the same numbers: {', '.join(names_found[1:])}."
    if then is not None:
        text += f" Mend it, and look again: with it alone, {then} would still differ."
    return Diagnosis("bug", text, where, difference, names_found, then)


# --- a student's function ------------------------------------------------------------------------------------------


class _BrokenError(RuntimeError):
    """A student's function gave nothing that could be compared; the message is for the student."""


def _watched(function: Function, name: str, shaped: bool = False) -> Function:
    """The function, whose exceptions and changes to its arguments are said in a learner's words.

    With `shaped`, its result must have the shape of ours, which is then computed beside it.
    """
    part = PARTS[name]

    def call(*arguments: Any) -> Any:
        named = list(zip(part.parameters, arguments, strict=False))
        tensors = [(key, each) for key, each in named if isinstance(each, Tensor)]
        lists = [(key, each, list(each)) for key, each in named if isinstance(each, list)]
        shapes = ", ".join(f"{key} {tuple(each.shape)}" for key, each in tensors)
        versions = [_version(each) for _, each in tensors]
        try:
            result = function(*arguments)
        except NotImplementedError:
            raise _BrokenError(f"{name} is still to be written: it raises NotImplementedError.") from None
        except (Exception, SystemExit) as error:
            raise _BrokenError(f"{name} fails: {_said(error, function, part)}, for {shapes}.") from error
        for (key, each), version in zip(tensors, versions, strict=True):
            if _version(each) != version:
                raise _BrokenError(
                    f"{name} changes its argument {key} in place, which whoever called it still needs: "
                    f"write {key} = {key} + …, not {key} += …."
                )
        for key, own, before in lists:
            if own != before:
                raise _BrokenError(
                    f"{name} changes the list {key}, which whoever called it still needs: make another, [*{key}, …]."
                )
        if shaped:
            expected = part.ours(*arguments)
            complaint = _form(result, expected)
            if complaint:
                raise _BrokenError(f"{name} returns {complaint}" + (f", for {shapes}." if shapes else "."))
        return result

    return call


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; tensors made in inference mode do not count."""
    return None if tensor.is_inference() else tensor._version


def _check_shapes(student: Function, reference: Pretrained, inputs: Inputs, part: str) -> None:
    with ExitStack() as stack:
        PARTS[part].put(reference, stack, _watched(student, part, shaped=True))
        observe(reference, inputs)


def _form(given: Any, expected: Any) -> str:
    """What is wrong with the form of a result, in words; nothing if all is well."""
    if isinstance(given, tuple):
        counts = [len(expected)] if isinstance(expected, tuple) else []
        counts = [2, 3, 4] if isinstance(expected, BertOutput) else counts
        if len(given) not in counts:
            return f"a tuple of {len(given)}, where one tensor is asked for"
    given, expected = (each[0] if isinstance(each, tuple) else each for each in (given, expected))
    if expected is None:
        return ""
    if not isinstance(given, Tensor):
        return "nothing (is there a return?)" if given is None else f"{type(given).__name__}, not a tensor"
    if given.shape != expected.shape:
        return f"the shape {tuple(given.shape)}; it should be {tuple(expected.shape)}"
    if given.dtype != expected.dtype:
        return f"numbers of {given.dtype}; they should be of {expected.dtype}, as what came in"
    if given.isnan().any() and not expected.isnan().any():
        return "NaN, which is no number"
    return ""


def _said(error: BaseException, function: Function, part: Part) -> str:
    """What a student's function raised, and at which of its lines."""
    message = str(error).strip().split("\n")[0]
    code = getattr(function, "__code__", None)
    lines = [
        frame for frame in traceback.extract_tb(error.__traceback__) if code and frame.filename == code.co_filename
    ]
    if lines:
        return f"{type(error).__name__}: {message} (line {lines[-1].lineno}: {lines[-1].line})"
    return f"{type(error).__name__}: {message} (it is called with {', '.join(part.parameters)})"


# --- what is compared ----------------------------------------------------------------------------------------------


def observe(model: Pretrained, inputs: Inputs) -> Values:
    """Every named value of a model for these inputs, then what it returns, then what can be made of that."""
    with record(model) as trace:
        out = model(**inputs, output_hidden_states=True)
    return dict(trace) | _results(out, inputs, vars(bert_of(model)))


class _ReachedError(Exception):
    """Ends a forward pass at the value that was wanted; most mistakes are ruled out there."""


def _value_at(name: str, model: Pretrained, inputs: Inputs) -> Tensor | None:
    """One value of `observe`, computed no further than it has to be."""
    if name not in names_of(model):
        return observe(model, inputs).get(name)

    def stop(value: Tensor) -> Tensor:
        raise _ReachedError(value)

    try:
        with edit(model, name, stop):
            model(**inputs)
    except _ReachedError as reached:
        return reached.args[0]
    return None


def _results(out: Any, inputs: Inputs, exchanged: Mapping[str, Any]) -> Values:
    """What a model returned, by name, and what is made of it, by functions of ours or by those put in their place."""
    if isinstance(out, Tensor):
        out = (out,)
    if isinstance(out, Mapping):  # as transformers returns it
        fields = dict(out)
    else:
        fields = out._asdict() if hasattr(out, "_asdict") else dict(zip(BertOutput._fields, out, strict=False))
    states = fields.get("hidden_states") or ()
    values = {f"hidden_states[{number}]": state for number, state in enumerate(states)}
    values |= {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    last = values.get("last_hidden_state", states[-1] if states else None)
    if last is not None:
        for name, part in PARTS.items():
            function = exchanged.get(name, part.ours)
            try:
                value = part.call(function, BertOutput(last, None, states or None), inputs) if part.call else None
            except MinibertError:  # of ours, on numbers that are none
                continue
            if value is not None:
                values[name] = value
    return values


def _student(student: Function, reference: Pretrained, inputs: Inputs, part: str | None) -> Values:
    if part is not None:
        called = False

        def counted(*arguments: Any) -> Any:
            nonlocal called
            called = True
            return watched(*arguments)

        watched = _watched(student, part)
        with ExitStack() as stack:
            PARTS[part].put(reference, stack, counted)
            values = observe(reference, inputs)
        if not called:
            raise InputError(f"{type(reference).__name__} has no {part} to be computed with these inputs")
        return values
    if isinstance(student, Pretrained):
        return observe(student, inputs)
    if isinstance(student, nn.Module) and sum(isinstance(each, BertModel) for each in student.modules()) == 1:
        with record(student) as trace:
            out = student(**inputs)
        return dict(trace) | _results(out, inputs, {})
    return _results(student(**inputs), inputs, {})


def _agree(mine: Values, expected: Values, inside: tuple[str, ...], same: Callable[[Tensor, Tensor], bool]) -> bool:
    """Is everything the same that counts: all but what is formed inside a student's own function?"""
    return all(same(value, expected[name]) for name, value in _outer(mine, inside).items() if name in expected)


def _outer(values: Values, inside: tuple[str, ...]) -> Values:
    return {name: value for name, value in values.items() if not name.endswith(inside)}
