"""What do the losses of a run show of what went wrong in it?

    print(diagnose_curve(run, vocab_size))

Not much, and that is worth knowing. Dropout that is never on, weight decay on LayerNorms, [MASK] for every chosen token
or a warm-up left out at a moderate rate change a curve less than the next random seed does: `diagnose_training` finds
these in the code. What a curve does show is a loss that is impossible at its beginning, that rises, that stays where it
began, or that becomes too good. Each may have several causes, and all that fit are named.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from minibert.checks import check_integer, check_one_of, shown
from minibert.errors import TrainingError
from minibert.training.run import Run

# Perplexities of the paper's smallest and largest model after a million steps of 128,000 words (BERT, table 6).
THREE_LAYERS, TWENTY_FOUR_LAYERS = 5.84, 3.23
MANY_STEPS = 100_000  # of which a model may become as good as the smallest
FEWEST = 5  # losses that are a curve


@dataclass(frozen=True)
class Finding:
    """One thing that a curve shows."""

    name: str  # "not finite", "too high", "rises", "does not fall", "too low at the start" or "too good"
    what: str  # the numbers that show it
    causes: tuple[str, ...]  # what it is consistent with

    def __str__(self) -> str:
        return f"{self.what} This is consistent with: {'; '.join(self.causes)}."


@dataclass(frozen=True)
class CurveDiagnosis:
    """What was found. Shown or printed, it is in a learner's words."""

    findings: tuple[Finding, ...]

    def __repr__(self) -> str:
        if not self.findings:
            return (
                "Nothing in this curve is suspicious. Most mistakes do not show in one: diagnose_training finds them."
            )
        return " ".join(map(str, self.findings))


@dataclass(frozen=True)
class Curve:
    """Losses at steps, and what guessing without looking gives."""

    steps: list[int]
    losses: list[float]
    held_out: float | None  # the last loss on held-out text
    uniform: float  # ln V, the loss of a model that finds every word as likely
    fresh: bool  # whether the model began with random weights

    @property
    def start(self) -> float:
        return self.losses[0]

    @property
    def end(self) -> float:
        """The mean of the last quarter."""
        last = self.losses[-max(1, len(self.losses) // 4) :]
        return sum(last) / len(last)


def diagnose_curve(
    losses: Run | Sequence[float], vocab_size: int, *, steps: Sequence[int] | None = None, fresh: bool = True
) -> CurveDiagnosis:
    """Says what the losses of masked words show of a run, and what that is consistent with.

    Args:
        losses: a run, `Run.read(folder)`, or its losses in order, in nats; each may be a mean over a few steps.
        vocab_size: the number of words that a prediction chooses from (V).
        steps: the step of each loss, if `losses` is not a run; left out, 1, 2, 3, …
        fresh: whether the model began with random weights, not with those of a checkpoint.

    Raises:
        TrainingError: there are fewer than five losses, or an argument does not fit.
    """
    check_integer("vocab_size", vocab_size, 2, error=TrainingError)
    check_one_of("fresh", fresh, (True, False), TrainingError)
    curve = _curve(losses, vocab_size, steps, fresh)
    broken = not_finite(curve)
    if broken is not None:
        return CurveDiagnosis((broken,))
    findings = (too_high(curve), rises(curve), does_not_fall(curve), too_low_at_the_start(curve), too_good(curve))
    return CurveDiagnosis(tuple(finding for finding in findings if finding is not None))


def _curve(losses: Run | Sequence[float], vocab_size: int, steps: Sequence[int] | None, fresh: bool) -> Curve:
    held_out = None
    if isinstance(losses, Run):
        known = {name for entry in losses.entries for name in entry}
        name = "masked_lm" if "masked_lm" in known else "loss"  # the loss alone has the next sentence in it as well
        held_out = next((entry["held_out_loss"] for entry in losses.entries[::-1] if "held_out_loss" in entry), None)
        steps, losses = losses.values(name)
    numbers = [float(loss) for loss in losses]
    steps = list(range(1, len(numbers) + 1)) if steps is None else [int(step) for step in steps]
    if len(numbers) < FEWEST or len(steps) != len(numbers):
        raise TrainingError(
            f"losses must be at least {FEWEST}, each with its step, got {shown(numbers)} and {shown(steps)}: "
            "log more often, with a lower log_every"
        )
    return Curve(steps, numbers, held_out, math.log(vocab_size), fresh)


# --- what can be found ------------------------------------------------------------------------------------------------


def not_finite(curve: Curve) -> Finding | None:
    for step, loss in zip(curve.steps, curve.losses, strict=True):
        if not math.isfinite(loss):
            return Finding(
                "not finite",
                f"The loss is {loss} at step {step:,}.",
                ("a learning rate that is too high", "no warm-up", "no clipping", "numbers too large for float16"),
            )
    return None


def too_high(curve: Curve) -> Finding | None:
    """Even the lowest loss is far above that of a model that knows nothing."""
    lowest = min(curve.losses)
    if lowest <= 1.5 * curve.uniform:
        return None
    return Finding(
        "too high",
        f"No loss is below {lowest:.3g}, and a model that finds every word as likely has ln V = {curve.uniform:.3g}.",
        ("losses that are added, not averaged", "a learning rate that is far too high", "a smaller vocab_size than V"),
    )


def rises(curve: Curve) -> Finding | None:
    """A loss above that of a model that knows nothing: it has become worse than it can be by not learning."""
    if min(curve.losses) > 1.5 * curve.uniform:
        return None  # `too_high` says it
    highest = max(curve.losses)
    if highest <= max(curve.uniform, curve.start if not curve.fresh else 0.0) + 1:
        return None
    step = curve.steps[curve.losses.index(highest)]
    return Finding(
        "rises",
        f"The loss is {highest:.3g} at step {step:,}, above the ln V = {curve.uniform:.3g} of a model that finds every "
        "word as likely.",
        ("a learning rate that is too high", "no warm-up, or one that is too short", "weights that begin too large"),
    )


def does_not_fall(curve: Curve) -> Finding | None:
    """The last quarter is where the curve began, but for a twentieth."""
    if curve.end < 0.95 * curve.start or max(curve.losses) > curve.uniform + 1 or not curve.fresh:
        return None
    return Finding(
        "does not fall",
        f"The loss begins at {curve.start:.3g} and is {curve.end:.3g} in the last quarter of the run.",
        (
            "a learning rate that is too low, or a warm-up that has hardly begun",
            "labels that are not those of the inputs",
            "weights that the optimizer does not have",
            "a gradient that does not reach them",
        ),
    )


def too_low_at_the_start(curve: Curve) -> Finding | None:
    """Random weights find all words about as likely: the first loss is about ln V."""
    if not curve.fresh or curve.start >= 0.7 * curve.uniform:
        return None
    return Finding(
        "too low at the start",
        f"The first loss is {curve.start:.3g}, and random weights begin at about ln V = {curve.uniform:.3g}.",
        (
            "a loss that is divided by all tokens, not by those to be guessed",
            "weights of a checkpoint (then fresh=False)",
            "a first entry that is a mean over many steps",
        ),
    )


def too_good(curve: Curve) -> Finding | None:
    """Better than the paper's models, which learned from a hundred billion words."""
    few = curve.fresh and curve.steps[-1] <= MANY_STEPS
    limit, layers = (THREE_LAYERS, "three") if few else (TWENTY_FOUR_LAYERS, "24")
    if curve.end >= math.log(limit):
        return None
    what = (
        f"The loss is {curve.end:.3g} in the last quarter of the run, a perplexity of {math.exp(curve.end):.3g}; the "
        f"paper's model of {layers} layers reached {limit} in a million steps."
    )
    if curve.held_out is not None and curve.held_out > curve.end + 1:
        what += f" On held-out text it is {curve.held_out:.3g}."
        return Finding("too good", what, ("a text that is so small that the model knows it by heart",))
    return Finding(
        "too good",
        what,
        (
            "words to guess that the model can see: [MASK] never put in",
            "labels that are not −100 where nothing is to be guessed",
            "labels taken after masking",
            "text that repeats itself, or a vocabulary of single characters",
        ),
    )
