"""How does one draw a matrix, attention, a quantity layer by layer, a map of vectors?

Each function returns a `Picture`, a matplotlib figure that a notebook shows as SVG; `savefig` writes it to a file.
Every label is shown as the text that it is: a `$` begins no formula, and invisible characters appear as escapes.
Colour-blind readers can distinguish the colours, and on a dark page a picture keeps its white background.
"""

import io
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from minibert.checks import check_integer, shown
from minibert.errors import InputError, MissingPackageError
from minibert.show.tables import visible

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingPackageError(
        f"pictures need matplotlib, which cannot be imported ({error}): pip install matplotlib"
    ) from error

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]  # Okabe and Ito 2008
MARKERS = "osD^vPX*"
LARGEST = 1e100
MAX_SIZE_WITH_VALUES = 16  # a matrix with more rows or columns shows colours only
# SVG text remains text, and ids do not vary: the same picture is the same bytes.
MAX_SIDE = 200  # inches: a PNG of matplotlib has at most 65,536 pixels a side, and 300 are usual for an inch
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "minibert", "font.size": 9, "axes.titlesize": 10}
LITERAL: Any = {"parse_math": False, "usetex": False}  # for every label: otherwise "$5 or $6" is a formula


class Picture(Figure):
    """A figure that a notebook shows as SVG."""

    def _repr_svg_(self) -> str:
        text = io.StringIO()
        with rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)  # the reader's fonts count, not matplotlib's
            self.savefig(text, format="svg", metadata={"Date": None}, bbox_inches="tight")
        return text.getvalue()

    def _repr_html_(self) -> None:
        return None


def plot_matrix(
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str] | None = None,
    *,
    title: str = "",
    limits: tuple[float, float] | None = None,
) -> Picture:
    """Draws a heatmap with labels, and with its values if the matrix is small enough for them to be read.

    Args:
        values: (N, M), a tensor or anything that `torch.as_tensor` accepts.
        rows: N labels.
        columns: M labels; None means those of the rows.
        title: the text above the picture.
        limits: the values of the darkest and the lightest colour; None means the smallest and the largest value.

    Raises:
        InputError: values that are not finite real numbers (N, M), a different number of labels, or invalid limits.
    """
    values = _numbers("values", values, 2)
    height, width = values.shape
    rows = _labels("rows", rows, height)
    columns = _labels("columns", rows if columns is None else columns, width)
    low, high = _limits(values, limits)
    size = 0.52 if max(height, width) <= MAX_SIZE_WITH_VALUES else 0.22
    figure, axes = _new_figure(1.6 + size * width, 0.9 + size * height)
    axes.imshow(values.numpy(), cmap="cividis", vmin=low, vmax=high)
    axes.set_yticks(range(height), rows, **LITERAL)
    if max(height, width) <= MAX_SIZE_WITH_VALUES:
        axes.set_xticks(range(width), columns, rotation=45, ha="right", **LITERAL)
        _write_values(axes, values, low, high)
    else:
        axes.set_xticks(range(width), columns, rotation=90, ha="center", **LITERAL)
        axes.tick_params(labelsize=7)
    axes.set_title(_text("title", title), **LITERAL)
    return figure


def plot_attention(probabilities: Any, tokens: Sequence[str], head: int | None = None, *, title: str = "") -> Picture:
    """Draws which token attends to which: each row is a query, and its attention to the keys sums to 1.

    Args:
        probabilities: (H, S, S) of one text and layer, or (1, H, S, S) as a model returns it, or (S, S).
        tokens: S labels.
        head: draws only this head, counted from 0, with its values; None means all heads side by side.
        title: the text above the picture.

    Raises:
        InputError: values that are not finite real numbers of such a shape, a different number of labels, or an unknown
            head.
    """
    values = _as_tensor("probabilities", probabilities)
    if values.dim() == 4 and len(values) == 1:
        values = values[0]
    values = _numbers("probabilities", values[None] if values.dim() == 2 else values, 3)
    heads, queries, keys = values.shape
    tokens = _labels("tokens", tokens, queries)
    if keys != queries:
        raise InputError(f"probabilities must be (H, S, S), got {tuple(values.shape)}: of one text and one layer")
    if head is not None:
        head = check_integer("head", head, 0, heads - 1)
    if head is not None or heads == 1:
        return plot_matrix(values[head or 0], tokens, title=title, limits=(0, 1))
    columns = min(4, heads)
    rows = math.ceil(heads / columns)
    side = max(1.7, 0.17 * len(tokens))
    figure = _new_picture(columns * side + 1, rows * side + 0.8)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= heads:  # the last row may have fewer heads
            axes.axis("off")
            continue
        axes.imshow(values[number].numpy(), cmap="cividis", vmin=0, vmax=1)
        axes.set_title(f"head {number}")
        font_size = 7 if len(tokens) <= 12 else 5
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=font_size, **LITERAL)
        axes.set_yticks(range(len(tokens)), tokens, fontsize=font_size, **LITERAL)
    figure.suptitle(_text("title", title), **LITERAL)
    return figure


def plot_layers(lines: Mapping[str, Any], *, quantity: str = "", title: str = "", first: int = 0) -> Picture:
    """Draws a quantity layer by layer, as one or several lines.

    Args:
        lines: for each label its values, at the embeddings and after each layer.
        quantity: the label of the vertical axis, with the unit.
        title: the text above the picture.
        first: the layer of the first value; 0 is the embeddings.

    Raises:
        InputError: lines that are not finite real numbers, or of different lengths; no lines, or more than colours.
    """
    if not isinstance(lines, Mapping):
        raise InputError(f"lines must be a dict from labels to values, got {type(lines).__name__}")
    names = _labels("lines", list(lines), len(lines))
    values = [_numbers(f"lines[{shown(label)}]", line, 1) for label, line in lines.items()]
    check_integer("first", first, 0)
    lengths = {len(line) for line in values}
    if len(lengths) != 1 or len(values) > len(COLOURS):
        raise InputError(
            f"lines must be 1 to {len(COLOURS)} of the same length, got {len(values)} of lengths {sorted(lengths)}"
        )
    (length,) = lengths
    figure, axes = _new_figure(6.2, 3.3)
    layers = range(first, first + length)
    for line, colour, marker in zip(values, COLOURS, MARKERS, strict=False):
        axes.plot(layers, line, color=colour, marker=marker, markersize=5)
    axes.set_xticks(layers, map(str, layers))
    axes.set_xlabel("layer (0: the embeddings)" if first == 0 else "layer")
    axes.set_ylabel(_text("quantity", quantity), **LITERAL)
    axes.set_title(_text("title", title), **LITERAL)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if names != [""]:
        _draw_legend(axes, axes.lines, names)
    return figure


def plot_bars(values: Any, labels: Sequence[str], *, quantity: str = "", title: str = "") -> Picture:
    """Draws one horizontal bar for each value, the first on top: positive ones in one colour, negative ones in another.

    Args:
        values: (N,).
        labels: N labels.
        quantity: the label of the horizontal axis, with the unit.
        title: the text above the picture.

    Raises:
        InputError: values that are not finite real numbers (N,), or a different number of labels.
    """
    numbers = _numbers("values", values, 1)
    labels = _labels("labels", labels, len(numbers))
    figure, axes = _new_figure(6.2, 0.9 + 0.22 * len(labels))
    colours = [COLOURS[0] if number >= 0 else COLOURS[1] for number in numbers.tolist()]
    axes.barh(range(len(labels)), numbers.tolist(), color=colours)
    axes.set_yticks(range(len(labels)), labels, **LITERAL)
    axes.invert_yaxis()
    axes.axvline(0, color="#000000", linewidth=0.6)
    axes.set_xlabel(_text("quantity", quantity), **LITERAL)
    axes.set_title(_text("title", title), **LITERAL)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_map(vectors: Any, labels: Sequence[str], groups: Sequence[str] | None = None, *, title: str = "") -> Picture:
    """Draws vectors as points in the plane of their first two principal components, which keeps the most variance.

    Args:
        vectors: (N, D), N at least 2.
        labels: N labels, one beside each point.
        groups: the group of each of the N points; points of a group have the same colour and shape.
        title: the text above the picture.

    Raises:
        InputError: vectors that are not finite real numbers, or fewer than 2; a different number of labels or groups,
            or more groups than colours.
    """
    values = _numbers("vectors", vectors, 2)
    if len(values) < 2:
        raise InputError(f"vectors must be at least 2, got {len(values)}")
    labels = _labels("labels", labels, len(values))
    groups = _labels("groups", [""] * len(values) if groups is None else groups, len(values))
    names = list(dict.fromkeys(groups))
    if len(names) > len(COLOURS):
        raise InputError(f"groups must have at most {len(COLOURS)} different names, got {len(names)}")
    points, shares = principal_components(values)
    figure, axes = _new_figure(6.4, 4.4)
    for name, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
        members = [index for index, group in enumerate(groups) if group == name]
        axes.scatter(points[members, 0], points[members, 1], color=colour, marker=marker, s=28)
    for label, (x, y) in zip(labels, points.tolist(), strict=True):
        axes.annotate(label, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8, **LITERAL)
    axes.set_xlabel(f"first component, {shares[0]:.0%} of the variance")
    axes.set_ylabel(f"second component, {shares[1]:.0%}")
    axes.margins(0.18, 0.12)
    axes.set_title(_text("title", title), **LITERAL)
    axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        _draw_legend(axes, axes.collections, names)
    return figure


def principal_components(vectors: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Returns the first two principal components, (N, D) → (N, 2) float64, and their shares of the variance.

    The sign of a component is arbitrary: here its largest coordinate, by absolute value, is positive.

    Raises:
        InputError: vectors that are not finite real numbers (N, D).
    """
    values = _numbers("vectors", vectors, 2)
    centred = values - values.mean(dim=0)
    left, singular, _ = torch.linalg.svd(centred, full_matrices=False)
    left, singular = (torch.nn.functional.pad(each, (0, 2)) for each in (left, singular))  # one dimension has only one
    points = (left * singular)[:, :2]
    largest = points.gather(0, points.abs().argmax(dim=0, keepdim=True))
    variance = (singular / singular.max().clamp_min(torch.finfo(singular.dtype).tiny)).square()  # no square underflows
    shares = (variance[:2] / variance.sum().clamp_min(1)).tolist()  # at least 1, unless all vectors are equal
    return points * torch.where(largest < 0, -1.0, 1.0), (shares[0], shares[1])


def _as_tensor(name: str, values: Any) -> Tensor:
    try:
        # Numbers of Python are float64, of which PyTorch would make float32.
        dtype = torch.float64 if isinstance(values, list | tuple) else None
        tensor = torch.as_tensor(values, dtype=dtype).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{name} must be real numbers of one shape, got {shown(values)}") from error
    if tensor.is_complex() or tensor.is_quantized or tensor.is_meta or tensor.layout != torch.strided:
        kind = "meta" if tensor.is_meta else f"{tensor.dtype} {tensor.layout}".replace("torch.", "")
        raise InputError(f"{name} must be a dense tensor of real numbers, got one of {kind}: convert it first")
    return tensor


def _numbers(name: str, values: Any, dimensions: int) -> Tensor:
    """The values as float64 on the CPU, after validation."""
    numbers = _as_tensor(name, values).cpu().double()
    if numbers.dim() != dimensions or not numbers.numel():
        what = "1 dimension" if dimensions == 1 else f"{dimensions} dimensions"
        raise InputError(f"{name} must have {what} and at least one number, got shape {tuple(numbers.shape)}")
    # Squares of larger numbers overflow in float64; float32 has none of them.
    unusable = ~(numbers.abs() <= LARGEST)
    if unusable.any():
        index = tuple(unusable.nonzero()[0].tolist())
        raise InputError(
            f"{name} must be finite numbers of at most {LARGEST:.0e}, got {numbers[index].item()} at index {index}: "
            "leave it out, or find out where it comes from"
        )
    return numbers


def _limits(values: Tensor, limits: Any) -> tuple[float, float]:
    if limits is None:
        return values.min().item(), values.max().item()
    pair = _numbers("limits", limits, 1).tolist()
    if len(pair) != 2 or pair[0] > pair[1]:
        raise InputError(f"limits must be the smallest and the largest value, got {shown(limits)}")
    return pair[0], pair[1]


def _labels(name: str, labels: Any, count: int) -> list[str]:
    """The labels as they are drawn, after validation."""
    if isinstance(labels, str | bytes | set | frozenset) or not isinstance(labels, Collection):
        raise InputError(f"{name} must be a list of {count} labels, got {shown(labels)}")
    if len(labels) != count:
        raise InputError(f"{name} must be a list of {count} labels, got {len(labels)}")
    for index, label in enumerate(labels):
        if not isinstance(label, str):
            raise InputError(f"{name}[{index}] must be a string, got {shown(label)}: pass str(...) of it")
    return [visible(label) for label in labels]


def _text(name: str, text: Any) -> str:
    """A title or the label of an axis as it is drawn; it may have several lines."""
    if not isinstance(text, str):
        raise InputError(f"{name} must be a string, got {shown(text)}: pass str(...) of it")
    return "\n".join(map(visible, text.split("\n")))


def _new_picture(width: float, height: float) -> Picture:
    return Picture(figsize=(min(width, MAX_SIDE), min(height, MAX_SIDE)), facecolor="white", layout="constrained")


def _new_figure(width: float, height: float) -> tuple[Picture, Axes]:
    figure = _new_picture(width, height)
    return figure, figure.add_subplot()


def _draw_legend(axes: Axes, drawn: Any, names: list[str]) -> None:
    # matplotlib leaves out names that begin with "_", and takes no LITERAL: each name is set afterwards.
    legend = axes.legend(list(drawn), ["name"] * len(names), frameon=False)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, **LITERAL)


def _write_values(axes: Axes, values: Tensor, low: float, high: float) -> None:
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            is_light = (value - low) > 0.55 * (high - low)  # the colour behind the number
            colour = "k" if is_light else "w"
            text = f"{value:.2f}" if abs(value) < 10_000 else f"{value:.0e}"
            text = "0.00" if text == "-0.00" else text
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour)
