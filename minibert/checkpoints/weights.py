"""Which tensors are in a checkpoint's files?

There are four formats, of which the first that a folder has is read: safetensors, in one file or in shards that an
index lists, and PyTorch's older pickles, likewise. A file is untrusted: no code in it is ever run, an index cannot
point out of its folder, and no header makes us allocate more memory than the file has bytes.
"""

import re
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minibert.checkpoints.json_files import read_object
from minibert.checkpoints.layout import PICKLE, WEIGHTS
from minibert.errors import CheckpointError, CheckpointNotFoundError


def read(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Reads the weights in a checkpoint's folder.

    Returns:
        The file that they were found in, or the index of its shards; and the tensors, under the file's names.

    Raises:
        CheckpointNotFoundError: the folder has none of the four formats, or a shard is missing.
        CheckpointError: a file is damaged, or is not what its name says.
    """
    for name in WEIGHTS:
        file = folder / name
        if file.is_file():
            return file, read_shards(file) if name.endswith(".json") else read_file(file)
    raise CheckpointNotFoundError(f"{folder} has no weights: none of {', '.join(WEIGHTS)}")


def read_file(file: Path) -> dict[str, Tensor]:
    """Reads the tensors of one file, in the format that its extension tells."""
    return read_pickle(file) if file.suffix == ".bin" else read_safetensors(file)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file; they are mapped into memory, not copied."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged or not a safetensors file ({error}): download it again") from None


def read_pickle(file: Path) -> dict[str, Tensor]:
    """Reads the tensors of a file that `torch.save` wrote, with PyTorch's loader for weights, which runs no code."""
    zipped = zipfile.is_zipfile(file)  # the format since PyTorch 1.6, which can be mapped into memory
    try:
        if zipped:
            with zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise CheckpointError("a compressed entry, which torch.save does not write")
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged pickle can fail in any way
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{file} is damaged, or holds more than tensors, which is refused ({reason})") from None
    _check_tensors(file, tensors)
    return tensors  # as they are stored: a matrix that is transposed in memory rounds differently when it is multiplied


def _check_tensors(file: Path, tensors: object) -> None:
    """Raises a `CheckpointError` unless a pickle held tensors by name, each as large as the memory behind it."""
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{file} must hold tensors by name, got a {type(tensors).__name__}")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{file} must hold tensors by name, got a {type(tensor).__name__} for {name!r}")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise CheckpointError(f"{file}: {name} must be stored as plain numbers")
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise CheckpointError(f"{file}: {name} has shape {tuple(tensor.shape)}, but fewer numbers in the file")
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > 2 * file.stat().st_size:  # a tied decoder is stored once but listed twice; nothing else is
        raise CheckpointError(
            f"{file} holds tensors of {size:,} bytes that share {file.stat().st_size:,} bytes of memory"
        )


def read_shards(index: Path) -> dict[str, Tensor]:
    """Reads the tensors of all files that an index lists; each must be beside it and hold what the index says."""
    weight_map = read_object(index, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index} must have a weight_map from tensors to files")
    extension = ".bin" if index.name.startswith(PICKLE) else ".safetensors"
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if not re.fullmatch(r"\w[\w.-]*", shard, re.ASCII) or not shard.endswith(extension):
            raise CheckpointError(f"{index} must name {extension} files in its own folder, got {shard!r}")
        if not (index.parent / shard).is_file():
            raise CheckpointNotFoundError(f"{index} names the file {shard}, which is missing: download it again")
        tensors |= read_file(index.parent / shard)
        absent = [name for name, file in weight_map.items() if file == shard and name not in tensors]
        if absent:
            raise CheckpointError(f"{index.parent / shard} has no {absent[0]}, although {index.name} says so")
    return tensors
