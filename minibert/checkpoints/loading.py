"""How do a checkpoint's tensors become a model's parameters, and how are they written again?

A checkpoint is a folder: `config.json` holds the sizes, and a weights file the tensors. `Pretrained` gives a model
class `from_pretrained` and `save_pretrained`. Between the file and the model, `match` finds each tensor's parameter by
the table in `names.py`, and accounts for every tensor and every parameter in a report.
"""

import functools
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minibert.checkpoints import layout, store, weights
from minibert.checkpoints.atomic import reading, write_atomically
from minibert.checkpoints.names import (
    IGNORED,
    canonical_name,
    checkpoint_name,
    naming_scheme,
    parameter_name,
    wrapper_prefix,
)
from minibert.checkpoints.report import LoadReport, Status, TensorReport
from minibert.checks import cut
from minibert.config import BertConfig, blame_file
from minibert.errors import CheckpointError, ConfigError, NewParametersWarning

FLOATING_POINT = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
NEEDED_PARTS = ("embeddings", "encoder")  # every model needs them; a pooler or a head may be missing, or not be needed

Model = TypeVar("Model", bound="Pretrained")


class Pretrained(nn.Module):
    """A model that can be loaded from a checkpoint and saved as one.

    A subclass is constructed from a config and the keyword argument `attention`, and sets `config`.

    Attributes:
        config: the numbers that define the model.
        load_report: what became of each tensor, in a model that `from_pretrained` returned.
        optional: the submodules that a checkpoint may lack. In a model loaded from one that does, they are None.
    """

    config: BertConfig
    load_report: LoadReport
    optional: tuple[str, ...] = ()

    @staticmethod
    def initialise(module: nn.Module, std: float) -> None:
        """Sets the values of a module's new parameters; a subclass decides how."""
        raise NotImplementedError

    def _slow_forward(self, *inputs: Any, **named: Any) -> Any:
        """Calls `forward` while torch.jit.trace records, which cannot return None: the traced model leaves it out."""
        out = super()._slow_forward(*inputs, **named)
        traced = torch.jit._trace._trace_module_map or {}
        is_traced = traced.get("__module") is self  # and not a part of the traced model, whose caller needs the names
        return tuple(value for value in out if value is not None) if is_traced else out

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
        """Loads a checkpoint, in any naming scheme that BERTs are stored in; `load_report` tells what it did.

        Every tensor of the file becomes a parameter, or is ignored because this model has no use for it, and the report
        gives the reason. Parameters of a head that the file does not have start at random, and a warning names them.

        The parameters get the dtype that the config names, as in transformers, or keep the file's. Safetensors are
        mapped into memory: loading copies nothing, and changing a parameter changes this process's page, never the
        file. So the parameters are at the file's addresses, not at PyTorch's, which are multiples of 64 bytes, and a
        matrix product may round differently in its last bit than for a copy of the same numbers. Two models are equal
        bit for bit if both are mapped, or neither is.

        Args:
            name_or_folder: a folder, or a name such as `sentence-transformers/all-MiniLM-L6-v2`; see `store.resolve`.
            attention: "eager" or "sdpa"; see `BertModel`.
            revision, token, local_files_only: for the hub; see `store.resolve`.
            changes: fields of the config to change, such as `num_labels=5` for a new classifier.

        Returns:
            The model in evaluation mode: dropout is off.

        Raises:
            CheckpointNotFoundError, DownloadError: there is no such checkpoint, or it cannot be downloaded.
            ConfigError: its config does not describe a BERT that we can build.
            CheckpointError: its tensors are damaged, or do not fit this model; the message names each.

        Warns:
            NewParametersWarning: some parameters are not in the file.
        """
        folder = store.resolve(
            name_or_folder,
            (layout.CONFIG, layout.OLD_CONFIG, *layout.WEIGHTS_PATTERNS),
            revision=revision,
            token=token,
            local_files_only=local_files_only,
        )
        with reading(folder):
            config_file = layout.config_file(folder)
            config = BertConfig.from_json_file(config_file, **changes)
            file, tensors = weights.read(folder)
        try:
            model = _without_values(cls, config, attention)
        except ConfigError as error:
            raise blame_file(error, config_file, {"attention", *changes}) from None
        _drop_absent_parts(model, tensors)
        report, values = match(file, tensors, model)
        model.load_state_dict(values, strict=False, assign=True)
        new = [entry.parameter for entry in report.with_status("new") if entry.parameter]
        _initialise_new(model, new)
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
        """Writes `config.json` and `model.safetensors`, in the format that `transformers` reads as well.

        If it is interrupted, the folder has the old model or the new one, whole. The tokenizer's files are not written:
        `BertTokenizer.save_pretrained` does that.

        Raises:
            StoreError: the folder cannot be written to.
            CheckpointError: a parameter would be lost, or the file could not be loaded again: parts inside the
                embeddings or the encoder that BERT does not have, such as an adapter's, and values that are not dense.
        """
        tensors = _named_as_in_checkpoints(self.state_dict())
        dtype = _dtype_name(next(iter(tensors.values())))
        fields = {**self.config.to_dict(), "architectures": [type(self).__name__], "dtype": dtype}
        text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
        with write_atomically(folder, owns=layout.SAVED_MODEL) as incoming:
            save_file(tensors, incoming / layout.SAFETENSORS, metadata={"format": "pt"})
            (incoming / layout.CONFIG).write_text(text, encoding="utf-8")


def _without_values(kind: type[Model], config: BertConfig, attention: str) -> Model:
    """Constructs a model whose parameters have shapes but no memory: the file will provide their values."""
    with torch.device("meta"), _NoRandomValues():
        return kind(config, attention=attention)


class _NoRandomValues(TorchFunctionMode):
    """Skips the random values that PyTorch's modules start with: even on tensors without memory they cost seconds."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return None
        return function(*args, **kwargs or {})


def _drop_absent_parts(model: Pretrained, names: Iterable[str]) -> None:
    """Removes the optional submodules of a model of which a file has no tensor."""
    names = list(names)
    wrapper = wrapper_prefix(names)
    present = {_part(canonical_name(name, wrapper)) for name in names}
    for part in model.optional:
        if part not in present:
            setattr(model, part, None)


def _initialise_new(model: Pretrained, parameters: Sequence[str]) -> None:
    """Gives values to the parameters that no tensor filled, in the dtype of those that one did."""
    dtype = next(parameter.dtype for parameter in model.parameters() if not parameter.is_meta)
    modules = dict.fromkeys(parameter.rpartition(".")[0] for parameter in parameters)  # in order, so a seed is enough
    for name in modules:
        module = model.get_submodule(name).to_empty(device="cpu", recurse=False)
        model.initialise(module.to(dtype), model.config.initializer_range)


def _named_as_in_checkpoints(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors to write. Where two parameters share memory, the file has a copy for each."""
    tensors: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for parameter, tensor in parameters.items():
        _check_dense(parameter, tensor)
        name = _name_to_save(parameter)
        if name in tensors:
            raise CheckpointError(f"{parameter} would be saved as {name}, as another parameter is: rename it")
        is_shared = tensor.data_ptr() in addresses
        tensors[name] = tensor.clone() if is_shared else tensor.contiguous()
        addresses.add(tensor.data_ptr())
    return tensors


def _name_to_save(parameter: str) -> str:
    """The checkpoint's name of a parameter; a part that the user added to the model keeps its own."""
    try:
        return checkpoint_name(parameter)
    except KeyError:
        if _part(parameter) in NEEDED_PARTS:
            raise CheckpointError(
                f"{parameter} is not a parameter of a BERT, so the checkpoint could not be loaded again: merge the "
                "adapter it belongs to, or save model.state_dict() with torch.save"
            ) from None
        return parameter


def _check_dense(parameter: str, tensor: Any) -> None:
    """Raises a `CheckpointError` for a value in a model's state that a file of weights cannot hold."""
    is_dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_quantized
    if not is_dense or tensor.is_meta:
        kind = type(tensor).__name__ if not isinstance(tensor, Tensor) else f"{tensor.layout} on {tensor.device}"
        raise CheckpointError(
            f"{parameter} must be a dense tensor with values, got {kind}: save the model before it is quantised, made "
            "sparse or moved to the meta device"
        )


def match(file: Path, tensors: Mapping[str, Tensor], model: Pretrained) -> tuple[LoadReport, dict[str, Tensor]]:
    """Finds a parameter for each tensor of a file, and a tensor for each parameter.

    Returns:
        The report, with an entry for every tensor and every parameter; and the parameters' values, under our names and
        in one dtype.

    Raises:
        CheckpointError: tensors or parameters of the network are left over, or a tensor does not fit its parameter. The
            message names them.
    """
    matching = _Matching(tensors, model)
    entries: list[TensorReport] = []
    problems: list[str] = []
    for name in _canonical_names_first(tensors, matching.wrapper):
        try:
            entries.append(matching.place(name))
        except CheckpointError as problem:
            problems.append(str(problem))
    for parameter in matching.unfilled():
        try:
            entries.append(matching.start_new(parameter))
        except CheckpointError as problem:
            problems.append(str(problem))
    if not matching.filled_by and not matching.misfits:
        raise CheckpointError(f"{file} does not fit: no tensor has the name of one of a BERT. {matching.samples()}")
    if problems:
        raise CheckpointError(f"{file} does not fit: {_shorten(problems)}")
    values = {parameter: tensors[name] for parameter, name in matching.filled_by.items()}
    return LoadReport(str(file), type(model).__name__, tuple(entries)), _in_one_dtype(values, model.config.dtype)


def _canonical_names_first(names: Iterable[str], wrapper: str) -> list[str]:
    """Sorts tensors with their canonical name before others: of two for one parameter, the renamed one is the copy."""

    def is_renamed(name: str) -> bool:
        return canonical_name(name, wrapper) != name.removeprefix(wrapper).removeprefix("bert.")

    return sorted(names, key=lambda name: (is_renamed(name), name))


class _Matching:
    """Which tensor of a file fills which parameter of a model.

    Attributes:
        wrapper: what a wrapper put before the names of the file; see `names.wrapper_prefix`.
        filled_by: the parameters that are filled so far, each with the name of its tensor.
        misfits: the parameters whose tensor does not fit; they are not missing as well.
    """

    def __init__(self, tensors: Mapping[str, Tensor], model: Pretrained) -> None:
        self.tensors = tensors
        self.wrapper = wrapper_prefix(tensors)
        self.parameters = dict(model.named_parameters())
        self.full_names = {name.removeprefix("bert."): name for name in self.parameters}
        self.model_class = type(model).__name__
        self.has_decoder = hasattr(model, "masked_lm")
        self.filled_by: dict[str, str] = {}
        self.misfits: set[str] = set()

    def place(self, name: str) -> TensorReport:
        """Finds the parameter that a tensor fills; a tensor that no parameter needs is a copy of another, or ignored.

        Raises:
            CheckpointError: the tensor belongs to the network and does not fit, or differs from the one it copies.
        """
        tensor = self.tensors[name]
        parameter = self._parameter_of(name)
        if parameter is None:
            return _entry(name, None, tensor, "ignored", self._reason_to_ignore(name))
        self.misfits.add(parameter)
        _check_fit(name, tensor, self.parameters[parameter])
        self.misfits.remove(parameter)
        if parameter in self.filled_by:
            return self._second_tensor(name, parameter)
        self.filled_by[parameter] = name
        if name == checkpoint_name(parameter):
            return _entry(name, parameter, tensor, "used")
        reason = naming_scheme(name, self.wrapper) or "the base model's name without its prefix"
        return _entry(name, parameter, tensor, "renamed", reason)

    def _parameter_of(self, name: str) -> str | None:
        """The parameter that a tensor is named after, or None if this model has none of that name."""
        try:
            return self.full_names.get(parameter_name(canonical_name(name, self.wrapper)))
        except KeyError:
            return None

    def _reason_to_ignore(self, name: str) -> str:
        """Why the model can do without a tensor; a `CheckpointError` if it cannot, so that nothing is lost silently."""
        canonical = canonical_name(name, self.wrapper)
        part = _part(canonical)
        if canonical in IGNORED:
            return IGNORED[canonical]
        if part in NEEDED_PARTS:
            if ".base_layer." in name or ".lora_" in name:
                raise CheckpointError(f"{name} is of an adapter: merge it first, with PEFT's merge_and_unload()")
            raise CheckpointError(f"a {self.model_class} of this config has no parameter for {name}")
        try:
            parameter_name(canonical)
        except KeyError:
            return "no part of a BERT that minibert knows"
        if part == "pooler":
            return f"{self.model_class} has no pooler"
        return f"of a head that {self.model_class} does not have"

    def _second_tensor(self, name: str, parameter: str) -> TensorReport:
        """The entry of a tensor whose parameter is filled already: it is tied to the first tensor if it equals it."""
        tensor = self.tensors[name]
        first = self.filled_by[parameter]
        if torch.equal(tensor.nan_to_num(), self.tensors[first].nan_to_num()):  # NaN is not equal to NaN
            return _entry(name, parameter, tensor, "tied", naming_scheme(name, self.wrapper) or f"a copy of {first}")
        if "decoder" in name and not self.has_decoder:  # an untied decoder, in a model that has no use for it
            return _entry(name, None, tensor, "ignored", f"of a head that {self.model_class} does not have")
        raise CheckpointError(f"{name} and {first} are one parameter, but differ")

    def unfilled(self) -> list[str]:
        """The parameters that no tensor is named after."""
        return [name for name in self.parameters if name not in self.filled_by and name not in self.misfits]

    def samples(self, most: int = 3) -> str:
        """The first names of both sides."""
        theirs, ours = list(self.tensors)[:most], [checkpoint_name(name) for name in list(self.parameters)[:most]]
        has = ", ".join(map(cut, theirs)) or "nothing"
        return f"The file has {has}; a {self.model_class} needs {', '.join(ours)}"

    def start_new(self, parameter: str) -> TensorReport:
        """The entry of a parameter that no tensor filled: it is new if the file lacks all of the head it belongs to.

        Raises:
            CheckpointError: the rest of the head is in the file, or the parameter belongs to no head.
        """
        parts = {_part(filled) for filled in self.filled_by}
        if _part(parameter) in parts.union(NEEDED_PARTS):
            raise CheckpointError(f"{checkpoint_name(parameter)} is missing")
        return _entry(None, parameter, self.parameters[parameter], "new", "not in the file: started at random")


def _check_fit(name: str, tensor: Tensor, parameter: Tensor) -> None:
    """Raises a `CheckpointError` if a tensor cannot be the values of a parameter."""
    if tensor.shape != parameter.shape:
        raise CheckpointError(
            f"{name} must have shape {tuple(parameter.shape)} by the config, got {tuple(tensor.shape)}"
        )
    if tensor.dtype not in FLOATING_POINT:
        raise CheckpointError(f"{name} must hold floating-point numbers, got {_dtype_name(tensor)}")


def _in_one_dtype(tensors: Mapping[str, Tensor], dtype_name: str | None) -> dict[str, Tensor]:
    """Converts tensors to the dtype that a config names; if it names none, to the widest among them."""
    if dtype_name is None:
        dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))
    else:
        dtype = getattr(torch, dtype_name)
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def _part(name: str) -> str:
    """The part of a model that a tensor or parameter belongs to, such as "encoder", "pooler" or "classifier"."""
    return name.removeprefix("bert.").partition(".")[0]


def _entry(name: str | None, parameter: str | None, tensor: Tensor, status: Status, reason: str = "") -> TensorReport:
    return TensorReport(name, parameter, tuple(tensor.shape), _dtype_name(tensor), status, reason)


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shorten(problems: Sequence[str], most: int = 4) -> str:
    rest = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(cut(problem) for problem in problems[:most]) + rest
