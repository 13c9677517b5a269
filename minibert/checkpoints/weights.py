"""What do the files hold that weights come in?

Four forms, the first that a folder has is read: safetensors in one file or in shards that an index lists, and the
older pickles of PyTorch, likewise. A file is untrusted: nothing in it is ever run, an index cannot point out of its
folder, and no header makes us take more memory than the file has bytes.
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
    """The weights of a checkpoint folder: the file they were found in, and the tensors under the names there.

    Raises:
        CheckpointNotFoundError: the folder has none of the four forms, or a shard is not there.
        CheckpointError: a file is damaged, or is not what its name says.
    """
    for name in WEIGHTS:
        file = folder / name
        if file.is_file():
            return file, read_shards(file) if name.endswith(".json") else read_file(file)
    raise CheckpointNotFoundError(f"{folder} has no weights: none of {', '.join(WEIGHTS)}")


def read_file(file: Path) -> dict[str, Tensor]:
    """The tensors of one file, by the form that its ending says."""
    return read_pickle(file) if file.suffix == ".bin" else read_safetensors(file)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged or no safetensors file ({error}): download it again") from None


def read_pickle(file: Path) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote: read by PyTorch's loader for weights, which runs no code."""
    zipped = zipfile.is_zipfile(file)  # the form since PyTorch 1.6, which can be mapped into memory
    try:
        if zipped:
            with zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise CheckpointError("a compressed entry, which torch.save does not write")
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged pickle can fail in any way
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{file} is damaged, or holds more than tensors, which is refused ({reason})") from None
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{file} holds a {type(tensors).__name__}, not tensors by name")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{file} holds {name!r}, a {type(tensor).__name__}, where a tensor is expected")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise CheckpointError(f"{file}: {name} is not stored as plain numbers")
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise CheckpointError(f"{file}: {name} of shape {tuple(tensor.shape)} has not that many numbers behind it")
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > 2 * file.stat().st_size:  # a tied decoder is there twice and stored once; nothing else is
        raise CheckpointError(
            f"{file} holds tensors of {size:,} bytes that share {file.stat().st_size:,} bytes of memory"
        )
    return tensors  # as they are stored: a matrix that lies transposed in memory multiplies with other rounding


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all the files that an index lists; each must be beside it, and hold what the index says."""
    places = read_object(index, CheckpointError).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files")
    ending = ".bin" if index.name.startswith(PICKLE) else ".safetensors"
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if not re.fullmatch(r"\w[\w.-]*", shard, re.ASCII) or not shard.endswith(ending):
            raise CheckpointError(f"{index} names the file {shard!r}: only {ending} files in its own folder are read")
        if not (index.parent / shard).is_file():
            raise CheckpointNotFoundError(f"{index} names the file {shard}, and it is not there")
        tensors |= read_file(index.parent / shard)
        absent = [name for name, place in places.items() if place == shard and name not in tensors]
        if absent:
            raise CheckpointError(f"{index.parent / shard} has no {absent[0]}, which {index.name} says it has")
    return tensors
