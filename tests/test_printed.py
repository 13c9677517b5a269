"""What a reader would call the same output of another machine, and what not."""

import pytest
from support.printed import difference

SAME = [
    ("no number", "no number"),
    ("0.9406", "0.9407"),
    ("-0.1693", "-0.1692"),
    ("−0.1693", "−0.1692"),  # the minus sign that pictures have
    ("-0.0000", "0.0000"),
    ("-0.0001", "0.0000"),
    ("−0.01", "0.00"),
    ("0.99999", "1.00000"),
    ("9.99", "10.00"),
    ("1,234.5", "1,234.6"),
    ("999.9", "1,000.0"),
    ("[0.07, 0.8]", "[0.069, 0.801]"),  # round(x, 3) drops zeros at the end
    ("[1.0, -0.0]", "[0.999, 0.001]"),
    ("1.2e-07", "1.3e-07"),
    ("9.9e-08", "1.0e-07"),
    ("6e-08", "7e-08"),
    ("9.9e-05", "0.0001"),  # f"{x:.2g}"
    ("-3.4e+38", "-3.5e+38"),
    ("29%", "30%"),
    ("99 %", "100 %"),
    ("12.5%", "12.6%"),
    ("cosine: 0.94.", "cosine: 0.95."),
    ("a  9.99  b", "a  10.00  b"),  # the gap stays
    ("a   9.99  b", "a  10.00  b"),  # the right edge stays
    ("a   0.00\nb  -0.01", "a  -0.00\nb   0.00"),
    ("tensor([0.1, 0.25])", "tensor([0.1, 0.26])"),
    ("up to 0.5 (values about 0.0087)", "up to 0.5 (values about 0.0088)"),
]
DIFFERENT = [
    ("0.9406", "0.9408"),
    ("0.0001", "-0.0001"),
    ("0.1693", "-0.1693"),
    ("0.99999", "1.00001"),
    ("[0.07, 0.8]", "[0.068, 0.8]"),
    ("[1.0]", "[0.998]"),
    ("0.9406", "0.94"),
    ("0.94", "0.9400"),  # a different number of decimals
    ("0.9", "0.90"),
    ("1.0", "1"),
    ("1.2e-07", "1.4e-07"),
    ("9.9e-08", "1.1e-07"),
    ("9.8e-08", "1.0e-07"),
    ("1.2e-07", "1.2e-06"),
    ("0.0e+00", "1.0e-07"),
    ("29%", "31%"),
    ("29%", "29"),
    ("12", "13"),  # a count
    ("98 of 103", "99 of 103"),
    ("layer 5, head 7", "layer 5, head 8"),
    ("ids [101, 7592]", "ids [101, 7593]"),
    ("30,522 tokens", "30,523 tokens"),
    ("(1, 10, 384)", "(1, 11, 384)"),
    ("torch 2.13.0+cpu", "torch 2.14.0+cpu"),
    ("layers.0.attention", "layers.1.attention"),
    ("v1.5", "v1.6"),
    ("0.5 right", "0.5 wrong"),
    ("0.5 and 0.25", "0.5 and"),
    ("0.5", "0.5 0.25"),
    ("0.5 0.25", "0.5"),
    ("", "0.5"),
    ("0.5\n0.25", "0.5 0.25"),
    ("a  0.50", "a 0.50"),
    ("0.50  b", "0.50 b"),
    ("0.25", "nan"),
    ("soup 0.9, juice 0.5", "juice 0.9, soup 0.5"),
]


@pytest.mark.parametrize("before, after", SAME)
def test_the_same_to_a_reader(before: str, after: str) -> None:
    assert difference(before, after) is None
    assert difference(after, before) is None


@pytest.mark.parametrize("before, after", DIFFERENT)
def test_different_to_a_reader(before: str, after: str) -> None:
    assert difference(before, after)
    assert difference(after, before)


def test_a_difference_is_quoted_with_its_surroundings() -> None:
    message = difference("soup 0.9406\njuice 0.5686, far", "soup 0.9407\njuice 0.5786, far")
    assert message == r"'soup 0.9406\njuice 0.5686, far' became 'soup 0.9407\njuice 0.5786, far'"
    assert difference("0.5", "0.5 0.25") == "rounded numbers: 1 before, 2 after"
