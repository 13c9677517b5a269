"""Where do the numbers of a training step lie, and how many are kept?"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from minibert.model import EncoderLayer


def align(model: nn.Module) -> None:
    """Moves each parameter to memory of its own: a file's may lie anywhere, and a product rounds by where."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


@contextmanager
def layers_computed_twice(model: nn.Module) -> Iterator[None]:
    """Inside the block, an encoder layer keeps only its input; the backward pass computes the rest again.

    The same bits at about a third more time; PyTorch restores the random state for dropout (Chen et al. 2016).
    """
    layers = [module for module in model.modules() if isinstance(module, EncoderLayer)]
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)  # type: ignore[method-assign]  # as a hook cannot
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
