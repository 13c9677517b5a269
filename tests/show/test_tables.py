"""Tables are aligned as a terminal shows them."""

from minibert.show import matrix, table


def test_table_counts_columns_as_a_terminal_does() -> None:
    rows = [["東京", "1"], ["cafe\u0301", "22"], ["x", "333"]]
    assert table(rows, right=[1]) == "東京    1\ncafe\u0301   22\nx     333"


def test_invisible_characters_cannot_change_a_table() -> None:
    rows = [["a\nb", "1"], ["\x1b[31mred", "22"], ["\u202eabc\u200b", "333"]]
    assert table(rows, right=[1]).splitlines() == [
        r"a\nb" + 15 * " " + "1",
        r"\x1b[31mred" + 7 * " " + "22",
        r"\u202eabc\u200b  333",
    ]


def test_matrix() -> None:
    assert matrix(["one\ttext", "a longer text"], [[1, -0.5], [-0.5, 1]], longest=8).splitlines() == [
        "                   1        2",
        "1  one text   1.0000  -0.5000",
        "2  a longe…  -0.5000   1.0000",
    ]
