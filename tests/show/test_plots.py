"""Pictures show what they are given, for 3 tokens and for 30, and are the same bytes each time."""

import io
import re
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.text import Text
from support.examples import examples

from minibert.errors import InputError, MinibertError
from minibert.show import plots
from minibert.show.plots import (
    COLOURS,
    Picture,
    plot_attention,
    plot_bars,
    plot_layers,
    plot_map,
    plot_matrix,
    principal_components,
)
from minibert.show.tables import visible


def words(picture: Picture) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture._repr_svg_())


def test_a_matrix_has_its_labels_and_values() -> None:
    picture = plot_matrix([[1, -0.25], [0.5, 0.125]], ["king", "queen"], ["man", "woman"], title="royal")
    assert {"king", "queen", "man", "woman", "royal", "1.00", "-0.25", "0.50", "0.12"} <= set(words(picture))
    assert {"a", "b"} <= set(words(plot_matrix(torch.eye(2), ["a", "b"])))
    assert "-0.00" not in words(plot_matrix([[-0.001, 1]], ["a"], ["b", "c"]))


def test_a_large_matrix_shows_only_colours() -> None:
    tokens = [f"token{number}" for number in range(30)]
    assert sorted(set(words(plot_matrix(torch.rand(30, 30), tokens)))) == sorted(tokens)


def test_bars_have_a_colour_for_each_sign() -> None:
    picture = plot_bars([0.5, -0.25, 0], ["king", "queen", "man"], quantity="share", title="royal")
    assert {"king", "queen", "man", "share", "royal"} <= set(words(picture))
    (axes,) = picture.axes
    assert [bar.get_width() for bar in axes.patches] == [0.5, -0.25, 0]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] == colours[2] != colours[1]


@pytest.mark.parametrize("count", [1, 3, 30])
def test_attention(count: int) -> None:
    tokens = [f"t{number}" for number in range(count)]
    probabilities = torch.softmax(torch.randn(1, 6, count, count), dim=-1)
    assert {f"head {number}" for number in range(6)} | set(tokens) <= set(words(plot_attention(probabilities, tokens)))
    one = plot_attention(probabilities, tokens, head=5, title="the last")
    assert "the last" in words(one)
    assert words(one) == words(plot_attention(probabilities[0, 5], tokens, title="the last"))


def test_layers() -> None:
    drawn = words(plot_layers({"soup": [1, 0.9, 0.8], "pilot": [1, 0.5, 0.2]}, quantity="cosine"))
    assert {"0", "1", "2", "soup", "pilot", "cosine", "layer (0: the embeddings)"} <= set(drawn)
    assert {"1", "2", "layer"} <= set(words(plot_layers({"share": [0.1, 0.2]}, first=1)))


def test_a_map() -> None:
    drawn = words(plot_map(torch.randn(4, 8), ["a", "b", "c", "d"], ["x", "x", "y", "y"]))
    assert {"a", "b", "c", "d", "x", "y"} <= set(drawn)


def test_principal_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    vectors = torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points, shares = principal_components(vectors)
    theirs = PCA(n_components=2).fit(vectors.numpy())
    torch.testing.assert_close(points.abs(), torch.from_numpy(theirs.transform(vectors.numpy())).abs())
    assert shares == pytest.approx(theirs.explained_variance_ratio_)
    same = principal_components(torch.ones(3, 5))
    assert torch.equal(same[0], torch.zeros(3, 2, dtype=torch.float64))
    assert principal_components(torch.tensor([[0.0], [2.0]]))[0].abs().flatten().tolist() == pytest.approx([1, 0, 1, 0])


def drawn(picture: Picture) -> list[str]:
    """All words of the picture, from its SVG read as XML."""
    root = ElementTree.fromstring(picture._repr_svg_())
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


EYE = torch.eye(12)

# Each function, with its labels and its title wherever it takes some.
DRAW: dict[str, Callable[[list[str], str], Picture]] = {
    "a matrix": lambda labels, title: plot_matrix(EYE[: len(labels), : len(labels)], labels, title=title),
    "a head": lambda labels, title: plot_attention(EYE[: len(labels), : len(labels)], labels, title=title),
    "heads": lambda labels, title: plot_attention(
        EYE[: len(labels), : len(labels)].expand(2, -1, -1), labels, title=title
    ),
    "layers": lambda labels, title: plot_layers(dict.fromkeys(labels[:8], EYE[0]), quantity=title, title=title),
    "bars": lambda labels, title: plot_bars(EYE[0, : len(labels)], labels, quantity=title, title=title),
    "a map": lambda labels, title: plot_map(
        EYE[: len(labels)], labels, [*labels[:8], *labels[:8]][: len(labels)], title=title
    ),
}


TEXTS = ["costs $5 or $6", "$$", "$ $", r"$\frac$", "$x_1$", "a_b^c", r"\$5", "_hidden", "<b>&amp;</b>", "%", "#{~}"]
INVISIBLE = {
    "a\tb": r"a\tb",
    "\x00\x1b[31m": r"\x00\x1b[31m",
    "a\u200bb": r"a\u200bb",
    "\ufeff": r"\ufeff",
    "\u202eabc": r"\u202eabc",
    "\xa0": r"\xa0",
    "\ud800": r"\ud800",
    "\uffff": r"\uffff",
    "\x85": r"\x85",
    "a\u2028b": r"a\u2028b",
    "\U0001fae9": "\U0001fae9",  # of Unicode 16, which few Pythons know yet: shown
}


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_a_label_is_the_text_that_it_is(draw: Callable[[list[str], str], Picture]) -> None:
    with rc_context({"text.usetex": True}):  # as a user's matplotlibrc may have it
        picture = draw(TEXTS, r"$5 and $\x$")
    labels = [text for text in picture.findobj(Text) if text.get_text() in (*TEXTS, r"$5 and $\x$")]
    assert not any(text.get_usetex() or text.get_parse_math() for text in labels)
    words = drawn(draw(TEXTS, r"$5 and $\x$"))
    assert set(TEXTS[: len(COLOURS)]) <= set(words)
    assert r"$5 and $\x$" in words


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_invisible_characters_are_shown_as_escapes(draw: Callable[[list[str], str], Picture]) -> None:
    words = drawn(draw(list(INVISIBLE), "a\u200bb\tc"))
    assert set(list(INVISIBLE.values())[: len(COLOURS)]) <= set(words)
    assert r"a\u200bb\tc" in words


def test_a_title_may_have_two_lines() -> None:
    assert {"one", "two"} <= set(drawn(plot_map(EYE[:2], ["a", "b"], title="one\ntwo")))


def test_a_large_matrix_stays_within_what_a_png_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "MAX_SIDE", 3)
    assert plot_matrix(torch.eye(30), [""] * 30).get_size_inches().tolist() == [3, 3]


def test_numbers_of_any_size() -> None:
    assert {"1e+38", "-1e+38"} <= set(drawn(plot_matrix([[1e38, -1e38]], ["a"], ["b", "c"])))
    triangle = torch.tensor([[0, 0], [0.5, 0], [0, 0.25]], dtype=torch.float64)
    _, expected = principal_components(triangle)
    for scale in (1e-300, 1e-20, 1e100):
        points, shares = principal_components(scale * triangle)
        assert shares == pytest.approx(expected)
        assert points.isfinite().all()


@examples(12)
@given(
    labels=st.lists(st.text(max_size=6) | st.text("$_^\\{}ab 1%&<", max_size=8), min_size=2, max_size=3, unique=True),
    title=st.text(max_size=8) | st.text("$_^\\{}ab 1%&<\n", max_size=8),
    draw=st.sampled_from(list(DRAW.values())),
)
def test_any_characters_in_any_picture(labels: list[str], title: str, draw: Callable) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a PNG lacks what matplotlib's font lacks
        picture = draw(labels, title)
        shown = set(drawn(picture))
        picture.savefig(io.BytesIO(), format="png", dpi=20)
    for label in map(visible, labels):
        assert label in shown or not label.strip()
        assert all(character.isprintable() or unicodedata.category(character) == "Cn" for character in label)


any_number = st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text(max_size=2)


@examples(60)
@given(
    values=st.recursive(any_number, lambda inner: st.lists(inner, max_size=3), max_leaves=9),
    draw=st.sampled_from(
        [
            lambda values: plot_matrix(values, ["a", "b"]),
            lambda values: plot_matrix([[1, 2]], ["a"], ["b", "c"], limits=values),
            lambda values: plot_attention(values, ["a", "b"]),
            lambda values: plot_layers({"a": values}),
            lambda values: plot_bars(values, ["a", "b"]),
            lambda values: plot_map(values, ["a", "b"]),
        ]
    ),
)
def test_any_values_are_drawn_or_refused(values: object, draw: Callable[[object], Picture]) -> None:
    try:
        picture = draw(values)
    except MinibertError:
        return
    drawn(picture)


def test_the_same_picture_is_the_same_bytes() -> None:
    assert plot_map(torch.eye(3), ["a", "b", "c"])._repr_svg_() == plot_map(torch.eye(3), ["a", "b", "c"])._repr_svg_()


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: plot_matrix(torch.eye(2), ["a"]), "rows must be a list of 2 labels, got 1"),
        (lambda: plot_matrix(torch.eye(2), "ab"), "rows must be a list of 2 labels, got 'ab'"),
        (
            lambda: plot_matrix(torch.ones(2), ["a", "b"]),
            r"values must have 2 dimensions and at least one number, got shape \(2,\)",
        ),
        (
            lambda: plot_attention(torch.ones(2, 3, 3), list("abc"), head=2),
            "head must be an integer from 0 to 1, got 2",
        ),
        (lambda: plot_attention(torch.ones(2, 2, 3, 3), "abc"), "probabilities must have 3 dimensions"),
        (lambda: plot_bars([1, 2], ["a"]), "labels must be a list of 2 labels, got 1"),
        (lambda: plot_bars([1, float("nan")], ["a", "b"]), r"values must be finite .* got nan at index \(1,\)"),
        (lambda: plot_layers({}), "lines must be 1 to 8 of the same length, got 0"),
        (lambda: plot_layers({"a": [1, 2], "b": [1]}), r"got 2 of lengths \[1, 2\]"),
        (lambda: plot_attention(torch.ones(2, 3, 3), "abc"), "tokens must be a list of 3 labels, got 'abc'"),
        (
            lambda: plot_attention(torch.ones(2, 3, 4), list("abc")),
            r"probabilities must be \(H, S, S\), got \(2, 3, 4\)",
        ),
        (
            lambda: plot_matrix([[1, float("nan")]], ["a"], ["b", "c"]),
            r"values must be .* got nan at index \(0, 1\): leave",
        ),
        (lambda: plot_matrix([[1e101]], ["a"]), r"values must be finite .* got 1e\+101 at index \(0, 0\)"),
        (lambda: plot_matrix([[None]], ["a"]), r"values must be real numbers of one shape, got \[\[None\]\]"),
        (lambda: plot_matrix([["1"]], ["a"]), r"values must be real numbers of one shape, got \[\['1'\]\]"),
        (lambda: plot_matrix([[1, 2], [3]], ["a"]), "values must be real numbers of one shape"),
        (
            lambda: plot_matrix(torch.tensor([[1j]]), ["a"]),
            "values must be a dense tensor of real numbers, got one of complex64",
        ),
        (lambda: plot_matrix(torch.eye(2).to_sparse(), ["a", "b"]), "got one of float32 sparse_coo: convert"),
        (lambda: plot_matrix(torch.eye(2, device="meta"), ["a", "b"]), "got one of meta"),
        (lambda: plot_matrix([], []), r"values must have 2 dimensions and at least one number, got shape \(0,\)"),
        (lambda: plot_matrix([[1]], [1]), r"rows\[0\] must be a string, got 1: pass str"),
        (lambda: plot_matrix([[1]], None), "rows must be a list of 1 labels, got None"),
        (lambda: plot_matrix(torch.eye(2), {"a", "b"}), "rows must be a list of 2 labels, got {"),
        (lambda: plot_matrix([[1]], ["a"], title=None), "title must be a string, got None"),
        (lambda: plot_matrix([[1]], ["a"], limits=(1, 0)), r"limits must be the smallest .*, got \(1, 0\)"),
        (lambda: plot_matrix([[1]], ["a"], limits=(0, None)), "limits must be real numbers"),
        (lambda: plot_matrix([[1]], ["a"], limits=(0, float("nan"))), "limits must be finite numbers"),
        (lambda: plot_attention("abc", ["a"]), "probabilities must be real numbers of one shape, got 'abc'"),
        (lambda: plot_layers([[1, 2]]), "lines must be a dict from labels to values, got list"),
        (lambda: plot_layers({"a": [1, float("inf")]}), r"lines\['a'\] must be finite .* got inf at index \(1,\)"),
        (lambda: plot_layers({"a": ["b"]}), r"lines\['a'\] must be real numbers"),
        (lambda: plot_layers({1: [1]}), r"lines\[0\] must be a string, got 1"),
        (lambda: plot_layers({"a": [1]}, quantity=5), "quantity must be a string, got 5"),
        (lambda: plot_layers({"a": [1]}, first="1"), "first must be a non-negative integer, got '1'"),
        (lambda: plot_map([[1, float("nan")]] * 2, ["a", "b"]), "vectors must be finite"),
        (lambda: plot_map(torch.eye(2), ["a", "b"], [1, 2]), r"groups\[0\] must be a string, got 1"),
        (lambda: principal_components(torch.tensor([[1.0, float("nan")]])), "vectors must be finite"),
        (lambda: plot_map(torch.eye(3)[:1], ["a"]), "vectors must be at least 2, got 1"),
        (lambda: plot_map(torch.eye(3), ["a"]), "labels must be a list of 3 labels, got 1"),
        (
            lambda: plot_map(torch.eye(9), list("abcdefghi"), list("abcdefghi")),
            f"groups must have at most {len(COLOURS)} different names, got 9",
        ),
    ],
)
def test_bad_input(draw, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw()


def test_without_matplotlib() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import minibert.show.plots"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingPackageError: pictures need matplotlib, which cannot be imported" in done.stderr
    assert done.stderr.rstrip().endswith(": pip install matplotlib")  # minibert on PyPI is another project
