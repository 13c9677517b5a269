"""How does a run that was killed go on as if nothing had happened?

A checkpoint has everything that the next step depends on: the weights, the optimizer's two moments of each, the random
state, and the number of steps done, which is also the position in the data. All of it is written whole, with the model
beside it in the folder as any checkpoint is: at every moment, the folder can be loaded, and the run be resumed.

    OUT/model.safetensors, config.json, …   the model after the last checkpoint
    OUT/training/state.safetensors          moments and random states
    OUT/training/progress.json              the step, and what the run was started with
    OUT/metrics.jsonl                       a line for each entry of the log
    OUT/steps/0000128/                      the model after a step that was to be kept
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minibert.checkpoints import layout
from minibert.checkpoints.atomic import finish_save, write_atomically
from minibert.checkpoints.json_files import read_object
from minibert.checks import as_integer, shown
from minibert.errors import StoreError, TrainingError
from minibert.heads import bert_in
from minibert.training.journal import METRICS
from minibert.training.settings import TrainingSettings
from minibert.training.task import Task

STATE, PROGRESS = "training/state.safetensors", "training/progress.json"
OWNS = (*layout.SAVED_MODEL, *layout.TOKENIZER, STATE, PROGRESS)
WEIGHT, RANDOM = "weight.", "random_state."  # before the names of tensors in the state


def save(
    folder: Path,
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: list[Tensor],
    progress: dict[str, Any],
) -> None:
    """Writes a checkpoint over the one before it; `random` is the random state of each process."""
    tensors = {f"{WEIGHT}{name}": each.detach().contiguous() for name, each in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = value.contiguous()
    tensors |= {f"{RANDOM}{rank}": each for rank, each in enumerate(random)}
    with write_atomically(folder, owns=OWNS) as incoming:
        task.save(model, incoming)
        (incoming / STATE).parent.mkdir()
        save_file(tensors, incoming / STATE)
        (incoming / PROGRESS).write_text(json.dumps(progress, indent=2) + "\n", encoding="utf-8")


def read_progress(folder: Path) -> dict[str, Any] | None:
    """Returns what the last checkpoint in a folder says of its run; None if there is none."""
    if folder.is_dir():
        finish_save(folder)
    return read_object(folder / PROGRESS, TrainingError) if (folder / PROGRESS).is_file() else None


def check_resumable(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises a `TrainingError` unless a run was started with the same settings, model and data."""
    advice = "resume with the same, or choose a different folder"
    for part in ("settings", "model", "task", "processes"):
        old, new = before.get(part), now[part]
        if isinstance(old, dict) and isinstance(new, dict):
            for name in {**old, **new}:
                if old.get(name) != new.get(name):
                    what = f"{shown(old.get(name))}, and now it is {shown(new.get(name))}"
                    raise TrainingError(f"{folder} was started with {name} {what}: {advice}")
        elif old != new:
            raise TrainingError(f"{folder} was started with {part} {shown(old)}, and now it is {shown(new)}: {advice}")
    whole = all(as_integer(before.get(name)) is not None for name in ("step", "metrics_size"))
    log = folder / METRICS
    size = log.stat().st_size if log.is_file() else 0
    if not whole or "precision" not in before or not (folder / STATE).is_file() or size < before["metrics_size"]:
        raise TrainingError(
            f"{folder} is damaged: {PROGRESS}, {STATE} and {METRICS} do not belong together; start over"
        )


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> Tensor:
    """Puts the weights and the optimizer's moments back, bit by bit, and returns the random state of a process."""
    tensors = load_file(folder / STATE)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(tensors[f"{WEIGHT}{name}"])  # in place: a product rounds by where in memory a matrix lies
    for name, parameter in model.named_parameters():
        saved = {key: tensors.get(f"{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
        found = {key: value.clone() for key, value in saved.items() if value is not None}
        if found:
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter) for key, value in found.items()
            }
    return tensors[f"{RANDOM}{rank}"]


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps every other run out of it; the lock of a process that is killed is released."""
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise TrainingError(
            f"another run is writing {folder}: wait until it ends, or choose a different folder"
        ) from None
    except OSError as error:
        raise StoreError(f"cannot write to the folder {folder}: {error}") from error
    try:
        yield
    finally:
        lock.release()


def started_with(model: nn.Module, task: Task, settings: TrainingSettings, processes: int) -> dict[str, Any]:
    """Returns what a run that goes on must have been started with, as it is read back from a file."""
    started = {
        "settings": settings.to_dict(),
        "task": dict(task.describe()),
        "model": {
            "dtype": str(next(model.parameters()).dtype),
            "attention": getattr(bert_in(model).attend, "__name__", "unknown"),
            "trained": [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        },
        "processes": processes,
    }
    read_back: dict[str, Any] = json.loads(json.dumps(started))
    return read_back


def interrupted(folder: Path, started: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    """Returns what the checkpoint in the folder says, if there is one to go on from.

    Raises:
        TrainingError: there is one and `resume` is False, or it was started with something else; or there is a model
            that no run has made.
    """
    before = read_progress(folder)
    if before is None:
        model = next((file for pattern in layout.SAVED_MODEL for file in folder.glob(pattern)), None)
        if model is not None:
            raise TrainingError(
                f"{folder} has {model.name}, of a model that is not of a run, and would lose it: choose a new folder"
            )
        return None
    if not resume:
        raise TrainingError(f"{folder} has a run, after step {before.get('step')}: resume it, or choose a new folder")
    check_resumable(folder, before, started)
    return before


def random_state(device: torch.device) -> Tensor:
    """Returns the state of the generator that dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(random: Tensor, device: torch.device) -> None:
    """Sets it."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(random, device)
    else:
        torch.set_rng_state(random)
