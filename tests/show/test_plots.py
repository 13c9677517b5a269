"""Pictures show what they are given, for 3 tokens and for 30, and are the same bytes each time."""

import re
import subprocess
import sys

import pytest
import torch

from minibert.errors import InputError
from minibert.show.plots import (
    COLOURS,
    Picture,
    plot_attention,
    plot_layers,
    plot_map,
    plot_matrix,
    principal_components,
)


def words(picture: Picture) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture._repr_svg_())


def test_a_matrix_has_its_labels_and_values() -> None:
    picture = plot_matrix([[1, -0.25], [0.5, 0.125]], ["king", "queen"], ["man", "woman"], title="royal")
    assert {"king", "queen", "man", "woman", "royal", "1.00", "-0.25", "0.50", "0.12"} <= set(words(picture))
    assert {"a", "b"} <= set(words(plot_matrix(torch.eye(2), ["a", "b"])))


def test_a_large_matrix_shows_only_colours() -> None:
    tokens = [f"token{number}" for number in range(30)]
    assert sorted(set(words(plot_matrix(torch.rand(30, 30), tokens)))) == sorted(tokens)


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
    assert torch.equal(same[0], torch.zeros(3, 2))
    assert principal_components(torch.tensor([[0.0], [2.0]]))[0].abs().flatten().tolist() == pytest.approx([1, 0, 1, 0])


def test_the_same_picture_is_the_same_bytes() -> None:
    assert plot_map(torch.eye(3), ["a", "b", "c"])._repr_svg_() == plot_map(torch.eye(3), ["a", "b", "c"])._repr_svg_()


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: plot_matrix(torch.eye(2), ["a"]), "rows must be a list of 2 labels, got 1"),
        (lambda: plot_matrix(torch.eye(2), "ab"), "rows must be a list of 2 labels, got the string .ab."),
        (
            lambda: plot_matrix(torch.ones(2), ["a", "b"]),
            r"values must have 2 dimensions and at least one number, got shape \(2,\)",
        ),
        (
            lambda: plot_attention(torch.ones(2, 3, 3), list("abc"), head=2),
            "head must be an integer from 0 to 1, got 2",
        ),
        (lambda: plot_attention(torch.ones(2, 2, 3, 3), "abc"), "probabilities must have 3 dimensions"),
        (lambda: plot_layers({}), "lines must be 1 to 8 of the same length, got 0"),
        (lambda: plot_layers({"a": [1, 2], "b": [1]}), r"got 2 of lengths \[1, 2\]"),
        (lambda: plot_attention(torch.ones(2, 3, 3), "abc"), "tokens must be a list of 3 labels, got the string 'abc'"),
        (lambda: plot_attention(torch.ones(2, 3, 4), list("abc")), "tokens must be a list of 4 labels, got 3"),
        (lambda: plot_map(torch.eye(3)[:1], ["a"]), "vectors must be at least 2, got 1"),
        (lambda: plot_map(torch.eye(3), ["a"]), "labels and groups must be one for each of the 3 vectors, got 1 and 3"),
        (
            lambda: plot_map(torch.eye(9), "abcdefghi", "abcdefghi"),
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
    assert "pip install -e '.[plots]'" in done.stderr
