"""What does one choose before training?"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from minibert.checks import check_integer, check_one_of, shown
from minibert.errors import TrainingError
from minibert.training.precision import PRECISIONS


@dataclass(frozen=True)
class TrainingSettings:
    """How long, how fast, how exactly; the defaults are those of the paper (appendix A.2), but for its size.

    Raises:
        TrainingError: a value is out of range, or does not fit another; the message names it.
    """

    steps: int  # updates of the weights
    batch_size: int = 32  # inputs of a step, over all processes and parts
    learning_rate: float = 1e-4  # the peak, at the end of the warm-up; the paper fine-tunes with 2e-5 to 5e-5
    warmup: float = 0.1  # the share of the steps in which the rate rises from 0
    weight_decay: float = 0.01  # of matrices; biases and LayerNorms have none
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW's decay rates of the two moments of the gradient
    epsilon: float = 1e-8  # AdamW's, added to the root; the paper's code has 1e-6
    max_norm: float = 1.0  # the gradient is scaled down to this norm
    accumulation: int = 1  # the parts in which a step's inputs are computed, one after another, to save memory
    precision: str = "auto"  # of matrix products: "float32", "bfloat16", or the faster one here, which is measured
    gradient_checkpointing: bool = False  # compute each layer twice to keep only its input: less memory, more time
    seed: int = 0  # of the order of the inputs, of the masks and of dropout
    evaluate_every: int | None = None  # steps between evaluations; None makes about ten
    save_every: int | None = None  # steps between checkpoints; None saves with each evaluation
    log_every: int = 10  # steps between lines in metrics.jsonl and on the screen
    keep: tuple[int, ...] = ()  # steps after which the model is also kept in a folder of its own, steps/0000128

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every"):
            self._set(name, check_integer(name, getattr(self, name), 1, error=TrainingError))
        self._set("seed", check_integer("seed", self.seed, 0, 2**63 - 1, TrainingError))
        for name in ("evaluate_every", "save_every"):
            if getattr(self, name) is not None:
                self._set(name, check_integer(name, getattr(self, name), 1, error=TrainingError))
        for name in ("learning_rate", "epsilon", "max_norm"):
            self._set(name, _number(name, getattr(self, name), above=True))
        for name, high in (("warmup", 1.0), ("weight_decay", None)):
            self._set(name, _number(name, getattr(self, name), high))
        if not isinstance(self.betas, list | tuple) or len(self.betas) != 2:
            raise TrainingError(f"betas must be two numbers from 0 to 1, got {shown(self.betas)}")
        self._set("betas", tuple(_number("betas", beta, 1.0) for beta in self.betas))
        if 1.0 in self.betas:
            raise TrainingError(f"betas must be below 1, got {shown(self.betas)}: with 1, nothing new would count")
        check_one_of("precision", self.precision, PRECISIONS, TrainingError)
        check_one_of("gradient_checkpointing", self.gradient_checkpointing, (True, False), TrainingError)
        if not isinstance(self.keep, list | tuple | range):
            raise TrainingError(f"keep must be a tuple of steps, got {shown(self.keep)}")
        self._set("keep", tuple(sorted({check_integer("keep", step, 0, error=TrainingError) for step in self.keep})))
        if self.batch_size % self.accumulation:
            raise TrainingError(
                f"accumulation must divide batch_size, got {self.accumulation} and {self.batch_size}: "
                "batch_size counts the inputs of a whole step"
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # as a frozen dataclass does it

    @property
    def warmup_steps(self) -> int:
        """The number of steps in which the rate rises."""
        return round(self.warmup * self.steps)

    def is_due(self, step: int, every: int | None) -> bool:
        """Whether something that happens `every` so many steps, or about ten times in all, happens after this one."""
        return step == self.steps or step % (every or max(1, self.steps // 10)) == 0

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        fields = dataclasses.asdict(self)
        return {**fields, "betas": list(self.betas), "keep": list(self.keep)}


def powers_of_two(steps: int) -> tuple[int, ...]:
    """Returns 0, 1, 2, 4, 8, … up to the last step: most of what a model learns, it learns early."""
    return (0, *(1 << power for power in range(steps.bit_length())), steps)


def _number(name: str, value: Any, high: float | None = None, above: bool = False) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= (high or 1e308) or (above and value == 0):
        what = f"a number from 0 to {high:g}" if high else "a positive number" if above else "a non-negative number"
        raise TrainingError(f"{name} must be {what}, got {shown(value)}")
    return float(value)
