"""Where did my training go wrong?

    print(diagnose_training(my_mask_tokens, "mask_tokens"))

A student's function is run on inputs that are made for it, beside ours and beside ours with each known mistake. What it
does is measured as values with names (`training_parts`): the first that differs shows where to look, and the mistake
that gives the student's values is the one that the student made.
"""

import functools
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minibert.checks import check_one_of
from minibert.errors import InputError
from minibert.teaching.answers import Answer, NotRunnableError, what_was_raised
from minibert.teaching.damage import undone
from minibert.teaching.diagnosis import Diagnosis
from minibert.teaching.parts import Function
from minibert.teaching.training_bugs import TRAINING_BUGS, TrainingBug
from minibert.teaching.training_parts import TRAINING_PARTS, TrainingPart
from minibert.trace.compare import Values, first_difference, is_close, max_difference, typical_size

ROUNDING = 1e-5  # relative to the largest number of a value: a student may compute a loss in float32
CHANCE = 0.03  # how far the shares of two random functions with the same mistake may differ


@dataclass(frozen=True)
class TrainingDiagnosis(Diagnosis):
    """What was found. Shown or printed, it is in a learner's words; see `describe_training`."""

    got: float | None = None  # the first value that differs, if it is a single number
    expected: float | None = None  # what it should be

    def __repr__(self) -> str:
        return f"{self.opening} {describe_training(self)}".strip()


def diagnose_training(function: Function, part: str | None = None) -> TrainingDiagnosis:
    """Finds the first thing that a student's function for a part of training does differently, and why.

    It is right if it does the same: the same rates, the same groups, the same losses, gradients and weights up to
    rounding; and for what is random, shares that are the same as far as chance allows. How it is written is its own
    matter.

    Args:
        function: takes the parameters that `TRAINING_PARTS` lists; those of a schedule after the step by name.
        part: which part the function stands for; left out, its own name says it.

    Raises:
        InputError: an unknown part. What is wrong with the function is in what is returned.
    """
    if not callable(function):
        raise InputError(f"function must be the function itself, got {function!r}: diagnose_training(function, part)")
    name = str(check_one_of("part", getattr(function, "__name__", "?") if part is None else part, TRAINING_PARTS))
    return explain_training(name, measured(name, function))


def measured(name: str, function: Function) -> Answer:
    """Runs a student's function, undoes what it did to PyTorch, and returns what it does, as values with names."""
    part, nothing = TRAINING_PARTS[name], nn.Module()
    # The first optimizer of a process makes PyTorch import its compiler, which replaces functions of PyTorch.
    torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    computed = Answer()
    with undone(nothing, nothing) as changed, fixed_seeds():
        try:
            computed = Answer(part.measure(guarded(name, function)))
        except NotRunnableError as error:
            computed = Answer(problem=str(error))
    if changed:
        return Answer(problem=f"{name} changes {changed[0]}, which is not its own: compute a new value, and return it.")
    return computed


@contextmanager
def fixed_seeds() -> Iterator[None]:
    """Inside the block, the generators of PyTorch and Python begin anew, and nothing outside sees their numbers."""
    state, gradients = random.getstate(), torch.is_grad_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.seed(0)
        try:
            yield
        finally:
            random.setstate(state)
            torch.set_grad_enabled(gradients)


def guarded(name: str, function: Function) -> Function:
    """A student's function, whatever it raises being a `NotRunnableError` in a learner's words."""

    def call(*arguments: object, **named: object) -> object:
        try:
            return function(*arguments, **named)
        except NotImplementedError:
            raise NotRunnableError(f"{name} is still to be written: it raises NotImplementedError.") from None
        except KeyboardInterrupt:  # the user's
            raise
        except BaseException as error:
            said = what_was_raised(error, function, TRAINING_PARTS[name].parameters)
            raise NotRunnableError(f"{name} fails: {said}.") from error

    return call


def explain_training(name: str, computed: Answer) -> TrainingDiagnosis:
    """Compares what a student's function does with what ours does, and with what ours does with each known mistake."""
    if computed.problem:
        return TrainingDiagnosis("broken", problem=computed.problem)
    part = TRAINING_PARTS[name]
    expected, values = known(name), computed.values
    noise = noise_of(part, expected)
    where = first_difference(values, expected, noise)
    if where is None:
        same = all(torch.equal(values[each], expected[each]) for each in expected if each in values)
        return TrainingDiagnosis("equal" if same else "rounding", difference=largest_difference(values, expected))
    bugs, following = best_explanation(name, values, expected, noise)
    is_single = values[where].numel() == expected[where].numel() == 1
    return TrainingDiagnosis(
        "bug" if bugs else "unknown",
        where,
        difference=max_difference(values[where], expected[where]),
        bugs=bugs,
        next_difference=following,
        size=typical_size(expected[where]) if expected[where].numel() else 0.0,
        got=float(values[where]) if is_single else None,
        expected=float(expected[where]) if is_single else None,
    )


def noise_of(part: TrainingPart, expected: Values) -> dict[str, float]:
    """How far each value may be off in a function that is right."""
    return {name: part.noise.get(name, ROUNDING * largest(value)) for name, value in expected.items()}


def largest(value: Tensor) -> float:
    return float(value.abs().nan_to_num().max()) if value.numel() else 0.0


def largest_difference(values: Values, expected: Values) -> float:
    return max(max_difference(values[name], expected[name]) for name in expected if name in values)


def best_explanation(
    name: str, values: Values, expected: Values, noise: dict[str, float]
) -> tuple[tuple[str, ...], str | None]:
    """The known mistakes that give the first value that differs, and most of those after it; and what they leave over.

    A value that is right needs no explanation: a student may have made half of a mistake.
    """
    chance = CHANCE if TRAINING_PARTS[name].noise else 0.0
    shared = [each for each in expected if each in values]
    differing = [each for each in shared if not is_close(values[each], expected[each], noise[each])]
    found: list[tuple[tuple[int, int], str, str | None]] = []
    for bug in bugs_of(name):
        wrong = known(name, bug.name)
        both = [each for each in shared if each in wrong]
        same = {each for each in both if is_close(values[each], wrong[each], max(noise[each], chance))}
        if differing[0] in same:
            following = next((each for each in differing if each not in same), None)
            # Of two that explain as much, the one that changes nothing else.
            found.append(((len(same.intersection(differing)), len(same)), bug.name, following))
    most = max((count for count, _, _ in found), default=(0, 0))
    best = [(bug, following) for count, bug, following in found if count == most]
    return tuple(bug for bug, _ in best), best[0][1] if best else None


@functools.cache
def known(name: str, bug: str | None = None) -> Values:
    """What our function does, or the one with a known mistake; it is the same every time."""
    return measured(name, TRAINING_PARTS[name].ours if bug is None else TRAINING_BUGS[bug].wrong).values


def bugs_of(name: str) -> list[TrainingBug]:
    """The known mistakes in a part of training."""
    return [bug for bug in TRAINING_BUGS.values() if bug.part == name]


# --- in words ---------------------------------------------------------------------------------------------------------


def describe_training(found: TrainingDiagnosis) -> str:
    """A diagnosis of training in a learner's words."""
    if found.verdict == "broken":
        return found.problem
    if found.verdict == "equal":
        return "It does the same, to the last bit."
    if found.verdict == "rounding":
        return f"It does the same, up to rounding and chance: it differs by {found.difference:.1e} at most."
    sentences = [_where(found)]
    if not found.bugs:
        sentences.append("No single known mistake does this.")
        return " ".join(sentences)
    first, *others = found.bugs
    sentences.append(f"One known mistake does the same: {first}. {TRAINING_BUGS[first].explanation}")
    if others:
        sentences.append(f"Or, with the same values: {', '.join(others)}.")
    if found.next_difference:
        sentences.append(f"Fix it, and look again: {found.next_difference} differs for a different reason.")
    return " ".join(sentences)


def _where(found: TrainingDiagnosis) -> str:
    if found.got is not None and found.expected is not None:
        got = "none" if math.isnan(found.got) else f"{found.got:.3g}"
        return f"The first thing that differs is {found.first_difference}: {got} instead of {found.expected:.3g}."
    return (
        f"The first thing that differs is {found.first_difference}, by up to {found.difference:.2g} "
        f"(values there are about {found.size:.2g})."
    )
