"""Has a model the parameters that it had before?

A file that is made in several runs notes what it was made from; a run that goes on asks whether that is still so.
"""

import hashlib
from typing import Any

from safetensors.torch import save
from torch import nn


def parameters_digest(module: nn.Module) -> Any:
    """Returns a sha256 of the names, dtypes, shapes and bits of a module's parameters and buffers, to be updated."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(save({"": tensor.cpu().contiguous()}))
    return digest
