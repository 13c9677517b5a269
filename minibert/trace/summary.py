"""Where are a model's parameters?

`print(count_parameters(model))` shows each part of a model, the modules in it, and the shapes and numbers of their
parameters.
"""

from dataclasses import dataclass

from torch import nn

from minibert.model import BertModel, Encoder
from minibert.show.tables import table


@dataclass(frozen=True)
class ModuleParameters:
    """The parameters that one module holds itself, not those of the modules inside it."""

    name: str  # inside its part: "attention.query"; of the part's own parameters, their names: "weight, bias"
    shapes: tuple[tuple[int, ...], ...]
    count: int


@dataclass(frozen=True)
class PartParameters:
    """The parameters of one part: the embeddings, the pooler, a head, or an encoder layer."""

    name: str
    copies: int  # the number of layers for an encoder whose layers are alike; 1 for every other part
    count: int  # of one copy
    modules: tuple[ModuleParameters, ...]


@dataclass(frozen=True)
class ParameterCounts:
    """The parameters of a model, part by part; `print` it for a table."""

    total: int
    parts: tuple[PartParameters, ...]

    def __str__(self) -> str:
        rows = [["part", "shapes", "parameters"]]
        for part in self.parts:
            name = part.name if part.copies == 1 else f"{part.name}: {part.copies} layers, each"
            rows.append([name, "", f"{part.count:,}"])
            for module in part.modules:
                shapes = " + ".join(" × ".join(map(str, shape)) for shape in module.shapes)
                rows.append([f"  {module.name}", shapes, f"{module.count:,}"])
        return table([*rows, ["total", "", f"{self.total:,}"]], right=(2,))


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Counts the parameters of a `BertModel`, of a model with a head, or of a `SentenceEncoder`, part by part.

    A parameter that two modules share counts once in the total.
    """
    parts: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if isinstance(child, BertModel):  # inside a head or an encoder
            parts.update(child.named_children())
        else:
            parts[name] = child
    parts = {name: part for each, module in parts.items() for name, part in _split(each, module).items()}
    return ParameterCounts(
        total=_count(model),
        parts=tuple(_part(name, part) for name, part in parts.items() if _count(part)),
    )


def _split(name: str, part: nn.Module) -> dict[str, nn.Module]:
    """An encoder's layers, each a part of its own, if some heads of some layers are pruned; or the part itself."""
    if not isinstance(part, Encoder) or len({_count(layer) for layer in part.layers}) == 1:
        return {name: part}
    return {f"{name}, layer {number}": layer for number, layer in enumerate(part.layers)}


def _part(name: str, part: nn.Module) -> PartParameters:
    copies = 1
    if isinstance(part, Encoder):
        copies, part = len(part.layers), part.layers[0]
    modules = []
    for module_name, module in part.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if own:
            shapes = tuple(tuple(parameter.shape) for parameter in own.values())
            count = sum(parameter.numel() for parameter in own.values())
            modules.append(ModuleParameters(module_name or ", ".join(own), shapes, count))
    return PartParameters(name, copies, _count(part), tuple(modules))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
