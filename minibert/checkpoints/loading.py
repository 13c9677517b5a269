"""How do a file's tensors become our parameters, and back?

A BERT checkpoint is a folder: `config.json` has the sizes, a weights file the tensors under the names that Google's and
Hugging Face's code gave them. `NAMES` below translates, module by module, and `DIALECTS` lists the other names there
are; everything else in this room reads these two. `Pretrained` gives a model class `from_pretrained` and
`save_pretrained`.
"""

import functools
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minibert.checkpoints import layout, store, weights
from minibert.checkpoints.report import LoadReport, Status, TensorReport
from minibert.config import BertConfig
from minibert.errors import CheckpointError, ConfigError, NewParametersWarning, StoreError

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
    ("encoder.layers.{}.attention.relative.distance_embedding", "encoder.layer.{}.attention.self.distance_embedding"),
    ("pooler.dense", "pooler.dense"),
    ("masked_lm.dense", "cls.predictions.transform.dense"),
    ("masked_lm.norm", "cls.predictions.transform.LayerNorm"),
    ("masked_lm", "cls.predictions"),  # a bias alone: the decoder's weight is the word embedding table
    ("next_sentence", "cls.seq_relationship"),
    ("classifier", "classifier"),
    ("qa_outputs", "qa_outputs"),
)

# Other names that files have for the same tensors: what is replaced, by what, and why. In this order.
DIALECTS = (
    (r"^bert\.", "", "the base model's name inside a model with a head"),
    (r"\.LayerNorm\.gamma$", ".LayerNorm.weight", "TensorFlow's name"),
    (r"\.LayerNorm\.beta$", ".LayerNorm.bias", "TensorFlow's name"),
    (r"^cls\.predictions\.decoder\.bias$", "cls.predictions.bias", "the decoder's bias under its other name"),
    (r"^cls\.predictions\.decoder\.weight$", "embeddings.word_embeddings.weight", "the decoder is the embedding table"),
)

# Tensors of a file that are no parameters, and why they can be left aside.
IGNORED = {"embeddings.position_ids": "the numbers 0, 1, 2, …, which older versions of transformers stored"}

FLOATING_POINT = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

_THEIRS = dict(NAMES)
_OURS = {theirs: ours for ours, theirs in NAMES}


def checkpoint_name(parameter: str) -> str:
    """Our parameter's name in a checkpoint file; raises `KeyError` for a name that the table does not have."""
    return _translate(parameter, _THEIRS)


def parameter_name(tensor: str) -> str:
    """A checkpoint tensor's name in our model; raises `KeyError` for a name that the table does not have."""
    return _translate(tensor, _OURS)


def _translate(name: str, table: Mapping[str, str]) -> str:
    prefix = "bert." if name.startswith("bert.") else ""  # the base model inside a model with a head
    module, _, kind = name.removeprefix(prefix).rpartition(".")
    layer = re.search(r"(?<=\.)\d+(?=\.)", module)
    if layer is None:
        return f"{prefix}{table[module]}.{kind}"
    pattern = f"{module[: layer.start()]}{{}}{module[layer.end() :]}"
    return f"{prefix}{table[pattern].format(layer.group())}.{kind}"


Model = TypeVar("Model", bound="Pretrained")


class Pretrained(nn.Module):
    """A module that can be loaded from a checkpoint and saved as one; each is built from these two arguments."""

    load_report: LoadReport
    optional: tuple[str, ...] = ()  # parts that a checkpoint may lack; they are then None

    def __init__(self, config: BertConfig, attention: str) -> None:
        super().__init__()
        self.config = config

    def initialise(self, *parts: nn.Module) -> None:
        """Starts weights from a normal distribution cut off at two deviations, as BERT's own code does.

        LayerNorm's weights start at 1, every bias and the padding embedding at 0.
        """
        std = self.config.initializer_range
        for module in (module for part in parts for module in part.modules()):
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, nn.LayerNorm) and name == "weight":
                    nn.init.ones_(parameter)
                elif name == "bias" or std == 0:
                    nn.init.zeros_(parameter)
                else:
                    nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])

    @classmethod
    def from_pretrained(
        cls: type[Model],
        name_or_folder: str | os.PathLike[str],
        *,
        attention: str = "sdpa",
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        **changes: Any,
    ) -> Model:
        """Loads a checkpoint, in any of the dialects that BERTs are stored in, and says in `load_report` what it did.

        Every tensor of the file becomes a parameter, or is one that this model has no place for and the report says
        why. Parameters of a head that the file does not have start at random, and a warning names them.

        The parameters get the dtype that the config names, as in transformers, or keep the file's. Safetensors are
        mapped into memory: loading copies nothing, and changing a parameter changes this process's page, never the
        file. The addresses are therefore the file's, not PyTorch's 64-byte aligned ones, and a matrix product may round
        differently in its last bit than for a copy of the same numbers; two models compare bit for bit when both are
        mapped, or both are not.

        Args:
            name_or_folder: a folder, or a name such as `sentence-transformers/all-MiniLM-L6-v2`; see `store.resolve`.
            attention: "eager" or "sdpa"; see `BertModel`.
            revision, token, local_files_only: for the hub; see `store.resolve`.
            changes: fields of the config to change, such as `num_labels=5` for a new classifier.

        Returns:
            The model in evaluation mode: dropout is off.

        Raises:
            CheckpointNotFoundError, DownloadError: there is no such checkpoint, or no way to reach it.
            ConfigError: its config is not one of a BERT that we can build.
            CheckpointError: its tensors are damaged, or not this model's; the message names each.

        Warns:
            NewParametersWarning: some parameters are not in the file.
        """
        folder = store.resolve(
            name_or_folder,
            (layout.CONFIG, *layout.WEIGHTS_PATTERNS),
            revision=revision,
            token=token,
            local_files_only=local_files_only,
        )
        config = BertConfig.from_json_file(folder / layout.CONFIG, **changes)
        file, found = weights.read(folder)
        try:
            with torch.device("meta"), _Unfilled():  # shapes only: the weights are the file's
                model = cls(config, attention=attention)
        except ConfigError as error:
            raise ConfigError(f"{folder / layout.CONFIG}: {error}") from None
        there = {usual_name(name).partition(".")[0] for name in found}
        for part in model.optional:
            if part not in there:
                setattr(model, part, None)
        report, tensors = match(file, found, model)
        model.load_state_dict(tensors, strict=False, assign=True)
        new = [tensor.parameter or "" for tensor in report.with_status("new")]
        for part in dict.fromkeys(name.rpartition(".")[0] for name in new):  # in one order, for reproducible numbers
            empty = model.get_submodule(part).to_empty(device="cpu", recurse=False)
            model.initialise(empty.to(next(iter(tensors.values())).dtype))
        model.load_report = report
        if new:
            warnings.warn(
                f"{cls.__name__}: {', '.join(new)} are not in {file} and start at random: train them before you rely "
                "on the output; model.load_report shows every tensor",
                NewParametersWarning,
                stacklevel=2,
            )
        return model.eval()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes `config.json` and `model.safetensors` in the layout that `transformers` reads as well.

        Both files are written beside their places and then put there, each in one step, the config last: whenever a
        save is interrupted, each file is whole, the old one or the new. The tokenizer's files are not the model's to
        write: copy them from where it was loaded.

        Raises:
            StoreError: the folder cannot be written to.
        """
        folder = Path(folder)
        tensors: dict[str, Tensor] = {}
        addresses: set[int] = set()
        for name, tensor in self.state_dict().items():
            shared = tensor.data_ptr() in addresses  # as in a model whose layers are one: the file has copies
            tensors[checkpoint_name(name)] = tensor.clone() if shared else tensor.contiguous()
            addresses.add(tensor.data_ptr())
        dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
        fields = {**self.config.to_dict(), "architectures": [type(self).__name__], "dtype": dtype}
        text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
        config_file, weights_file = (folder / f".{name}.{os.getpid()}" for name in (layout.CONFIG, layout.SAFETENSORS))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            config_file.write_text(text, encoding="utf-8")
            save_file(tensors, weights_file, metadata={"format": "pt"})
            shutil.copymode(config_file, weights_file)  # safetensors makes it readable by its owner alone
            weights_file.replace(folder / layout.SAFETENSORS)
            config_file.replace(folder / layout.CONFIG)
        except (OSError, SafetensorError) as error:
            raise StoreError(f"cannot save to the folder {folder}: {error}") from error
        finally:
            for file in (config_file, weights_file):
                with suppress(OSError):
                    file.unlink(missing_ok=True)


class _Unfilled(TorchFunctionMode):
    """Inside it, PyTorch's modules skip their own random start: on tensors without numbers it still costs seconds."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return None
        return function(*args, **kwargs or {})


def match(file: Path, found: Mapping[str, Tensor], model: Pretrained) -> tuple[LoadReport, dict[str, Tensor]]:
    """Finds for each tensor of a file its parameter, and for each parameter its tensor.

    Returns:
        The story of every tensor and every parameter; and the tensors by our names, all of one dtype.

    Raises:
        CheckpointError: a parameter is missing, a tensor of the network has no place in it, or does not fit its place.
            All such tensors are named.
    """
    kind = type(model).__name__
    parameters = {name.removeprefix("bert."): (name, parameter) for name, parameter in model.named_parameters()}
    stories: list[TensorReport] = []
    problems: list[str] = []
    taken: dict[str, str] = {}  # parameter → tensor

    # Tensors under their usual name come first, so that a second copy is the one that is called so.
    for name in sorted(found, key=lambda name: (_canonical(name)[0] != name.removeprefix("bert."), name)):
        tensor = found[name]
        usual, dialect = _canonical(name)
        try:
            parameter, place = parameters[parameter_name(usual)]
        except KeyError:
            reason = _reason_to_ignore(usual, kind)
            if reason:
                stories.append(_story(name, None, tensor, "ignored", reason))
            else:
                problems.append(f"{name} has no place in a {kind} of this config")
            continue
        if tensor.shape != place.shape:
            problems.append(f"{name} has shape {tuple(tensor.shape)}, and the config asks for {tuple(place.shape)}")
        elif tensor.dtype not in FLOATING_POINT:
            problems.append(f"{name} holds {_dtype(tensor)} numbers, and a parameter needs floating-point ones")
        elif parameter not in taken:
            taken[parameter] = name
            status: Status = "used" if name == checkpoint_name(parameter) else "renamed"
            reason = dialect or "the base model's name without its prefix"
            stories.append(_story(name, parameter, tensor, status, "" if status == "used" else reason))
        elif torch.equal(tensor.nan_to_num(), found[taken[parameter]].nan_to_num()):
            stories.append(_story(name, parameter, tensor, "tied", dialect))
        elif "decoder" in name and not hasattr(model, "masked_lm"):
            stories.append(_story(name, None, tensor, "ignored", f"of a head that {kind} does not have"))
        else:
            problems.append(f"{name} and {taken[parameter]} are one parameter, and differ")

    present = {parameter.removeprefix("bert.").partition(".")[0] for parameter in taken}
    for bare, (parameter, place) in parameters.items():
        part = bare.partition(".")[0]
        if parameter in taken:
            continue
        if part in ("embeddings", "encoder") or part in present:
            problems.append(f"{checkpoint_name(parameter)} is missing")
        else:
            stories.append(_story(None, parameter, place, "new", "not in the file: started at random"))
    if problems:
        raise CheckpointError(f"{file} does not fit: {_shorten(problems)}")
    tensors = {parameter: found[name] for parameter, name in taken.items()}
    named = model.config.dtype
    widest = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors.values()])
    dtype = getattr(torch, named) if named else widest
    report = LoadReport(str(file), kind, tuple(stories))
    return report, {parameter: tensor.to(dtype) for parameter, tensor in tensors.items()}


def usual_name(name: str) -> str:
    """The usual name of a tensor of any dialect, without the prefix of the base model."""
    return _canonical(name)[0]


def _canonical(name: str) -> tuple[str, str]:
    """The usual name of a tensor, without the prefix of the base model, and the dialect that it was found under."""
    dialect = ""
    for pattern, replacement, why in DIALECTS:
        renamed = re.sub(pattern, replacement, name)
        if renamed != name:
            name, dialect = renamed, why
    return name, dialect


def _reason_to_ignore(name: str, kind: str) -> str:
    """Why a tensor without a place can be left aside; nothing if it belongs to the network itself."""
    part = name.partition(".")[0]
    if name in IGNORED:
        return IGNORED[name]
    if part in ("embeddings", "encoder"):
        return ""
    try:
        parameter_name(name)
    except KeyError:
        return "no part of a BERT that minibert knows"
    return f"{kind} has no pooler" if part == "pooler" else f"of a head that {kind} does not have"


def _story(name: str | None, parameter: str | None, tensor: Tensor, status: Status, reason: str) -> TensorReport:
    return TensorReport(name, parameter, tuple(tensor.shape), _dtype(tensor), status, reason)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shorten(problems: Sequence[str], most: int = 4) -> str:
    rest = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + rest
