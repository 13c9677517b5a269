"""How do a file's tensors become our parameters, and back?

A BERT checkpoint is a folder: `config.json` has the sizes, `model.safetensors` the tensors under the names that
Google's and Hugging Face's code gave them. `NAMES` below translates, module by module; everything else in this room
reads it. `Pretrained` is the mixin that gives a model class `from_pretrained` and `save_pretrained`.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minibert import store
from minibert.config import BertConfig
from minibert.errors import CheckpointError, CheckpointNotFoundError, ConfigError

# Our module, and the same module in a checkpoint file; {} is the number of the layer. A module's weight and bias keep
# their names, so this is the whole translation.
NAMES = (
    ("embeddings.word_embeddings", "embeddings.word_embeddings"),
    ("embeddings.position_embeddings", "embeddings.position_embeddings"),
    ("embeddings.token_type_embeddings", "embeddings.token_type_embeddings"),
    ("embeddings.norm", "embeddings.LayerNorm"),
    ("encoder.layers.{}.attention.query", "encoder.layer.{}.attention.self.query"),
    ("encoder.layers.{}.attention.key", "encoder.layer.{}.attention.self.key"),
    ("encoder.layers.{}.attention.value", "encoder.layer.{}.attention.self.value"),
    ("encoder.layers.{}.attention.output", "encoder.layer.{}.attention.output.dense"),
    ("encoder.layers.{}.attention_norm", "encoder.layer.{}.attention.output.LayerNorm"),
    ("encoder.layers.{}.feed_forward.expand", "encoder.layer.{}.intermediate.dense"),
    ("encoder.layers.{}.feed_forward.contract", "encoder.layer.{}.output.dense"),
    ("encoder.layers.{}.feed_forward_norm", "encoder.layer.{}.output.LayerNorm"),
    ("pooler.dense", "pooler.dense"),
)

# Tensors of a file that are no parameters, and why they can be left aside.
IGNORED = {"embeddings.position_ids": "the numbers 0, 1, 2, …, which older versions of transformers stored"}

FLOATING_POINT = ("F64", "F32", "F16", "BF16")  # as the safetensors format names them

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

_THEIRS = dict(NAMES)
_OURS = {theirs: ours for ours, theirs in NAMES}


def checkpoint_name(parameter: str) -> str:
    """Our parameter's name in a checkpoint file; raises `KeyError` for a name that the table does not have."""
    return _translate(parameter, _THEIRS)


def parameter_name(tensor: str) -> str:
    """A checkpoint tensor's name in our model; raises `KeyError` for a name that the table does not have."""
    return _translate(tensor, _OURS)


def _translate(name: str, table: Mapping[str, str]) -> str:
    module, _, kind = name.rpartition(".")
    layer = re.search(r"(?<=\.)\d+(?=\.)", module)
    if layer is None:
        return f"{table[module]}.{kind}"
    pattern = f"{module[: layer.start()]}{{}}{module[layer.end() :]}"
    return f"{table[pattern].format(layer.group())}.{kind}"


Model = TypeVar("Model", bound="Pretrained")


class Pretrained(nn.Module):
    """A module that can be loaded from a checkpoint and saved as one; each is built from these two arguments."""

    def __init__(self, config: BertConfig, attention: str) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_pretrained(
        cls: type[Model],
        name_or_folder: str | os.PathLike[str],
        *,
        attention: str = "sdpa",
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> Model:
        """Loads a checkpoint: every parameter of the model, and nothing else, from its `model.safetensors`.

        The parameters keep the file's dtype. They are the file itself, mapped into memory: loading copies nothing,
        and changing a parameter changes this process's page, never the file. The addresses are therefore the file's,
        not PyTorch's 64-byte aligned ones, and a matrix product may round differently in its last bit than for a copy
        of the same numbers; two models compare bit for bit when both are mapped, or both are not.

        Args:
            name_or_folder: a folder, or a name such as `sentence-transformers/all-MiniLM-L6-v2`; see `store.resolve`.
            attention: "eager" or "sdpa"; see `BertModel`.
            revision, token, local_files_only: for the hub; see `store.resolve`.

        Returns:
            The model in evaluation mode: dropout is off.

        Raises:
            CheckpointNotFoundError, DownloadError: there is no such checkpoint, or no way to reach it.
            ConfigError: its config is not one of a BERT that we can build.
            CheckpointError: its tensors are damaged, or not this model's; the message names each.
        """
        folder = store.resolve(
            name_or_folder,
            (CONFIG_FILE, WEIGHTS_FILE),
            revision=revision,
            token=token,
            local_files_only=local_files_only,
        )
        config = BertConfig.from_json_file(folder / CONFIG_FILE)
        try:
            with torch.device("meta"), _Unfilled():  # shapes only: the weights are the file's
                model = cls(config, attention=attention)
        except ConfigError as error:
            raise ConfigError(f"{folder / CONFIG_FILE}: {error}") from None
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        model.load_state_dict(read_tensors(folder / WEIGHTS_FILE, shapes), assign=True)
        return model.eval()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes `config.json` and `model.safetensors` in the layout that `transformers` reads as well.

        Each file is written beside its place and then put there in one step, so an interrupted save leaves the old
        file whole.

        Raises:
            CheckpointError: `folder` is a file.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"cannot save to {folder}: it is a file; give the name of a folder")
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {checkpoint_name(name): tensor.contiguous() for name, tensor in self.state_dict().items()}
        dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
        fields = {"architectures": [type(self).__name__], "dtype": dtype, **self.config.to_dict()}
        text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
        _replace(folder / WEIGHTS_FILE, lambda file: save_file(tensors, file, metadata={"format": "pt"}))
        _replace(folder / CONFIG_FILE, lambda file: file.write_text(text, encoding="utf-8"))


class _Unfilled(TorchFunctionMode):
    """Inside it, modules are built without filling their weights, which are about to be replaced anyway."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return None
        return function(*args, **kwargs or {})


def read_tensors(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Reads exactly the parameters named in `shapes`, memory-mapped, under our names.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: it is no safetensors file, or a tensor is missing, extra, of another shape or not of
            floating-point numbers. All such tensors are named; no tensor is read before all are known to fit.
    """
    if not file.is_file():
        raise CheckpointNotFoundError(f"{file.parent} has no {file.name}: minibert reads weights from safetensors only")
    try:
        with safe_open(file, framework="pt") as tensors:
            expected = {checkpoint_name(name): name for name in shapes}
            found = set(tensors.keys())
            problems = [f"{key} is missing" for key in expected if key not in found]
            problems += [f"{key} is not part of this model" for key in sorted(found - expected.keys() - IGNORED.keys())]
            for key in [key for key in expected if key in found]:
                shape, needed = tuple(tensors.get_slice(key).get_shape()), shapes[expected[key]]
                dtype = tensors.get_slice(key).get_dtype()
                if shape != needed:
                    problems.append(f"{key} has shape {shape}, and config.json asks for {needed}")
                elif dtype not in FLOATING_POINT:
                    problems.append(
                        f"{key} holds {dtype} numbers, and a parameter needs one of {', '.join(FLOATING_POINT)}"
                    )
            if problems:
                raise CheckpointError(f"{file} does not fit the model: {_shorten(problems)}")
            return {name: tensors.get_tensor(key) for key, name in expected.items()}
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged or no safetensors file ({error}): download it again") from None


def _shorten(problems: Sequence[str], most: int = 4) -> str:
    rest = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + rest


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write(beside)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
