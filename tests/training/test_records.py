"""Examples come in whole from every kind of source, or an error says which row is wrong."""

import csv
import json
from pathlib import Path

import pytest

from minibert.errors import TrainingError
from minibert.training.records import Records, read_records

LAYOUTS = (("text", "label"), ("text", "text_pair", "label"))
ROWS = [
    {"text": 'She said "no", twice', "label": "quote"},
    {"text": "two\r\nlines", "label": "break"},
    {"text": "Ελλάδα, 日本", "label": "script"},
]


def values(records: Records) -> list[dict[str, object]]:
    return [dict(row.values) for row in records.rows]


def as_table(file: Path, delimiter: str, encoding: str = "utf-8") -> Path:
    with file.open("w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, ["text", "label"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    return file


@pytest.mark.parametrize("source", ["csv", "csv with a byte order mark", "tsv", "jsonl", "dictionaries", "tuples"])
def test_every_source_gives_the_same_rows(source: str, tmp_path: Path) -> None:
    lines = "\n\n".join(json.dumps(row) for row in ROWS)  # with blank lines between
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    data = {
        "csv": lambda: as_table(tmp_path / "rows.csv", ","),
        "csv with a byte order mark": lambda: str(as_table(tmp_path / "rows.CSV", ",", "utf-8-sig")),
        "tsv": lambda: as_table(tmp_path / "rows.tsv", "\t"),
        "jsonl": lambda: tmp_path / "rows.jsonl",
        "dictionaries": lambda: ROWS,
        "tuples": lambda: [tuple(row.values()) for row in ROWS],
    }[source]()
    records = read_records(data, "train", LAYOUTS)
    assert values(records) == ROWS
    assert records.columns == ("text", "label")


def test_a_row_is_called_by_the_line_where_it_begins(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('text,label\n"a\nb\nc",x\n\nlast,y\n', encoding="utf-8")
    assert [row.name for row in read_records(file, "train", LAYOUTS).rows] == [f"line 2 of {file}", f"line 6 of {file}"]


def test_blank_cells_and_missing_keys_are_none_and_unnamed_columns_go(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(",text,label\n0,a,\n1,,x\n", encoding="utf-8")
    assert values(read_records(file, "train", LAYOUTS)) == [{"text": "a", "label": None}, {"text": None, "label": "x"}]
    records = read_records([{"text": "a"}, {"label": "x"}], "train", LAYOUTS)
    assert records.columns == ("text", "label")
    with pytest.raises(TrainingError, match="text must be a text in example 1 of train, got a blank cell"):
        records.rows[1].text("text")


def test_columns_are_renamed_and_one_that_has_the_new_name_already_goes() -> None:
    records = read_records([{"review": "fine", "text": "id 7", "stars": 3}], "train", LAYOUTS)
    renamed = records.renamed({"text": "review", "label": "stars"})
    assert values(renamed) == [{"text": "fine", "label": 3}]
    assert renamed.columns == ("text", "label")


def test_a_swap_of_two_columns_is_a_swap() -> None:
    records = read_records([{"text": 1, "label": "a text"}], "train", LAYOUTS)
    assert values(records.renamed({"text": "label", "label": "text"})) == [{"label": 1, "text": "a text"}]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("rows.csv", b"", "must have at least one example"),
        ("rows.csv", b"text,label\n", "must have at least one example"),
        ("rows.csv", b"text,text\na,b\n", "must have each column once, and has 'text' twice"),
        ("rows.csv", b"text,label\na,x\nb\n", "line 3 of .* must have 2 cells like the header, got 1$"),
        ("rows.csv", b"text,label\na, b,x\n", "line 2 of .* got 3: put a cell that contains the delimiter in double"),
        ("rows.csv", b'text,label\n"a,x\n', "line 2 of .* cannot be read as a row of cells"),
        ("rows.csv", "text,label\nä,x\n".encode("latin-1"), "must be UTF-8 text"),
        ("rows.csv", "text,label\na,x\n".encode("utf-16"), "must be UTF-8 text"),
        ("rows.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 of .* must be a JSON object, and cannot be read"),
        ("rows.jsonl", b'["a", "b"]\n', r"line 1 of .* must be a JSON object, got \['a', 'b'\]"),
        ("rows.jsonl", b"[" * 100_000, "line 1 of .* must be a JSON object"),
        ("rows.json", b"[]", "train must be a .csv, .tsv or .jsonl file"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingError, match=message):
        read_records(tmp_path / name, "train", LAYOUTS)


class Frame:
    columns = ("text", "label")


@pytest.mark.parametrize(
    "data, message",
    [
        ("missing.csv", "train cannot be read: .*missing.csv"),
        ([], "train must have at least one example"),
        ([("a", "b"), ("a", "b", "c", "d")], r"example 1 of train must be .* \(text, label\) or \(text, text_pair, la"),
        (["a"], "example 0 of train must be a dictionary, or a tuple"),
        ({"text": ["a"]}, "train must be a file or a list"),
        (7, "train must be a file or a list"),
        (Frame(), r"got a Frame: use .to_dict\('records'\)"),
    ],
)
def test_data_of_another_kind_is_refused(data: object, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        read_records(data, "train", LAYOUTS)


@pytest.mark.parametrize(
    "columns, message",
    [
        (("texts", "label"), "train must have a column 'text', and has texts, label: did you mean texts"),
        (("text;label",), "its cells are separated by ';', and must be by commas"),
    ],
)
def test_a_missing_column_is_named_with_those_that_are_there(columns: tuple[str, ...], message: str) -> None:
    records = read_records([dict.fromkeys(columns, "a")], "train", LAYOUTS)
    with pytest.raises(TrainingError, match=message):
        records.require("text", "label")
