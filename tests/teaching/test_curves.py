"""What a curve shows is said, with all that fits; and most mistakes show in none, which is not made up for."""

import json
import math
from pathlib import Path

import pytest

from minibert.errors import TrainingError
from minibert.teaching import TRAINING_BUGS, diagnose_curve
from minibert.training import Run

V = 1000
UNIFORM = math.log(V)


def falling(start: float = UNIFORM, end: float = 5.0, count: int = 40) -> list[float]:
    """A curve as they usually are: a steep fall, and then a slow one."""
    return [end + (start - end) * math.exp(-step / 6) for step in range(count)]


def names(losses: list[float], vocab_size: int = V, **options: object) -> list[str]:
    return [finding.name for finding in diagnose_curve(losses, vocab_size, **options).findings]


# --- real runs --------------------------------------------------------------------------------------------------------

# Of two layers of 64 numbers on the presidents' speeches of the tests, 200 steps of 16 inputs of 64 tokens, with each
# mistake in the loop, three times with different seeds: `TRAINING_BUGS[name].applied()`. Each loss is a mean over five
# steps; the learning rate is 0.003, and 0.3, 0.03 or 1e-7 where it says so.
REAL = json.loads((Path(__file__).parent / "curves.json").read_text(encoding="utf-8"))
SHOWN = {
    "labels not −100 where nothing is to be guessed": ["too good"],
    "mask token never replaced": ["too good"],
    "labels taken after masking": ["too good"],
    "a sum for the mean loss": ["too high"],
    "rate too high, no warm-up": ["rises"],
    "rate too low": ["does not fall"],
}


@pytest.mark.parametrize("name", REAL["losses"])
def test_on_real_runs_what_is_named_is_there_and_nothing_else(name: str) -> None:
    runs = REAL["losses"][name]
    assert len(runs) == 3
    for losses in runs:
        found = diagnose_curve(losses, REAL["vocab_size"], steps=REAL["steps"])
        shown = [finding.name for finding in found.findings]
        # A rate of 0.3 with a warm-up is too high as well, which shows in one of the three runs.
        assert shown == SHOWN.get(name, []) or (name, shown) == ("rate too high", ["rises"]), str(found)


def test_the_real_runs_are_of_known_mistakes() -> None:
    others = {"correct", "rate too high", "rate high", "rate too low"} | {
        name for name in REAL["losses"] if name.endswith(", no warm-up")
    }
    assert set(REAL["losses"]) - others <= set(TRAINING_BUGS)
    assert set(SHOWN) <= set(REAL["losses"])


# --- made up ----------------------------------------------------------------------------------------------------------


def test_a_usual_curve_is_not_suspicious() -> None:
    found = diagnose_curve(falling(), V)
    assert found.findings == ()
    assert str(found).startswith("Nothing in this curve is suspicious. Most mistakes do not show in one")


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_named_with_its_step(loss: float) -> None:
    losses = falling()
    losses[7] = loss
    found = diagnose_curve(losses, V, steps=range(10, 410, 10))
    assert [finding.name for finding in found.findings] == ["not finite"]
    assert f"The loss is {loss} at step 80." in str(found)


def test_a_rise_is_named_with_its_step_and_not_one_below_what_guessing_gives() -> None:
    late = falling()
    late[30:] = [UNIFORM + 3] * 10
    assert names(late) == ["rises"]
    assert "The loss is 9.91 at step 31, above the ln V = 6.91" in str(diagnose_curve(late, V))
    assert names([UNIFORM, UNIFORM + 0.9, *falling()]) == []  # the noise of a small batch
    assert names([20.0, 12.0, *falling()]) == ["rises"]


def test_a_sum_is_too_high_at_every_step() -> None:
    found = diagnose_curve([loss * 120 for loss in falling()], V)
    assert [finding.name for finding in found.findings] == ["too high"]
    assert "losses that are added, not averaged" in str(found)


@pytest.mark.parametrize("end", [UNIFORM, UNIFORM - 0.2, UNIFORM + 0.3])
def test_a_flat_curve_does_not_fall(end: float) -> None:
    assert names([UNIFORM + (end - UNIFORM) * step / 39 for step in range(40)]) == ["does not fall"]


def test_a_model_that_is_trained_already_may_begin_low_and_stay_there() -> None:
    losses = [1.5 + 0.02 * math.sin(step) for step in range(40)]
    assert names(losses) == ["does not fall", "too low at the start", "too good"]
    assert names(losses, fresh=False) == []
    assert names([loss - 0.5 for loss in losses], fresh=False) == ["too good"]


def test_a_loss_over_all_tokens_begins_too_low() -> None:
    found = diagnose_curve([0.15 * loss for loss in falling()], V)
    assert found.findings[0].name == "too low at the start"
    assert "a loss that is divided by all tokens, not by those to be guessed" in str(found)


def test_a_long_run_may_become_as_good_as_the_papers_models() -> None:
    losses = falling(math.log(30522), math.log(3.99))
    assert names(losses, 30522, steps=range(25_000, 1_000_001, 25_000)) == []
    assert names(losses, 30522) == ["too good"]
    better = falling(math.log(30522), math.log(3.0))
    assert names(better, 30522, steps=range(25_000, 1_000_001, 25_000)) == ["too good"]


def run(**held_out: float) -> Run:
    entries = [{"step": step, "loss": loss + 0.7, "masked_lm": loss} for step, loss in enumerate(falling(end=0.2), 1)]
    return Run(Path("run"), [{"step": 0, "held_out_loss": 6.9}, *entries, {"step": 41, **held_out}])


def test_of_a_run_the_held_out_loss_tells_a_leak_from_a_text_known_by_heart() -> None:
    leak, by_heart = diagnose_curve(run(held_out_loss=0.3), V), diagnose_curve(run(held_out_loss=6.0), V)
    assert "[MASK] never put in" in str(leak)
    assert "so small that the model knows it by heart" in str(by_heart)
    assert "On held-out text it is 6." in str(by_heart)
    assert "[MASK]" not in str(by_heart)


@pytest.mark.parametrize(
    "losses, vocab_size, options, message",
    [
        (
            [5.0] * 4,
            V,
            {},
            "losses must be at least 5, each with its step, got .*: log more often, with a lower log_every",
        ),
        ([5.0] * 6, V, {"steps": [1, 2]}, "losses must be at least 5, each with its step"),
        ([5.0] * 6, 1, {}, "vocab_size must be an integer of at least 2, got 1"),
        ([5.0] * 6, V, {"fresh": None}, "fresh must be one of True, False, got None"),
        (Run(Path("run"), [{"step": 0, "held_out_loss": 5.0}]), V, {}, "name must be held_out_loss, got 'loss'"),
    ],
)
def test_what_is_not_a_curve_is_refused(losses: object, vocab_size: int, options: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        diagnose_curve(losses, vocab_size, **options)
