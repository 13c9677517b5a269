"""How do several processes train one model?

`torchrun --nproc-per-node 2 -m minibert pretrain …` starts the same command several times. Each process computes a
share of every batch, and PyTorch's DistributedDataParallel averages the gradients, so that all have the same weights
after each step. The first process writes the files and the lines on the screen.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Returns a module whose backward pass averages the gradients over all processes."""
        return nn.parallel.DistributedDataParallel(module) if self.count > 1 else module

    def mean(self, value: Tensor) -> Tensor:
        """Returns the mean over all processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.count
        return value

    def gather(self, value: Any) -> list[Any]:
        """Returns the value of each process."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """Gives the processes of this run: a group that exists, or one that torchrun has started, or this one alone."""
    ours = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if ours:
        if device.type == "cuda":
            torch.cuda.set_device(device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Processes()
    finally:
        if ours:
            dist.destroy_process_group()
