"""Pictures: a matrix, attention, a quantity layer by layer, a map of vectors.

Each function returns a `Picture`, a figure of matplotlib that a notebook shows as SVG; `savefig` writes it to
a file. Colours can be told apart by the colour-blind, and on dark pages a picture stands on its own white ground.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from minibert.errors import InputError, MissingPackageError

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingPackageError("pictures need matplotlib: pip install 'minibert[plots]'") from error

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]  # Okabe and Ito 2008
MARKERS = "osD^vPX*"
MOST_VALUES = 16  # a matrix of more rows or columns shows its colours alone
# Text stays text, and the same picture is the same bytes.
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
    """A heatmap with labels, and with its values if they are few enough to be read.

    Args:
        values: (N, M), a tensor or anything that makes one.
        rows: N labels.
        columns: M labels; those of the rows when left out.
        title: above the picture.
        limits: the values of the darkest and of the lightest colour; by default the smallest and the largest there is.

    Raises:
        InputError: labels that are not as many as there are values.
    """
    values, columns = _numbers(values, 2), rows if columns is None else columns
    _fits(values, (rows, columns))
    height, width = values.shape
    size = 0.52 if max(height, width) <= MOST_VALUES else 0.22
    figure, axes = _new(1.6 + size * width, 0.9 + size * height)
    _heat(axes, values, rows, columns, limits)
    axes.set_title(title)
    return figure


def plot_attention(probabilities: Any, tokens: Sequence[str], head: int | None = None, *, title: str = "") -> Picture:
    """Who looks at whom: each row is a query, and how it shares its attention among the keys.

    Args:
        probabilities: (H, S, S) of one text and layer, or (1, H, S, S) as a model returns it, or (S, S).
        tokens: S labels.
        head: this head alone, numbered from 0, with its values; all heads side by side when left out.

    Raises:
        InputError: another shape, labels that are not S, or a head that is not there.
    """
    values = torch.as_tensor(probabilities).detach()
    if values.dim() == 4 and len(values) == 1:
        values = values[0]
    values = _numbers(values[None] if values.dim() == 2 else values, 3)
    _fits(values[0], (tokens, tokens))
    count = len(values)
    if count == 1 or head is not None:
        if head is not None and not 0 <= head < count:
            raise InputError(f"there is no head {head}: they are numbered from 0 to {count - 1}")
        return plot_matrix(values[head or 0], tokens, title=title, limits=(0, 1))
    across = min(4, count)
    down = -(-count // across)
    side = max(1.7, 0.17 * len(tokens))
    figure = Picture(figsize=(across * side + 1, down * side + 0.8), facecolor="white", layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= count:
            axes.axis("off")
            continue
        axes.imshow(values[number].numpy(), cmap="cividis", vmin=0, vmax=1)
        axes.set_title(f"head {number}")
        small = 7 if len(tokens) <= 12 else 5
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=small)
        axes.set_yticks(range(len(tokens)), tokens, fontsize=small)
    figure.suptitle(title)
    return figure


def plot_layers(lines: Mapping[str, Any], *, quantity: str = "", title: str = "", first: int = 0) -> Picture:
    """A quantity, layer by layer, for one or several things.

    Args:
        lines: by its label, what each has at the embeddings and after each layer.
        quantity: what is shown, with its unit; beside the axis.
        first: the number of the first value; 0 is the embeddings.

    Raises:
        InputError: lines of different lengths, none at all, or more than there are colours.
    """
    values = {label: _numbers(line, 1) for label, line in lines.items()}
    lengths = {len(line) for line in values.values()}
    if len(lengths) != 1 or len(values) > len(COLOURS):
        raise InputError(
            f"1 to {len(COLOURS)} lines of one length are needed; they are {len(values)}, of {sorted(lengths)}"
        )
    (length,) = lengths
    figure, axes = _new(6.2, 3.3)
    places = range(first, first + length)
    for (label, line), colour, marker in zip(values.items(), COLOURS, MARKERS, strict=False):
        axes.plot(places, line, color=colour, marker=marker, markersize=5, label=label)
    axes.set_xticks(places, map(str, places))
    axes.set_xlabel("layer (0: the embeddings)" if first == 0 else "layer")
    axes.set_ylabel(quantity)
    axes.set_title(title)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(values) > 1 or "" not in values:
        axes.legend(frameon=False)
    return figure


def plot_map(vectors: Any, labels: Sequence[str], groups: Sequence[str] | None = None, *, title: str = "") -> Picture:
    """Vectors as points on paper: their first two principal components, which keep most of their distances.

    Args:
        vectors: (N, D), N at least 2.
        labels: N, one beside each point.
        groups: N; points of one group have one colour and one shape.

    Raises:
        InputError: labels or groups that are not N, fewer than 2 vectors, or more groups than colours.
    """
    values = _numbers(vectors, 2)
    groups = [""] * len(values) if groups is None else groups
    kinds = list(dict.fromkeys(groups))
    if len(values) < 2 or not len(labels) == len(groups) == len(values):
        raise InputError(f"{len(values)} vectors need as many labels and groups: {len(labels)} and {len(groups)}")
    if len(kinds) > len(COLOURS):
        raise InputError(f"there are {len(kinds)} groups, and colours for {len(COLOURS)}")
    points, shares = principal_components(values)
    figure, axes = _new(6.4, 4.4)
    for kind, colour, marker in zip(kinds, COLOURS, MARKERS, strict=False):
        chosen = [number for number, group in enumerate(groups) if group == kind]
        axes.scatter(points[chosen, 0], points[chosen, 1], color=colour, marker=marker, s=28, label=kind)
    for label, (x, y) in zip(labels, points.tolist(), strict=True):
        axes.annotate(label, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(f"first component, {shares[0]:.0%} of the variance")
    axes.set_ylabel(f"second component, {shares[1]:.0%}")
    axes.margins(0.18, 0.12)
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    if len(kinds) > 1:
        axes.legend(frameon=False)
    return figure


def principal_components(vectors: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """The first two principal components, (N, D) → (N, 2), and each one's share of the variance.

    Each is turned so that its largest coordinate is positive, for either direction is as good.
    """
    centred = vectors - vectors.mean(dim=0)
    left, singular, _ = torch.linalg.svd(centred, full_matrices=False)
    left, singular = (torch.nn.functional.pad(each, (0, 2)) for each in (left, singular))  # for vectors of one number
    points = (left * singular)[:, :2]
    largest = points.gather(0, points.abs().argmax(dim=0, keepdim=True))
    variance = singular.square()
    shares = (variance[:2] / variance.sum().clamp_min(1e-30)).tolist()
    return points * torch.where(largest < 0, -1.0, 1.0), (shares[0], shares[1])


def _numbers(values: Any, dimensions: int) -> Tensor:
    numbers = torch.as_tensor(values).detach().cpu().double()
    if numbers.dim() != dimensions or not numbers.numel():
        raise InputError(f"{dimensions} axes of numbers are needed to draw them; the shape is {tuple(numbers.shape)}")
    return numbers


def _fits(values: Tensor, labels: tuple[Sequence[str], Sequence[str]]) -> None:
    for kind, count, names in zip(("rows", "columns"), values.shape, labels, strict=True):
        if isinstance(names, str) or len(names) != count:
            given = f"the text {names!r}" if isinstance(names, str) else f"{len(names)} labels"
            raise InputError(f"{count} {kind} need a list of {count} labels, not {given}")


def _new(width: float, height: float) -> tuple[Picture, Axes]:
    figure = Picture(figsize=(width, height), facecolor="white", layout="constrained")
    return figure, figure.add_subplot()


def _heat(axes: Axes, values: Tensor, rows: Sequence[str], columns: Sequence[str], limits: Any) -> None:
    low, high = limits or (values.min().item(), values.max().item())
    axes.imshow(values.numpy(), cmap="cividis", vmin=low, vmax=high)
    few = max(values.shape) <= MOST_VALUES
    axes.set_xticks(range(len(columns)), columns, rotation=45 if few else 90, ha="right" if few else "center")
    axes.set_yticks(range(len(rows)), rows)
    if not few:
        axes.tick_params(labelsize=7)
        return
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            light = (value - low) > 0.55 * (high - low)  # the colour behind it
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color="k" if light else "w")
