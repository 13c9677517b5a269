"""Is it really equal to transformers?

A certificate says so, for one checkpoint, value by value: minibert and `transformers` each load the same file, compute
the same inputs, and every named value of both is compared: bit for bit, and where that fails by how much, and whether
float64 calls it rounding or a bug. It names the files by their sha256, the versions, the machine and its threads, for
all of these decide the last bit.

With `gradients=True` the backward pass is compared as well: the gradients of one number, a fixed function of what the
model returns, with respect to each of these values and to each parameter. With `training=True` both sides also take a
few steps of training, which `training_pair` explains.
"""

import json
import os
import platform
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minibert.checkpoints import layout, store
from minibert.checkpoints.names import checkpoint_name, parameter_name
from minibert.checks import check_one_of
from minibert.config import BertConfig
from minibert.errors import ConfigError, MissingPackageError
from minibert.model import BertModel
from minibert.show.tables import table
from minibert.trace.compare import example_inputs, in_float64, is_close, max_difference, max_ulps, rounding_noise
from minibert.trace.recording import record
from minibert.trace.training_pair import STEPS, TrainingPair, training_class
from minibert.trace.values import VALUES, short_name, value_names

Pair = tuple[Tensor, Tensor]  # ours, theirs
GRADIENT = "gradient of "  # before the name of what it is with respect to


@dataclass(frozen=True)
class Line:
    """One named value, over all inputs.

    Args:
        value: its name in `record`, or "gradient of" that name or a parameter's; of training, "step 1: loss", "step 1:
            gradient of" a parameter, or "after step 5:" a parameter. "encoder.layers.*." stands for all layers.
        attention: by which attention, "eager" or "sdpa".
        equal: is every number the same, to the last bit?
        difference: the largest difference.
        ulps: the largest distance of two numbers, counted in the float32 numbers between them; near 0 it is soon large.
        verdict: "equal"; else "rounding" or "bug", by what is left of the difference in float64.
    """

    value: str
    attention: str
    equal: bool
    difference: float
    ulps: int
    verdict: str


@dataclass(frozen=True)
class Certificate:
    """What was compared, where, and what came out. `print` it for a table.

    `first` is the first value that is not equal, with its layer's number; None if all are. Gradients come after the
    values and in the order computed, from the output to the embeddings; then what training gave, step by step.
    """

    name: str
    reference: str
    files: dict[str, str]
    versions: dict[str, str]
    machine: str
    threads: int
    inputs: list[str]
    lines: list[Line]
    first: str | None

    @property
    def equal(self) -> bool:
        """Is every value equal, to the last bit?"""
        return all(line.equal for line in self.lines)

    def to_json(self) -> str:
        """All of it, for keeping."""
        return json.dumps({**asdict(self), "equal": self.equal}, indent=2)

    def to_markdown(self) -> str:
        """The table with all that decides it, for keeping."""
        head, *rows = self._rows()
        lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
        files = [f"- `{file}` {digest}" for file, digest in self.files.items()]
        return "\n".join([f"# {self.name}: {self.summary()}", "", *lines, "", *files, "", self._conditions(), ""])

    def summary(self) -> str:
        """The outcome in a line."""
        wrong = [line for line in self.lines if not line.equal]
        if not wrong:
            return f"all {len(self.lines)} values equal to {self.reference}, to the last bit"
        return f"{len(wrong)} of {len(self.lines)} values differ from {self.reference}, the first is {self.first}"

    def _rows(self) -> list[list[str]]:
        """One row for each value, with eager and sdpa side by side."""
        by_value: dict[str, dict[str, Line]] = {}
        for line in self.lines:
            by_value.setdefault(line.value, {})[line.attention] = line
        kinds = list(dict.fromkeys(line.attention for line in self.lines))
        rows = [["value", *kinds]]
        for value, lines in by_value.items():
            rows.append([value, *(_words(lines.get(kind)) for kind in kinds)])
        return rows

    def _conditions(self) -> str:
        versions = ", ".join(f"{package} {version}" for package, version in self.versions.items())
        return f"{versions}; {self.machine}, {self.threads} threads; inputs: {', '.join(self.inputs)}"

    def __str__(self) -> str:
        return f"{table(self._rows())}\n\n{self.name}: {self.summary()}\n{self._conditions()}"


@torch.inference_mode(False)  # a caller's would leave no gradients
def verify(
    name_or_folder: str | os.PathLike[str] = store.DEFAULT, *, gradients: bool = False, training: bool = False
) -> Certificate:
    """Compares a checkpoint's BERT with that of `transformers`, value by value, by eager attention and by sdpa.

    Args:
        name_or_folder: as for `BertModel.from_pretrained`.
        gradients: also compares the gradients with respect to each value and each parameter.
        training: also trains both for five steps with dropout, on random batches, with all the heads that the
            checkpoint has, or a new masked-language-model head if it has none; and compares the loss of each step, each
            parameter's gradient in the first and each parameter after the last.

    Raises:
        InputError: `gradients` or `training` is neither True nor False.
        MissingPackageError: transformers is not installed.
        ConfigError: relative positions, which transformers 5 does not compute.
        Other errors as `BertModel.from_pretrained`.
    """
    check_one_of("gradients", gradients, (True, False))
    check_one_of("training", training, (True, False))
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError("verify compares with transformers: pip install 'transformers>=5.23'") from error

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    folder = store.resolve(name_or_folder)
    ours = {kind: BertModel.from_pretrained(folder, attention=kind) for kind in ("eager", "sdpa")}
    _check_reference(name_or_folder, ours["eager"].config)
    inputs = list(cases(ours["eager"]))
    lines: list[Line] = []
    first: str | None = None
    for kind, model in ours.items():
        theirs = _load_theirs(folder, model, kind)
        more, wrong = _compare(model, theirs, kind, gradients)
        lines, first = lines + more, first or wrong
        if training:
            pair = TrainingPair.load(folder, kind)
            more, wrong = _lines([pair.values()], kind, pair.bugs)
            lines, first = lines + more, first or wrong
    if training:
        inputs.append(f"{STEPS} random batches for {training_class(folder).__name__}")
    files = [file for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".bin")]
    files.append(folder / layout.CONFIG)
    return Certificate(
        name=str(name_or_folder),
        reference=f"transformers {transformers.__version__}",
        files={file.name: store.sha256(file) for file in files},
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
        machine=f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        threads=torch.get_num_threads(),
        inputs=inputs,
        lines=lines,
        first=first,
    )


def _check_reference(name: str | os.PathLike[str], config: BertConfig) -> None:
    """Raises a `ConfigError` for a network that the installed transformers does not compute."""
    if config.position_embedding_type != "absolute":
        raise ConfigError(
            f"{name} has {config.position_embedding_type} positions, which transformers 5 silently "
            "ignores: the reference for these is transformers 4.57.6, see tests/equality/test_relative.py"
        )
    if config.pruned_heads:
        raise ConfigError(
            f"{name} has pruned heads, which transformers 5 cannot load: the reference for these is "
            "transformers 4.57.6, see tests/equality/test_head_masks.py"
        )


def _load_theirs(folder: Path, model: BertModel, attention: str) -> nn.Module:
    """Loads transformers' model, and copies the parameters of both.

    A file's tensors may lie anywhere in memory, and a product rounds by where: copies lie alike on both sides.
    """
    import transformers

    theirs = transformers.BertModel.from_pretrained(
        folder, attn_implementation=attention, add_pooling_layer=model.pooler is not None
    ).eval()
    for parameter in [*model.parameters(), *theirs.parameters()]:
        parameter.data = parameter.data.clone()
    return theirs


def cases(model: BertModel) -> dict[str, dict[str, Tensor]]:
    """The inputs that are compared: fixed, and varied."""
    config = model.config
    longest = config.max_position_embeddings
    batch = example_inputs(model)
    generator = torch.Generator().manual_seed(0)
    long = torch.randint(config.vocab_size, (1, longest), generator=generator)
    edges = torch.tensor([[0, config.vocab_size - 1, 0, config.vocab_size // 2, config.vocab_size - 1]])
    return {
        "a single text": {"input_ids": batch["input_ids"][:1]},
        "a padded batch with a pair": batch,
        "padding on the left": {name: tensor.flip(1) for name, tensor in batch.items()},
        f"{longest} tokens": {"input_ids": long},
        "the first and last ids": {"input_ids": edges[:, :longest]},
        "one token": {"input_ids": edges[:, :1]},
    }


def _compare(ours: BertModel, theirs: nn.Module, attention: str, gradients: bool) -> tuple[list[Line], str | None]:
    """A line for each value, over all inputs; and the first single value that is not equal."""
    found = (_both(ours, theirs, attention, inputs, gradients) for inputs in cases(ours).values())
    return _lines(found, attention, partial(_bugs, ours, theirs, attention, gradients))


def _lines(
    pairs: Iterable[dict[str, Pair]], attention: str, find_bugs: Callable[[], set[str]]
) -> tuple[list[Line], str | None]:
    """A line for each value, the layers taken together; and the first single value that is not equal.

    `find_bugs` returns the values that differ by more than rounding, and is called only if some are not equal.
    """
    found: dict[str, list[tuple[float, int]]] = {}  # of all inputs that have the value, its difference and its ULPs
    wrong: dict[str, None] = {}
    for of_one_input in pairs:
        for name, pair in of_one_input.items():
            equal = torch.equal(*pair)
            found.setdefault(name, []).append((0.0, 0) if equal else (max_difference(*pair), max_ulps(*pair)))
            if not equal:
                wrong[name] = None
    bugs = find_bugs() if wrong else set()
    lines = []
    for value, together in _layers_together(list(found)).items():
        differences, ulps = zip(*(each for name in together for each in found[name]), strict=True)
        equal = wrong.keys().isdisjoint(together)
        verdict = "equal" if equal else "rounding" if bugs.isdisjoint(together) else "bug"
        lines.append(Line(value, attention, equal, max(differences), max(ulps), verdict))
    return lines, next((name for name in found if name in wrong), None)


def _layers_together(names: list[str]) -> dict[str, list[str]]:
    """The names of all layers under one: "encoder.layers.*.attention.query"."""
    together: dict[str, list[str]] = {}
    for name in names:
        together.setdefault(re.sub(r"\.layers\.\d+\.", ".layers.*.", name), []).append(name)
    return together


def _bugs(ours: BertModel, theirs: nn.Module, attention: str, gradients: bool) -> set[str]:
    """The values that differ by more than rounding: in float64, where a bug stays as large as it was."""
    found = set()
    with in_float64(ours, theirs):
        for inputs in cases(ours).values():
            both = _both(ours, theirs, attention, inputs, gradients)
            names = [name for name in both if not name.startswith(GRADIENT)]
            noise = rounding_noise(ours, partial(_ours, ours, inputs, names, gradients), torch.float64)
            found |= {name for name, pair in both.items() if not is_close(*pair, noise[name])}
    return found


def _both(ours: BertModel, theirs: Any, attention: str, inputs: dict[str, Tensor], gradients: bool) -> dict[str, Pair]:
    """Each value that both sides have, ours and theirs, in the order computed; then each gradient."""
    reference: dict[str, Tensor] = {}
    with torch.set_grad_enabled(gradients), ExitStack() as stack:
        for name in value_names(ours):
            module = _module_of(theirs, name)
            if module is not None:
                stack.callback(_listen(module, name, reference).remove)
        out = theirs(**inputs, output_attentions=attention == "eager")
        for number, probabilities in enumerate(out.attentions or ()):
            reference[f"encoder.layers.{number}.attention.probabilities"] = probabilities
    reference |= _outputs(out)
    parameters = {parameter_name(name): each for name, each in theirs.named_parameters()} if gradients else {}
    found = _ours(ours, inputs, list(reference), gradients)
    if gradients:
        in_order = {name: reference[name] for name in found if name in reference}
        reference |= _gradients(out, in_order, parameters)
    return {name: (value, reference[name].detach()) for name, value in found.items()}


def _outputs(out: Any) -> dict[str, Tensor]:
    """What a model of either side returns, by name."""
    outputs = {"last_hidden_state": out.last_hidden_state, "pooler_output": out.pooler_output}
    return {name: value for name, value in outputs.items() if value is not None}


def _ours(model: BertModel, inputs: dict[str, Tensor], wanted: list[str], gradients: bool) -> dict[str, Tensor]:
    """Our values of these names, in the shapes that transformers has, and the gradients."""
    known = value_names(model)
    with torch.set_grad_enabled(gradients):
        out = model(**inputs)  # without hooks: what a user gets
        with record(model, [name for name in wanted if name in known]) as trace:
            recorded = model(**inputs)
    values = dict(trace) | _outputs(out)
    if gradients:
        of_values = _gradients(recorded, dict(trace) | _outputs(recorded), {})
        values |= of_values | _gradients(out, {}, dict(model.named_parameters()))
    return {name: _as_theirs(name, value.detach()) for name, value in values.items()}


def _as_theirs(name: str, value: Tensor) -> Tensor:
    """A value, or its gradient, in the shape that transformers has: there query, key and value are not yet split."""
    if value.dim() == 4 and not name.endswith("probabilities"):
        return value.transpose(1, 2).flatten(2)  # (B, H, S, W) → (B, S, D)
    return value


def _gradients(out: Any, values: dict[str, Tensor], parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of one number with respect to values and parameters, in the order of the backward pass.

    The number is a random projection of all that the model returns, the same on both sides. What it does not depend on,
    such as a table of positions that is not used, has the gradient 0.
    """
    generator = torch.Generator().manual_seed(0)
    number = torch.zeros((), dtype=out.last_hidden_state.dtype)
    for output in _outputs(out).values():
        number = number + (torch.randn(output.shape, generator=generator).to(output) * output).sum()
    of = dict(reversed(values.items())) | dict(reversed(parameters.items()))
    found = torch.autograd.grad(number, list(of.values()), materialize_grads=True)
    return {f"{GRADIENT}{name}": gradient for name, gradient in zip(of, found, strict=True)}


def _module_of(theirs: nn.Module, name: str) -> nn.Module | None:
    """The module of transformers' model that reads or returns a value; None for a step inside attention."""
    if name == "pooler.tanh":
        return theirs.get_submodule("pooler")
    short = short_name(name)
    module = VALUES[short].module
    if VALUES[short].side == "inside":  # query, key and value come from a module each, and the output reads the context
        module = "attention.output" if short == "attention.context" else short
    try:
        weight = checkpoint_name(f"{name.removesuffix(short)}{module}.weight")
    except KeyError:
        return None
    return theirs.get_submodule(weight.removesuffix(".weight"))


def _listen(module: nn.Module, name: str, values: dict[str, Tensor]) -> RemovableHandle:
    """Keeps what a module reads, or what it returns, whichever has this name."""

    def read(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        values[name] = arguments[0]

    def returned(_: nn.Module, arguments: tuple[Tensor, ...], value: Tensor) -> None:
        values[name] = value

    short = short_name(name)
    if VALUES[short].side == "input" or short == "attention.context":
        return module.register_forward_pre_hook(read)
    return module.register_forward_hook(returned)


def _words(line: Line | None) -> str:
    if line is None:
        return "not formed"
    return "equal" if line.equal else f"{line.verdict}: {line.difference:.1e}, {line.ulps:,} ULP"
