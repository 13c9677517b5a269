"""Where did mine go wrong?

    print(diagnose(my_attention, reference, part="attention"))

A student's code and a reference compute the same inputs. The first value in which they differ shows where to look; and
for every known mistake the reference is made to make it too: the one that gives the student's numbers is the one that
the student made. Both compute in float64, where a mistake stays as large as it was and rounding all but disappears;
what is left of rounding is measured on the reference.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from minibert.checkpoints.loading import Pretrained
from minibert.errors import InputError
from minibert.teaching.answers import Answer, Case, answer
from minibert.teaching.bugs import BUGS, Bug
from minibert.teaching.parts import PARTS, Function, Inputs
from minibert.trace.compare import (
    Values,
    first_difference,
    in_float64,
    is_close,
    max_difference,
    rounding_noise,
    typical_size,
)
from minibert.trace.recording import edit
from minibert.trace.values import short_name, value_names

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

    The code may do anything: what it changes in the reference or among PyTorch's functions is named, and put back. Only
    the user's own `KeyboardInterrupt` passes through.

    Raises:
        InputError: an unknown part, or one that the reference does not have; a reference that is not such a model; or
            nothing that can be compared.
    """
    case = Case.of(student, reference, inputs, part)
    untouched = copy.deepcopy(reference)  # out of the student's reach: what is right is computed with it alone
    computed = answer(case, untouched)
    return explain(computed, replace(case, reference=untouched))


def explain(computed: Answer, case: Case) -> Diagnosis:
    """Compares what a student's code computed with what a reference computes that the code cannot have changed."""
    with torch.no_grad():
        expected = case.run_reference()
        if computed.problem:
            return Diagnosis("broken", problem=computed.problem)
        values = computed.values
        found = nothing_to_compare(case, values, expected) or not_deterministic(case, values, computed.again)
        found = found or bit_for_bit(case, values, expected)
        if found:
            return found
        with in_float64(case.reference):
            exact = Exact.of(case, computed, expected)
            return (
                only_rounding(exact)
                or known_bug(exact, exact.values, exact.noise)
                or only_coarse_rounding(exact)
                or known_bug(exact, case.what_counts(exact.values), exact.coarse_noise)
                or unexplained(exact)
            )


# --- in float64 -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exact:
    """A case in float64: what both sides compute there, and how far rounding can move each value."""

    case: Case
    values: Values
    expected: Values
    rounded: Values  # what the reference computed in its own dtype, before
    rounding: float  # the largest difference of both sides in that dtype

    @classmethod
    def of(cls, case: Case, computed: Answer, expected: Values) -> "Exact":
        """Runs the reference once more; `expected` is what it computed in its own dtype."""
        counted = case.what_counts(computed.values)
        rounding = max(max_difference(counted[name], expected[name]) for name in counted if name in expected)
        return cls(case, computed.exact, case.run_reference(), expected, rounding)

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
