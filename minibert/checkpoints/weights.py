"""Which tensors are in a checkpoint's files?

There are four formats, of which the first that a folder has is read: safetensors, in one file or in shards that an
index lists, and PyTorch's older pickles, likewise. A file is untrusted: no code in it is ever run, an index cannot
point out of its folder, and no header makes us allocate more memory than the file has bytes.
"""

import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minibert.checkpoints.json_files import check_start, read_object
from minibert.checkpoints.layout import OTHER_WEIGHTS, PICKLE, SAFETENSORS, WEIGHTS
from minibert.checks import cut, shown
from minibert.errors import CheckpointError, CheckpointNotFoundError

# The functions and classes that a pickle of tensors names.
TENSOR_NAMES = (
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch\._tensor _rebuild_from_type_v2|"
    r"torch(\.storage)? \w+Storage|torch (Size|device|\w*(float|int|bool|complex)\w*)|torch\.nn\.parameter Parameter|"
    r"torch\.serialization _get_layout"
)


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
    for pattern, kind in OTHER_WEIGHTS.items():
        for file in sorted(folder.glob(pattern)):
            raise CheckpointNotFoundError(
                f"{file} is in a format that minibert does not read ({kind}): get the checkpoint as {SAFETENSORS}, or "
                "load it in the library it was made with and save it as that"
            )
    raise CheckpointNotFoundError(f"{folder} has no weights: none of {', '.join(WEIGHTS)}")


def read_file(file: Path) -> dict[str, Tensor]:
    """Reads the tensors of one file, in the format that its extension tells."""
    _check_start(file)
    return read_pickle(file) if file.suffix == ".bin" else read_safetensors(file)


def _check_start(file: Path) -> None:
    """Raises a `CheckpointError` for what a file is that was not downloaded as it should have been."""
    try:
        if not file.is_file():
            raise CheckpointError(f"{file} must be a regular file, got a folder, a pipe or a device")
        with file.open("rb") as stream:
            start = stream.read(200)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    check_start(file, start.decode("latin-1"), CheckpointError)
    if not start:
        raise CheckpointError(f"{file} is damaged: it is empty. Download it again")


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file; they are mapped into memory, not copied."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        reason = cut(str(error))
        raise CheckpointError(f"{file} is damaged or not a safetensors file ({reason}): download it again") from None


def read_pickle(file: Path) -> dict[str, Tensor]:
    """Reads the tensors of a file that `torch.save` wrote, with PyTorch's loader for weights, which runs no code."""
    try:
        with file.open("rb") as stream:
            zipped = stream.read(4) == b"PK\x03\x04"  # the format since PyTorch 1.6, which can be mapped into memory
            stream.seek(0)
            foreign = _foreign_names(stream) if not zipped else _foreign_names_in_zip(file)
        if foreign:
            raise CheckpointError(f"{file} holds more than tensors, which is refused: {cut(foreign)}")
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except Exception:  # a damaged pickle can fail in any way, and PyTorch's advice is to run its code
        raise CheckpointError(f"{file} is damaged, or not a file that torch.save wrote: download it again") from None
    _check_tensors(file, tensors)
    return tensors  # as they are stored: a matrix that is transposed in memory rounds differently when it is multiplied


def _foreign_names_in_zip(file: Path) -> str | None:
    """As `_foreign_names`, for the pickle in a zip; a `CheckpointError` for a zip that torch.save did not write."""
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise CheckpointError(f"{file} has a compressed entry, which torch.save does not write: it is damaged")
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(name) as stream:
            return _foreign_names(stream, 1)


def _foreign_names(stream: IO[bytes], pickles: int = 4) -> str | None:
    """The first function or class that pickles name and tensors do not need; None if there is none.

    PyTorch's loader runs none of these, but it has more that it does run, such as `bytearray`, by which a file of 60
    bytes takes gigabytes. The older format has four pickles, of which the last is the tensors.
    """
    for _ in range(pickles):
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name == "GLOBAL" and not re.fullmatch(TENSOR_NAMES, str(argument)):
                return str(argument).replace(" ", ".")
            if operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                return f"a pickle of another protocol ({operation.name})"
    return None


def _check_tensors(file: Path, tensors: object) -> None:
    """Raises a `CheckpointError` unless a pickle held tensors by name, each as large as the memory behind it."""
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{file} must hold tensors by name, got a {type(tensors).__name__}")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise CheckpointError(f"{file} must hold tensors by name, got a {kind} for {shown(name)}")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise CheckpointError(f"{file}: {cut(name)} must be stored as plain numbers")
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise CheckpointError(f"{file}: {cut(name)} has shape {tuple(tensor.shape)}, but fewer numbers in the file")
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
            raise CheckpointError(f"{index} must name {extension} files in its own folder, got {shown(shard)}")
        if len(shard) > 255 or not (index.parent / shard).is_file():  # no file system has longer names
            raise CheckpointNotFoundError(f"{index} names the file {cut(shard)}, which is missing: download it again")
        found = read_file(index.parent / shard)
        absent = [name for name, file in weight_map.items() if file == shard and name not in found]
        if absent:
            raise CheckpointError(f"{index.parent / shard} has no {cut(absent[0])}, although {index.name} says so")
        for name, tensor in found.items():
            if name not in weight_map and name in tensors:
                raise CheckpointError(
                    f"{index.parent} has {cut(name)} in two files, and {index.name} does not say which"
                )
            if weight_map.get(name, shard) == shard:  # otherwise the index gives it to another file
                tensors[name] = tensor
    return tensors
