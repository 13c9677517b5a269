"""How is a model trained?

One loop for everything: take a batch, compute the loss and its gradient, change the weights. The rest is for people: to
see how it goes, to stop and go on, and to be told when something is wrong.
"""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minibert.errors import DivergedError, TrainingError
from minibert.training import memory, state
from minibert.training import optimizer as optimizers
from minibert.training import precision as precisions
from minibert.training.journal import Journal
from minibert.training.processes import Processes, processes
from minibert.training.settings import TrainingSettings
from minibert.training.task import Batch, Task


class Objective(nn.Module):
    """A model together with its losses, which DistributedDataParallel has to see as one module."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.task.losses(self.model, batch)


def train(
    model: nn.Module, task: Task, folder: Path, settings: TrainingSettings, *, resume: bool = False, show: bool = True
) -> list[dict[str, Any]]:
    """Trains a model in place, and returns the log: one dictionary for each line of `metrics.jsonl`.

    Args:
        model: trained on the device where it is; afterwards, also after an error, it is in evaluation mode.
        task: what is learned.
        folder: for the checkpoints and the log, see `state.py`.
        resume: go on with the interrupted run in the folder; if there is none, start.
        show: print the log to the standard error as well.

    Raises:
        TrainingError: the folder has a run and `resume` is False, or its settings or data were different.
        DivergedError: a loss or gradient is not finite. The last checkpoint is kept.
    """
    device = next(model.parameters()).device
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        group = stack.enter_context(processes(device))
        _check_parts(task, settings, group)
        if group.is_first:
            stack.enter_context(state.exclusive(folder))
        started = state.started_with(model, task, settings, group.count)
        before = state.interrupted(folder, started, resume)
        stack.callback(_leave, model)
        if settings.gradient_checkpointing:
            stack.enter_context(memory.layers_computed_twice(model))

        # Where the run starts, or goes on: weights, moments, random state, precision.
        memory.align(model)
        optimizer = optimizers.adamw(
            model, weight_decay=settings.weight_decay, betas=settings.betas, epsilon=settings.epsilon
        )
        if before is None:
            torch.manual_seed(settings.seed + group.rank)
            first, size = 0, 0
            # Of the first process, for all: what is measured may come out differently in each.
            precision, reason = group.gather(precisions.choose(settings.precision, device))[0]
        else:
            state.set_random_state(state.restore(folder, model, optimizer, group.rank), device)
            first, size = before["step"], before["metrics_size"]
            precision, reason = before["precision"], f"{before['precision']}, as before"
        group.wait()  # until all have read the checkpoint, which the first will replace
        journal = stack.enter_context(Journal(folder, size, settings.steps, group.is_first, show))
        journal.say(f"precision {reason}")

        def evaluate() -> dict[str, float]:
            model.eval()
            with torch.no_grad(), precisions.autocast(precision, device):
                return task.evaluate(model)

        def save(step: int) -> None:
            random = group.gather(state.random_state(device))
            if group.is_first:
                progress = {**started, "step": step, "precision": precision}
                state.save(folder, task, model, optimizer, random, {**progress, "metrics_size": journal.size})
            group.wait()

        if before is None:
            journal.write(0, evaluate())
            if 0 in settings.keep and group.is_first:
                task.save(model, folder / "steps" / f"{0:07}")
            save(0)

        # The loop.
        objective = group.wrap(Objective(model, task))
        tally = Tally()
        began = time.perf_counter()
        for step in range(first, settings.steps):
            rate = optimizers.learning_rate(
                step, peak=settings.learning_rate, warmup=settings.warmup_steps, steps=settings.steps
            )
            for parameters in optimizer.param_groups:
                parameters["lr"] = rate
            batch = task.batch(step)
            model.train()
            optimizer.zero_grad()
            losses = _backward(objective, task, batch, settings.accumulation, group, precision)
            norm = float(nn.utils.clip_grad_norm_(model.parameters(), settings.max_norm))
            if not all(map(math.isfinite, [*losses.values(), norm])):
                raise _diverged(losses, norm, task.name_of(step, batch), folder)
            optimizer.step()
            tally.add(losses, norm, task.tokens(batch))

            done = step + 1
            evaluates = settings.is_due(done, settings.evaluate_every)
            saves = settings.is_due(done, settings.save_every or settings.evaluate_every)
            if evaluates or saves or settings.is_due(done, settings.log_every):
                values = {"learning_rate": rate, **tally.means()}
                left = (time.perf_counter() - began) / (done - first) * (settings.steps - done)
                journal.write(done, {**values, **(evaluate() if evaluates else {})}, left)
                tally = Tally()
            if done in settings.keep and group.is_first:
                task.save(model, folder / "steps" / f"{done:07}")
            if saves:
                save(done)
        return journal.entries


def _backward(
    objective: nn.Module, task: Task, batch: Batch, accumulation: int, group: Processes, precision: str
) -> dict[str, float]:
    """Computes the gradient of a step, and returns its losses.

    Each loss is a mean over predictions, and one part of a batch may have more of them than another. So a part's mean
    is weighted by its share of all predictions: the step is the same, however it is divided. DistributedDataParallel
    takes the mean over the processes, hence the factor of their number.
    """
    device = next(objective.parameters()).device
    totals = task.counts(batch)
    sums = dict.fromkeys(totals, torch.zeros((), device=device))
    for part in _parts(batch, accumulation, group):
        counts = task.counts(part)
        with precisions.autocast(precision, device):
            means = objective({name: tensor.to(device) for name, tensor in part.items()})
        # A part without any prediction has no mean, and takes no part.
        shares = {
            name: mean * (counts[name] * group.count / totals[name]) if counts[name] else 0 * mean.nan_to_num()
            for name, mean in means.items()
        }
        sum(shares.values()).backward()
        sums = {name: sums[name] + share.detach() for name, share in shares.items()}
    return {name: float(group.mean(value)) for name, value in sums.items()}


def _leave(model: nn.Module) -> None:
    """Leaves a model to its user: without dropout, and without gradients that take memory."""
    model.eval()
    model.zero_grad()


def _parts(batch: Batch, accumulation: int, group: Processes) -> Iterator[Batch]:
    """The parts of a batch that this process computes, one after another."""
    rows = len(next(iter(batch.values())))
    size = rows // (accumulation * group.count)
    for part in range(accumulation):
        start = (part * group.count + group.rank) * size
        yield {name: tensor[start : start + size] for name, tensor in batch.items()}


class Tally:
    """The means of losses, of the gradient's norm and of the speed since the last entry of the log."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.sums: dict[str, float] = {}
        self.steps = self.tokens = 0

    def add(self, losses: dict[str, float], norm: float, tokens: int) -> None:
        """Counts a step."""
        several = losses if len(losses) > 1 else {}
        for name, value in {"loss": sum(losses.values()), **several, "gradient_norm": norm}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps, self.tokens = self.steps + 1, self.tokens + tokens

    def means(self) -> dict[str, float]:
        """The means, by name."""
        seconds = time.perf_counter() - self.started
        means = {name: value / self.steps for name, value in self.sums.items()}
        return {**means, "tokens_per_second": self.tokens / seconds}


def _check_parts(task: Task, settings: TrainingSettings, group: Processes) -> None:
    """Raises a `TrainingError` if a batch cannot be divided as asked."""
    parts = settings.accumulation * group.count
    if settings.batch_size % parts:
        raise TrainingError(
            f"batch_size must be a multiple of {parts}, the number of processes times accumulation, got "
            f"{settings.batch_size}"
        )
    if parts > 1 and not task.divisible:
        raise TrainingError(
            f"accumulation and processes must be 1 for this task, got {settings.accumulation} and {group.count}: each "
            "text is compared with all others of its batch, so a divided batch is a different loss"
        )


def _diverged(losses: dict[str, float], norm: float, batch: str, folder: Path) -> DivergedError:
    """The error for a step that would destroy the weights, which have not been changed yet."""
    values = ", ".join(f"{name} is {value}" for name, value in {**losses, "the gradient's norm": norm}.items())
    return DivergedError(
        f"{values} in {batch}: the run stops, and {folder} keeps the last checkpoint. Look at these inputs, or try a "
        "lower learning_rate or a longer warmup"
    )
