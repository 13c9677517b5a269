"""What does the training loop need to know of what is trained?

Pretraining and each kind of fine-tuning is a `Task`: it makes the inputs of a step, computes the losses of a model on
them, and scores the model on texts that are held out. The loop knows nothing else.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

Batch = dict[str, Tensor]  # each with one row for each input


class Task(ABC):
    """What is learned from, and how well it is learned.

    `batch(step)` depends on nothing but the step and the task's own settings. So a run that was interrupted goes on
    with the same inputs, and every process of a run knows the inputs of all.
    """

    # Whether the loss of an input does not depend on the others in its batch: then a step may be computed in parts.
    divisible = True

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """Returns the inputs and labels of one step, counted from 0: tensors with B rows each."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Returns the losses by name, each the mean over what it counts; the model is trained on their sum."""

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, int]:
        """Returns how many predictions each loss is the mean of."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns scores on what is held out, by name. The model is in evaluation mode, without gradients."""

    @abstractmethod
    def describe(self) -> Mapping[str, Any]:
        """Returns, as JSON holds it, what the inputs depend on: a run can only be resumed if it is the same."""

    @abstractmethod
    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes the model with all that it needs to be loaded and used."""

    def tokens(self, batch: Batch) -> int:
        """Returns the number of tokens in a batch, without padding."""
        return int(batch["attention_mask"].sum())

    def name_of(self, step: int, batch: Batch) -> str:
        """Returns where the inputs of a step come from, for a message about them."""
        return f"the batch of step {step:,}"
