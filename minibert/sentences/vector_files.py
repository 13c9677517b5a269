"""How are vectors stored in a file? As .safetensors, .npy or .jsonl, one row for each text.

A header comes first and then the rows. The length of the header does not depend on the number of rows, so rows can be
appended while their number is still unknown, and the header is written last.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minibert.checks import shown
from minibert.errors import EmbedError


class Format(ABC):
    """A file format: how its header and its rows are written."""

    @abstractmethod
    def header(self, count: int, size: int, metadata: Mapping[str, Any]) -> bytes:
        """What comes before `count` rows of `size` numbers; its length is the same for every `count`."""

    def rows(self, texts: Sequence[str], vectors: Tensor) -> bytes:
        """The rows of N texts and their vectors (N, E): little-endian float32, as in memory."""
        content = save({"vectors": vectors})  # eight bytes with the length of a header, the header, the numbers
        return content[8 + int.from_bytes(content[:8], "little") :]

    def holds(self, file: Path, size: int, header: int, count: int, dimension: int) -> bool:
        """Whether the first `size` bytes of a file are a header of `header` bytes and `count` whole rows."""
        return size == header + 4 * count * dimension


class Safetensors(Format):
    """A tensor "vectors"; the header is the length of a JSON object in eight bytes, and the object."""

    def header(self, count: int, size: int, metadata: Mapping[str, Any]) -> bytes:
        length = len(self._json(10**15, size, metadata))  # more rows than there will ever be
        length += -length % 8  # the numbers start at a multiple of 8
        return length.to_bytes(8, "little") + self._json(count, size, metadata).ljust(length)

    def _json(self, count: int, size: int, metadata: Mapping[str, Any]) -> bytes:
        tensor = {"dtype": "F32", "shape": [count, size], "data_offsets": [0, 4 * count * size]}
        strings = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
        return json.dumps({"__metadata__": strings, "vectors": tensor}).encode()


class Npy(Format):
    """An array for NumPy, format 1.0; the header is magic bytes and a Python dictionary, 128 bytes in all."""

    def header(self, count: int, size: int, metadata: Mapping[str, Any]) -> bytes:
        fields = {"descr": "<f4", "fortran_order": False, "shape": (count, size)}
        return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + str(fields).encode().ljust(117) + b"\n"


class JsonLines(Format):
    """A line {"text": …, "vector": […]} for each text, without a header."""

    def header(self, count: int, size: int, metadata: Mapping[str, Any]) -> bytes:
        return b""

    def rows(self, texts: Sequence[str], vectors: Tensor) -> bytes:
        lines = []
        for text, vector in zip(texts, vectors.tolist(), strict=True):
            numbers = ", ".join(f"{number:.9g}" for number in vector)  # nine digits distinguish any two float32
            lines.append(f'{{"text": {json.dumps(text, ensure_ascii=False)}, "vector": [{numbers}]}}\n')
        return "".join(lines).encode()

    def holds(self, file: Path, size: int, header: int, count: int, dimension: int) -> bool:
        with file.open("rb") as lines:
            while size > 0 and count > 0:
                size, count = size - len(lines.readline()), count - 1
        return size == count == 0


FORMATS: dict[str, Format] = {".safetensors": Safetensors(), ".npy": Npy(), ".jsonl": JsonLines()}  # by extension


MADE_FROM = ("encoder", "pooling", "layers", "prompt", "texts_sha256")  # what a search must know of vectors


def read_vectors(file: str | os.PathLike[str]) -> tuple[Tensor, dict[str, str]]:
    """Reads a `.safetensors` file that `embed` wrote.

    Returns:
        The vectors (N, E), and what they were made from: "encoder", "pooling", "layers", "prompt" and "texts_sha256".

    Raises:
        EmbedError: it is not such a file.
    """
    if os.fspath(file).endswith((".npy", ".jsonl")):
        raise EmbedError(
            f"{file} does not say what its vectors were made from: embed the texts into a .safetensors file, or read "
            "it yourself, with numpy.load or line by line with json.loads"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            vectors, metadata = opened.get_tensor("vectors"), opened.metadata()
            made_from = {name: metadata[name] for name in MADE_FROM}
            pooling, layers = json.loads(made_from["pooling"]), json.loads(made_from["layers"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise EmbedError(f"{file} is not a file of vectors that 'minibert embed' wrote ({error})") from None
    if vectors.dim() != 2 or vectors.dtype != torch.float32 or type(pooling) is not list or type(layers) is not int:
        got = f"{vectors.dtype} {tuple(vectors.shape)}, pooling {shown(pooling)}, layers {shown(layers)}"
        raise EmbedError(f"{file} is not a file of vectors that 'minibert embed' wrote: got {got}")
    return vectors, made_from


def digest(texts: Iterable[str]) -> str:
    """The sha256 of texts in their order, in hexadecimal digits."""
    sha256 = hashlib.sha256()
    for text in texts:
        sha256.update(part_of_digest(text))
    return sha256.hexdigest()


def part_of_digest(text: str) -> bytes:
    """What a text adds to the `digest`: its length as well, for a text may hold any character that could end it."""
    content = text.encode()
    return b"%d:%b" % (len(content), content)
