"""Where did mine go wrong?

    print(diagnose(my_attention, reference, part="attention"))

A student's code and a reference compute the same inputs. The first value in which they differ shows where to look; and
for every known mistake the reference is made to make it too: the one that gives the student's numbers is the one that
the student made. Both compute in float64, where a mistake stays as large as it was and rounding all but disappears;
what is left of rounding is measured on the reference.
"""

import math
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from minibert.checkpoints.loading import Pretrained
from minibert.checks import check_one_of
from minibert.errors import InputError, MinibertError
from minibert.heads import bert_in
from minibert.model import BertModel, BertOutput
from minibert.teaching.bugs import BUGS, Bug
from minibert.teaching.parts import PARTS, Function, Inputs, replace_part
from minibert.trace.compare import (
    Values,
    example_inputs,
    first_difference,
    in_float64,
    is_close,
    max_difference,
    rounding_noise,
    typical_size,
)
from minibert.trace.recording import edit, record, short_name, value_names

DROPOUT = "dropout left on"


@dataclass(frozen=True)
class Diagnosis:
    """What was found. Shown or printed, it is in a learner's words; see `describe`."""

    # "equal" to the last bit, "rounding", "bug" if a known mistake gives the student's numbers, "random" if two calls
    # differ, "broken" if the student's code fails or returns something of the wrong form, or "unknown".
    verdict: str
    first_difference: str | None = None  # the first value that differs, by its name in `record`
    difference: float = 0.0  # how much it differs, at most, in float64; for "rounding", the largest of all
    # The mistakes that give the same numbers there, the most complete explanation first; for "unknown", those that
    # begin there and whose numbers are random.
    bugs: tuple[str, ...] = ()
    next_difference: str | None = None  # the first value that would still differ with the first of these mistakes fixed
    size: float = 0.0  # the typical size of the first value that differs
    rounding: float = 0.0  # the largest difference in the precision of the reference
    own_precision: bool = False  # the student's code computes in a precision of its own
    changed_parameter: str | None = None  # the first parameter that is not the reference's
    only_outputs: bool = False  # nothing before the first value that differs could be seen
    problem: str = ""  # for "broken": what is wrong
    opening: str = ""  # what the text begins with

    @property
    def correct(self) -> bool:
        """Whether it is the same function."""
        return self.verdict in ("equal", "rounding")

    def __repr__(self) -> str:
        return f"{self.opening} {describe(self)}".strip()


def diagnose(
    student: Function, reference: Pretrained, inputs: Inputs | None = None, *, part: str | None = None
) -> Diagnosis:
    """Finds the first value in which a student's code differs from a reference, and the mistake that explains it.

    Args:
        student: a whole model with the reference's parameters: one that contains a `BertModel`, whose every value is
            compared, or any callable that takes the inputs and returns hidden states, as a tensor or as a `BertOutput`.
            Or a function for one part, with the parameters that `PARTS` lists.
        reference: the correct model, a `BertModel` or one of the heads on it, in evaluation mode.
        inputs: `input_ids`, `attention_mask` and `token_type_ids` as `BertModel` takes them; by default a few texts of
            random ids, with padding and a pair.
        part: which part a function stands for; left out, its own name says it.

    Raises:
        InputError: an unknown part, or one that the reference does not have; a reference that is not such a model; or
            nothing that can be compared.
    """
    case = Case.of(student, reference, inputs, part)
    with torch.no_grad():
        try:
            case.check_form()
            values, again = case.run_student(), case.run_student()
        except NotRunnableError as error:
            return Diagnosis("broken", problem=str(error))
        expected = case.run_reference()
        found = nothing_to_compare(case, values, expected) or not_deterministic(case, values, again)
        found = found or bit_for_bit(case, values, expected)
        if found:
            return found
        with case.in_float64():
            exact = Exact.of(case, values, expected)
            return (
                only_rounding(exact)
                or known_bug(exact, exact.values, exact.noise)
                or only_coarse_rounding(exact)
                or known_bug(exact, case.what_counts(exact.values), exact.coarse_noise)
                or unexplained(exact)
            )


# --- the two sides ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A student's code and the reference, for the same inputs."""

    student: Function
    reference: Pretrained
    inputs: Inputs
    part: str | None

    @classmethod
    def of(cls, student: Function, reference: Pretrained, inputs: Inputs | None, part: str | None) -> "Case":
        """Checks what `diagnose` is given, and fills in what is left out."""
        if not isinstance(reference, Pretrained) or reference.training:
            raise InputError("the reference must be a BertModel, or a head on one, in evaluation mode: call .eval()")
        if part is None and not isinstance(student, nn.Module):
            name = getattr(student, "__name__", None)
            part = name if name in PARTS else None
        if part is not None:
            check_one_of("part", part, PARTS)
        return cls(student, reference, example_inputs(bert_in(reference)) if inputs is None else inputs, part)

    def run_reference(self) -> Values:
        return named_values(self.reference, self.inputs)

    def check_form(self) -> None:
        """Runs the student's part once beside ours, on the same arguments, and compares what both return.

        A pass of its own, because our function triggers the hooks inside the part as well.

        Raises:
            NotRunnableError: it fails, or returns something of another type, shape or dtype than ours.
            InputError: the reference never computes this part.
        """
        if self.part is None:
            return
        calls: list[str] = []
        with replace_part(self.reference, self.part, watched(self.student, self.part, calls)):
            self.run_reference()
        if not calls:
            kind = type(self.reference).__name__
            raise InputError(f"{kind} has no {self.part} to be computed with these inputs")

    def run_student(self) -> Values:
        """The student's values by name; raises a `NotRunnableError` if it fails."""
        if self.part is not None:
            with replace_part(self.reference, self.part, watched(self.student, self.part)):
                return self.run_reference()
        if isinstance(self.student, Pretrained):
            return named_values(self.student, self.inputs)
        if isinstance(self.student, nn.Module) and _has_one_bert(self.student):
            with record(self.student) as trace:
                out = self._call()
            return dict(trace) | outputs(out, self.inputs)
        return outputs(self._call(), self.inputs)

    def _call(self) -> Any:
        """What a student's whole model returns."""
        try:
            out = self.student(**self.inputs)
        except Exception as error:
            said = _what_was_raised(error, self.student, tuple(self.inputs))
            raise NotRunnableError(f"the model fails: {said}.") from error
        if not isinstance(out, Tensor | tuple | list | Mapping):
            returned = "nothing (is there a return?)" if out is None else type(out).__name__
            raise NotRunnableError(f"the model returns {returned}, not hidden states (B, S, D).")
        return out

    def in_float64(self) -> AbstractContextManager[None]:
        """A block in which reference and student compute in float64, as far as their code lets them."""
        modules = [each for each in (self.reference, self.student) if isinstance(each, nn.Module)]
        return in_float64(*modules)

    def what_counts(self, values: Values) -> Values:
        """The values without those inside a student's own function, which may compute in a way of its own."""
        inside = PARTS[self.part].inside if self.part else frozenset()
        return {name: value for name, value in values.items() if short_name(name) not in inside}


def _has_one_bert(model: nn.Module) -> bool:
    return sum(isinstance(module, BertModel) for module in model.modules()) == 1


def named_values(model: Pretrained, inputs: Inputs) -> Values:
    """Every named value of a model for these inputs, then what it returns, then what can be computed from that."""
    with record(model) as trace:
        out = model(**inputs, output_hidden_states=True)
    return dict(trace) | outputs(out, inputs, vars(bert_in(model)))


def outputs(out: Any, inputs: Inputs, replaced: Mapping[str, Any] | None = None) -> Values:
    """What a model returned, by name; and what the parts that are applied to it give, ours or what replaces them."""
    if isinstance(out, Tensor):
        out = (out,)
    if isinstance(out, Mapping):  # as transformers returns it
        fields = dict(out)
    elif hasattr(out, "_asdict"):
        fields = out._asdict()
    else:
        fields = dict(zip(BertOutput._fields, out, strict=False))
    states = fields.get("hidden_states") or ()
    values = {f"hidden_states[{number}]": state for number, state in enumerate(states)}
    values |= {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    last = values.get("last_hidden_state", states[-1] if states else None)
    if last is None:
        return values
    for name, part in PARTS.items():
        if part.call is None:
            continue
        function = (replaced or {}).get(name, part.ours)
        try:
            value = part.call(function, BertOutput(last, None, states or None), inputs)
        except MinibertError:  # our own functions refuse NaN
            continue
        if value is not None:
            values[name] = value
    return values


@dataclass(frozen=True)
class Exact:
    """A case in float64: what both sides compute there, and how far rounding can move each value."""

    case: Case
    values: Values
    expected: Values
    rounded: Values  # what the reference computed in its own dtype, before
    rounding: float  # the largest difference of both sides in that dtype

    @classmethod
    def of(cls, case: Case, values: Values, expected: Values) -> "Exact":
        """Runs both sides once more; `values` and `expected` are what they computed in the reference's own dtype."""
        shared = [(value, expected[name]) for name, value in case.what_counts(values).items() if name in expected]
        try:
            exact = case.run_student()
        except RuntimeError:  # code that insists on float32
            exact = values
        return cls(case, exact, case.run_reference(), expected, max(max_difference(*pair) for pair in shared))

    @property
    def own_precision(self) -> bool:
        """Whether the student's values are not float64, although it was given float64."""
        return any(dtype != torch.float64 for dtype in _dtypes(self.values))

    @cached_property
    def noise(self) -> dict[str, float]:
        """How far the precision of the student's values can move each of them."""
        return self.noise_in(max(_dtypes(self.values), key=_epsilon))

    @cached_property
    def coarse_noise(self) -> dict[str, float]:
        """The same for code that rounds to float32, or to the reference's own dtype, on its way."""
        return self.noise_in(max({torch.float32, *_dtypes(self.rounded)}, key=_epsilon))

    def noise_in(self, dtype: torch.dtype) -> dict[str, float]:
        rounded = [self.rounded] if dtype in _dtypes(self.rounded) else []
        return rounding_noise(self.case.reference, self.case.run_reference, dtype, rounded)


def _dtypes(values: Values) -> set[torch.dtype]:
    return {value.dtype for value in values.values() if value.is_floating_point()}


def _epsilon(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


# --- what can be found, in the order in which it is looked for -------------------------------------------------------


def nothing_to_compare(case: Case, values: Values, expected: Values) -> Diagnosis | None:
    if not expected.keys() & values.keys():
        raise InputError("nothing can be compared: return hidden states (B, S, D), as a tensor or as a BertOutput")
    if case.part is not None and "pooler_output" in expected and "pooler_output" not in values:
        problem = f"{case.part} does not return the pooled vectors, (B, D), after the hidden states."
        return Diagnosis("broken", problem=problem)
    return None


def not_deterministic(case: Case, once: Values, again: Values) -> Diagnosis | None:
    moved = first_difference(once, again, {})
    if moved is None:
        return None
    # A whole model may be in training mode, whatever wraps it; a part is put into the reference, which is not.
    in_evaluation = isinstance(case.student, nn.Module) and not case.student.training
    return Diagnosis("random", moved, bugs=() if case.part or in_evaluation else (DROPOUT,))


def bit_for_bit(case: Case, values: Values, expected: Values) -> Diagnosis | None:
    counted = case.what_counts(values)
    same = all(torch.equal(value, expected[name]) for name, value in counted.items() if name in expected)
    return Diagnosis("equal") if same else None


def only_rounding(exact: Exact) -> Diagnosis | None:
    counted = exact.case.what_counts(exact.values)
    # The first is cheap; the noise takes several runs, and is measured only if it is needed.
    if first_difference(counted, exact.expected, {}) and first_difference(counted, exact.expected, exact.noise):
        return None
    return _rounding(exact, exact.own_precision)


def only_coarse_rounding(exact: Exact) -> Diagnosis | None:
    """Code that rounds to float32 on its way differs in float64 about as much as the reference does in float32."""
    counted = exact.case.what_counts(exact.values)
    return None if first_difference(counted, exact.expected, exact.coarse_noise) else _rounding(exact, True)


def _rounding(exact: Exact, own_precision: bool) -> Diagnosis:
    # The most negative number, which masks, is a different one in each precision.
    counted = [name for name in exact.case.what_counts(exact.values) if not name.endswith("masked_scores")]
    shared = [name for name in counted if name in exact.expected]
    differences = [max_difference(exact.values[name], exact.expected[name]) for name in shared]
    return Diagnosis("rounding", difference=max(differences), rounding=exact.rounding, own_precision=own_precision)


def known_bug(exact: Exact, values: Values, noise: Mapping[str, float]) -> Diagnosis | None:
    """The known mistakes with which the reference computes the first of the student's values that differ."""
    where = first_difference(values, exact.expected, noise)
    if where is None:
        return None
    shared = [name for name in exact.expected if name in values]
    slack = {name: _slack(values[name], exact.expected[name], exact.noise[name]) for name in shared}
    found: list[tuple[int, str, str | None]] = []
    for bug in BUGS.values():
        if bug.random or _begins_elsewhere(bug, where, shared):
            continue
        with bug.applied(exact.case.reference):
            value = value_at(where, exact.case)
            if value is None or not is_close(values[where], value, slack[where]):
                continue
            following = first_difference(values, exact.case.run_reference(), slack)
        explained = shared.index(following) if following else len(shared)
        if explained > shared.index(where):
            found.append((explained, bug.name, following))
    if not found:
        return _possible_bug(exact, values, where)
    most = max(explained for explained, _, _ in found)
    best = [(name, following) for explained, name, following in found if explained == most]
    names = tuple(name for name, _ in best)
    return _differs("bug", exact, values, where, bugs=names, next_difference=best[0][1])


def _slack(values: Tensor, expected: Tensor, noise: float) -> float:
    """What may be left of a difference that a mistake explains: rounding, and a student's own constants are rounded."""
    return max(noise, 1e-5 * min(max_difference(values, expected), 10 * typical_size(expected)))


def _begins_elsewhere(bug: Bug, where: str, names: list[str]) -> bool:
    return short_name(where) != bug.shows_at and any(short_name(name) == bug.shows_at for name in names)


def _possible_bug(exact: Exact, values: Values, where: str) -> Diagnosis | None:
    """A mistake whose numbers are random, so that they cannot be compared, but which begins here."""
    names = tuple(bug.name for bug in BUGS.values() if bug.random and bug.shows_at == where)
    if not names or values[where].shape != exact.expected[where].shape:
        return None
    both = torch.stack([values[where].flatten().double(), exact.expected[where].flatten()])
    if torch.corrcoef(both)[0, 1] > 0.5:  # numbers that are alike are not random
        return None
    return _differs("unknown", exact, values, where, bugs=names)


def unexplained(exact: Exact) -> Diagnosis:
    where = first_difference(exact.values, exact.expected, exact.noise)
    assert where is not None
    return _differs("unknown", exact, exact.values, where)


def _differs(verdict: str, exact: Exact, values: Values, where: str, **facts: Any) -> Diagnosis:
    student, reference = exact.case.student, exact.case.reference
    shared = [name for name in exact.expected if name in values]
    changed = None
    if verdict == "unknown" and isinstance(student, Pretrained):
        own = dict(student.named_parameters())
        names = [name for name, each in reference.named_parameters() if not torch.equal(own.get(name, each), each)]
        changed = names[0] if names else None
    return Diagnosis(
        verdict,
        where,
        difference=max_difference(values[where], exact.expected[where]),
        size=typical_size(exact.expected[where]),
        changed_parameter=changed,
        only_outputs=where == shared[0] and set(shared).isdisjoint(value_names(reference)),
        **facts,
    )


class _ReachedError(Exception):
    """Ends a forward pass at the value that was wanted; most mistakes are ruled out there."""


def value_at(name: str, case: Case) -> Tensor | None:
    """One of the reference's values, computed no further than it has to be."""
    if name not in value_names(case.reference):
        return case.run_reference().get(name)

    def stop(value: Tensor) -> Tensor:
        raise _ReachedError(value)

    try:
        with edit(case.reference, name, stop):
            case.reference(**case.inputs)
    except _ReachedError as reached:
        return reached.args[0]
    return None


# --- what is found, in words -----------------------------------------------------------------------------------------


def describe(found: Diagnosis) -> str:
    """A diagnosis in a learner's words."""
    if found.verdict == "broken":
        return found.problem
    if found.verdict == "equal":
        return "The same, to the last bit."
    if found.verdict == "rounding":
        if found.own_precision:
            precision = "up to the rounding of a precision of its own"
            return f"The same function, {precision}: it differs by {found.difference:.1e}."
        return (
            f"The same function, rounded differently: it differs by {found.rounding:.1e}, in float64 by "
            f"{found.difference:.1e}."
        )
    if found.verdict == "random":
        why = "Something in it is random: weights that are made on every call, or dropout that is always on, as "
        why += "F.dropout is unless it is told training=False."
        if found.bugs:
            why = f"Is it new weights on every call, or dropout? {BUGS[DROPOUT].explanation}"
        return f"Two calls with the same inputs differ, first in {found.first_difference}. {why}"
    return " ".join([_where(found), *(_which_bug(found) if found.verdict == "bug" else _no_bug(found))])


def _where(found: Diagnosis) -> str:
    amount = f"by up to {found.difference:.2g} (values there are about {found.size:.2g})"
    if math.isinf(found.difference):
        amount = "in its shape, or because it contains NaN"
    elif found.difference > 1e30:
        amount = "by as much as the most negative number, which masks"
    return f"The first value that differs is {found.first_difference}, {amount}."


def _which_bug(found: Diagnosis) -> list[str]:
    first, *others = found.bugs
    reproduces = "gives exactly this value" if found.next_difference else "gives exactly these numbers"
    sentences = [f"One known mistake {reproduces}: {first}. {BUGS[first].explanation}"]
    if others:
        sentences.append(f"Or, with the same numbers: {', '.join(others)}.")
    if found.next_difference:
        sentences.append(f"Fix it, and look again: {found.next_difference} differs for a different reason.")
    return sentences


def _no_bug(found: Diagnosis) -> list[str]:
    sentences = ["No single known mistake gives these numbers."]
    if found.first_difference in PARTS:
        sentences.append("Its inputs are right: check which of them it uses, and over which axis it works.")
    elif found.only_outputs:
        sentences.append(
            "Nothing before it can be seen: diagnose one part at a time, part=…, or pass the module itself."
        )
    else:
        sentences.append("All values before it agree: compare the line that computes it with the one in model.py.")
    if found.changed_parameter:
        sentences.append(f"Its {found.changed_parameter} is not the reference's: were the weights loaded as they are?")
    for name in found.bugs:
        sentences.append(f"It may be this one, whose numbers are random: {name}. {BUGS[name].explanation}")
    return sentences


# --- a student's function --------------------------------------------------------------------------------------------


class NotRunnableError(RuntimeError):
    """A student's function gave nothing that could be compared; the message is for the student."""


def watched(function: Function, name: str, calls: list[str] | None = None) -> Function:
    """A student's function for a part, whose mistakes in form become a `NotRunnableError` in a learner's words.

    With a list of `calls`, each call is entered there, and our function is called too: the results must be alike.
    """
    part = PARTS[name]

    def call(*arguments: Any) -> Any:
        given = dict(zip(part.parameters, arguments, strict=False))
        before = {key: _state(each) for key, each in given.items()}
        shapes = ", ".join(f"{key} {tuple(each.shape)}" for key, each in given.items() if isinstance(each, Tensor))
        try:
            result = function(*arguments)
        except NotImplementedError:
            raise NotRunnableError(f"{name} is still to be written: it raises NotImplementedError.") from None
        except (Exception, SystemExit) as error:
            said = _what_was_raised(error, function, part.parameters)
            raise NotRunnableError(f"{name} fails: {said}, for {shapes}.") from error
        for key, each in given.items():
            if _state(each) != before[key]:
                raise NotRunnableError(f"{name} changes {_changed_argument(key, each)}")
        if calls is not None:
            calls.append(name)
            complaint = wrong_result(result, part.ours(*arguments))
            if complaint:
                raise NotRunnableError(f"{name} returns {complaint}" + (f", for {shapes}." if shapes else "."))
        return result

    return call


def _state(argument: Any) -> Any:
    """What changes when a tensor or a list is changed in place; tensors made in inference mode do not say."""
    if isinstance(argument, Tensor):
        return None if argument.is_inference() else argument._version
    return list(argument) if isinstance(argument, list) else None


def _changed_argument(name: str, argument: Any) -> str:
    if isinstance(argument, list):
        return f"the list {name}, which the caller still needs: make a new one, [*{name}, …]."
    return f"its argument {name} in place, which the caller still needs: write {name} = {name} + …, not {name} += …."


def wrong_result(given: Any, expected: Any) -> str:
    """What is wrong with the form of a result, in words; empty if nothing is."""
    if isinstance(given, tuple):
        counts = [len(expected)] if isinstance(expected, tuple) else []
        counts = [2, 3, 4] if isinstance(expected, BertOutput) else counts
        if not counts:
            return f"a tuple of {len(given)}, where one tensor is asked for"
        if len(given) not in counts:
            return f"a tuple of {len(given)}; it should be one of {' or '.join(map(str, counts))}"
        if isinstance(expected, BertOutput) and expected.pooler_output is not None and isinstance(given[1], Tensor):
            shape = tuple(expected.pooler_output.shape)
            if given[1].shape != shape:
                return f"pooled vectors of shape {tuple(given[1].shape)}; it should be {shape}"
    given, expected = (each[0] if isinstance(each, tuple) else each for each in (given, expected))
    if expected is None:
        return ""
    if given is None:
        return "nothing (is there a return?)"
    if not isinstance(given, Tensor):
        return f"{type(given).__name__}, not a tensor"
    if given.shape != expected.shape:
        return f"the shape {tuple(given.shape)}; it should be {tuple(expected.shape)}"
    if given.dtype != expected.dtype:
        return f"numbers of {given.dtype}; they should be {expected.dtype}"
    if given.isnan().any() and not expected.isnan().any():
        return "NaN, not a number"
    return ""


def _what_was_raised(error: BaseException, function: Function, parameters: tuple[str, ...]) -> str:
    """What a student's function raised, and at which of its lines."""
    message = str(error).strip().split("\n")[0]
    code = getattr(function, "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame for frame in frames if code and frame.filename == code.co_filename]
    if lines:
        return f"{type(error).__name__}: {message} (line {lines[-1].lineno}: {lines[-1].line})"
    return f"{type(error).__name__}: {message} (it is called with {', '.join(parameters)})"
