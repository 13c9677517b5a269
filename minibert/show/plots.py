"""How does one draw a matrix, attention, a quantity layer by layer, a map of vectors?

Each function returns a `Picture`, a matplotlib figure that a notebook shows as SVG; `savefig` writes it to a file.
Colour-blind readers can distinguish the colours, and on a dark page a picture keeps its white background.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from minibert.checks import check_integer
from minibert.errors import InputError, MissingPackageError

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingPackageError(
        f"pictures need matplotlib, which cannot be imported ({error}): install matplotlib, or minibert's extra "
        "'plots' from a checkout: pip install -e '.[plots]'"
    ) from error

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]  # Okabe and Ito 2008
MARKERS = "osD^vPX*"
MAX_SIZE_WITH_VALUES = 16  # a matrix with more rows or columns shows colours only
# SVG text remains text, and ids do not vary: the same picture is the same bytes.
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "minibert", "font.size": 9, "axes.titlesize": 10}


class Picture(Figure):
    """A figure that a notebook shows as SVG."""

    def _repr_svg_(self) -> str:
        text = io.StringIO()
        with rc_context(STYLE):
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
        InputError: values of a different shape, or a different number of labels.
    """
    values = _numbers("values", values, 2)
    columns = rows if columns is None else columns
    height, width = values.shape
    _check_labels("rows", rows, height)
    _check_labels("columns", columns, width)
    size = 0.52 if max(height, width) <= MAX_SIZE_WITH_VALUES else 0.22
    figure, axes = _new_figure(1.6 + size * width, 0.9 + size * height)
    _draw_heatmap(axes, values, rows, columns, limits)
    axes.set_title(title)
    return figure


def plot_attention(probabilities: Any, tokens: Sequence[str], head: int | None = None, *, title: str = "") -> Picture:
    """Draws which token attends to which: each row is a query, and its attention to the keys sums to 1.

    Args:
        probabilities: (H, S, S) of one text and layer, or (1, H, S, S) as a model returns it, or (S, S).
        tokens: S labels.
        head: draws only this head, counted from 0, with its values; None means all heads side by side.
        title: the text above the picture.

    Raises:
        InputError: a different shape or number of labels, or an unknown head.
    """
    values = torch.as_tensor(probabilities).detach()
    if values.dim() == 4 and len(values) == 1:
        values = values[0]
    values = _numbers("probabilities", values[None] if values.dim() == 2 else values, 3)
    heads, queries, keys = values.shape
    _check_labels("tokens", tokens, queries)
    _check_labels("tokens", tokens, keys)
    if head is not None:
        head = check_integer("head", head, 0, heads - 1)
    if head is not None or heads == 1:
        return plot_matrix(values[head or 0], tokens, title=title, limits=(0, 1))
    columns = min(4, heads)
    rows = math.ceil(heads / columns)
    side = max(1.7, 0.17 * len(tokens))
    figure = Picture(figsize=(columns * side + 1, rows * side + 0.8), facecolor="white", layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= heads:  # the last row may have fewer heads
            axes.axis("off")
            continue
        axes.imshow(values[number].numpy(), cmap="cividis", vmin=0, vmax=1)
        axes.set_title(f"head {number}")
        font_size = 7 if len(tokens) <= 12 else 5
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=font_size)
        axes.set_yticks(range(len(tokens)), tokens, fontsize=font_size)
    figure.suptitle(title)
    return figure


def plot_layers(lines: Mapping[str, Any], *, quantity: str = "", title: str = "", first: int = 0) -> Picture:
    """Draws a quantity layer by layer, as one or several lines.

    Args:
        lines: for each label its values, at the embeddings and after each layer.
        quantity: the label of the vertical axis, with the unit.
        title: the text above the picture.
        first: the layer of the first value; 0 is the embeddings.

    Raises:
        InputError: lines of different lengths, no lines, or more lines than colours.
    """
    values = {label: _numbers(f"lines[{label!r}]", line, 1) for label, line in lines.items()}
    lengths = {len(line) for line in values.values()}
    if len(lengths) != 1 or len(values) > len(COLOURS):
        raise InputError(
            f"lines must be 1 to {len(COLOURS)} of the same length, got {len(values)} of lengths {sorted(lengths)}"
        )
    (length,) = lengths
    figure, axes = _new_figure(6.2, 3.3)
    layers = range(first, first + length)
    for (label, line), colour, marker in zip(values.items(), COLOURS, MARKERS, strict=False):
        axes.plot(layers, line, color=colour, marker=marker, markersize=5, label=label)
    axes.set_xticks(layers, map(str, layers))
    axes.set_xlabel("layer (0: the embeddings)" if first == 0 else "layer")
    axes.set_ylabel(quantity)
    axes.set_title(title)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(values) > 1 or "" not in values:
        axes.legend(frameon=False)
    return figure


def plot_map(vectors: Any, labels: Sequence[str], groups: Sequence[str] | None = None, *, title: str = "") -> Picture:
    """Draws vectors as points in the plane of their first two principal components, which keeps the most variance.

    Args:
        vectors: (N, D), N at least 2.
        labels: N labels, one beside each point.
        groups: the group of each of the N points; points of a group have the same colour and shape.
        title: the text above the picture.

    Raises:
        InputError: a different number of labels or groups, fewer than 2 vectors, or more groups than colours.
    """
    values = _numbers("vectors", vectors, 2)
    if len(values) < 2:
        raise InputError(f"vectors must be at least 2, got {len(values)}")
    groups = [""] * len(values) if groups is None else groups
    if not len(labels) == len(groups) == len(values):
        raise InputError(
            f"labels and groups must be one for each of the {len(values)} vectors, got {len(labels)} and {len(groups)}"
        )
    names = list(dict.fromkeys(groups))
    if len(names) > len(COLOURS):
        raise InputError(f"groups must have at most {len(COLOURS)} different names, got {len(names)}")
    points, shares = principal_components(values)
    figure, axes = _new_figure(6.4, 4.4)
    for name, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
        members = [index for index, group in enumerate(groups) if group == name]
        axes.scatter(points[members, 0], points[members, 1], color=colour, marker=marker, s=28, label=name)
    for label, (x, y) in zip(labels, points.tolist(), strict=True):
        axes.annotate(label, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(f"first component, {shares[0]:.0%} of the variance")
    axes.set_ylabel(f"second component, {shares[1]:.0%}")
    axes.margins(0.18, 0.12)
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        axes.legend(frameon=False)
    return figure


def principal_components(vectors: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Returns the first two principal components, (N, D) → (N, 2), and their shares of the variance.

    The sign of a component is arbitrary: here its largest coordinate, by absolute value, is positive.
    """
    centred = vectors - vectors.mean(dim=0)
    left, singular, _ = torch.linalg.svd(centred, full_matrices=False)
    left, singular = (torch.nn.functional.pad(each, (0, 2)) for each in (left, singular))  # one dimension has only one
    points = (left * singular)[:, :2]
    largest = points.gather(0, points.abs().argmax(dim=0, keepdim=True))
    variance = singular.square()
    shares = (variance[:2] / variance.sum().clamp_min(1e-30)).tolist()
    return points * torch.where(largest < 0, -1.0, 1.0), (shares[0], shares[1])


def _numbers(name: str, values: Any, dimensions: int) -> Tensor:
    """The values as float64 on the CPU, after validation of their shape."""
    numbers = torch.as_tensor(values).detach().cpu().double()
    if numbers.dim() != dimensions or not numbers.numel():
        what = "1 dimension" if dimensions == 1 else f"{dimensions} dimensions"
        raise InputError(f"{name} must have {what} and at least one number, got shape {tuple(numbers.shape)}")
    return numbers


def _check_labels(name: str, labels: Sequence[str], count: int) -> None:
    if isinstance(labels, str) or len(labels) != count:
        got = f"the string {labels!r}" if isinstance(labels, str) else f"{len(labels)}"
        raise InputError(f"{name} must be a list of {count} labels, got {got}")


def _new_figure(width: float, height: float) -> tuple[Picture, Axes]:
    figure = Picture(figsize=(width, height), facecolor="white", layout="constrained")
    return figure, figure.add_subplot()


def _draw_heatmap(axes: Axes, values: Tensor, rows: Sequence[str], columns: Sequence[str], limits: Any) -> None:
    low, high = limits or (values.min().item(), values.max().item())
    axes.imshow(values.numpy(), cmap="cividis", vmin=low, vmax=high)
    axes.set_yticks(range(len(rows)), rows)
    if max(values.shape) > MAX_SIZE_WITH_VALUES:
        axes.set_xticks(range(len(columns)), columns, rotation=90, ha="center")
        axes.tick_params(labelsize=7)
        return
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            is_light = (value - low) > 0.55 * (high - low)  # the colour behind the number
            colour = "k" if is_light else "w"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=colour)
