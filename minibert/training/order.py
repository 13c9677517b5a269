"""In which order are the inputs seen?

Every epoch has all of them, in a new random order. Which ones a step sees follows from its number alone.
"""

import functools

import torch


def rows_of_step(step: int, batch_size: int, count: int, seed: int) -> list[int]:
    """Returns which of `count` inputs the step has; a batch may run from the end of one epoch into the next."""
    rows = []
    for index in range(step * batch_size, (step + 1) * batch_size):
        epoch, position = divmod(index, count)
        rows.append(_order(count, seed, epoch)[position])
    return rows


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator).tolist()
