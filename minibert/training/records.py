"""How do labelled examples come in?

From a file with a row for each: CSV or TSV with a header, or JSONL with an object on each line; or from a list of
dictionaries or tuples. Whatever the source, a row knows what to be called in a message, such as "line 3 of train.csv".
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minibert.checks import as_path, did_you_mean, shown
from minibert.errors import TrainingError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")

Data = str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Sequence[Sequence[Any]]
Layouts = Sequence[tuple[str, ...]]  # the names of a tuple's fields; they differ in their number


@dataclass(frozen=True)
class Row:
    """One example: its values by column, and its name in messages. A blank cell of a file, or null, is None."""

    values: Mapping[str, Any]
    name: str

    def text(self, column: str) -> str:
        """Returns the text in a column.

        Raises:
            TrainingError: the cell is blank, or holds something other than a text.
        """
        value = self.values.get(column)
        if not isinstance(value, str) or not value.strip():
            got = "a blank cell" if value is None or isinstance(value, str) else shown(value)
            raise TrainingError(f"{column} must be a text in {self.name}, got {got}")
        return value

    def words(self, column: str) -> list[Any]:
        """Returns the list in a column, of words or of what belongs to them; a text is split at white space.

        Raises:
            TrainingError: it is empty, or something else.
        """
        value = self.values.get(column)
        items = value.split() if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not items:
            what = "a list, or a text to be split at white space"
            raise TrainingError(f"{column} must be {what}, in {self.name}, got {shown(value)}")
        return list(items)


@dataclass(frozen=True)
class Records:
    """Rows with named columns."""

    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    source: str  # the file, or the name of the argument

    def __len__(self) -> int:
        return len(self.rows)

    def renamed(self, names: Mapping[str, str]) -> "Records":
        """Returns the same with other names: `{"text": "review"}` calls the column "review" "text".

        Raises:
            TrainingError: there is no such column.
        """
        self.require(*names.values())
        by_old = {old: new for new, old in names.items()}
        # A column that has a new name already, and is not the one that is meant, goes.
        kept = [column for column in self.columns if column in by_old or column not in names]
        rows = []
        for row in self.rows:
            values = {by_old.get(column, column): row.values[column] for column in kept if column in row.values}
            rows.append(Row(values, row.name))
        return Records(tuple(rows), tuple(by_old.get(column, column) for column in kept), self.source)

    def require(self, *columns: str) -> None:
        """Raises a `TrainingError` that names the first column that is not there, and those that are."""
        for column in columns:
            if column not in self.columns:
                there = ", ".join(map(str, self.columns))
                delimiter = next((each for each in ";\t|" if len(self.columns) == 1 and each in there), None)
                hint = f": its cells are separated by {delimiter!r}, and must be by commas" if delimiter else ""
                raise TrainingError(
                    f"{self.source} must have a column {column!r}, and has {there}"
                    f"{hint or did_you_mean(column, self.columns)}"
                )

    def take(self, indices: Sequence[int]) -> "Records":
        """Returns these rows, in this order."""
        return replace(self, rows=tuple(self.rows[index] for index in indices))


def read_records(data: Any, name: str, layouts: Layouts) -> Records:
    """Returns the rows of a file or a list.

    Args:
        data: the path of a .csv, .tsv or .jsonl file; or a list of dictionaries, or of tuples.
        name: of the argument, for messages.
        layouts: what the fields of a tuple may be.

    Raises:
        TrainingError: it cannot be read, has no row, or has a row that does not fit the others; the message names it.
    """
    if isinstance(data, str | os.PathLike):
        records = _read_file(as_path(name, data, "the path of a file", TrainingError), name)
    elif hasattr(data, "columns"):
        raise TrainingError(f"{name} must be a file or a list, got a {type(data).__name__}: use .to_dict('records')")
    elif hasattr(data, "column_names"):
        raise TrainingError(f"{name} must be a file or a list, got a {type(data).__name__}: use .to_list()")
    elif isinstance(data, Sequence) and not isinstance(data, bytes | bytearray):
        records = _from_list(data, name, layouts)
    else:
        raise TrainingError(f"{name} must be a file or a list of dictionaries or tuples, got {shown(data)}")
    if not records.rows:
        raise TrainingError(f"{records.source} must have at least one example, and has none")
    return records


def _from_list(items: Sequence[Any], name: str, layouts: Layouts) -> Records:
    """Rows from dictionaries, or from tuples whose fields are known by their number."""
    rows = []
    for index, item in enumerate(items):
        row_name = f"example {index:,} of {name}"
        if not isinstance(item, Mapping):
            fields = [names for names in layouts if isinstance(item, list | tuple) and len(names) == len(item)]
            if not fields:
                known = " or ".join(f"({', '.join(names)})" for names in layouts)
                raise TrainingError(f"{row_name} must be a dictionary, or a tuple {known}, got {shown(item)}")
            item = dict(zip(fields[0], item, strict=True))
        rows.append(Row(item, row_name))
    return _with_columns(rows, name)


def _read_file(file: Path, name: str) -> Records:
    extension = file.suffix.lower()
    if extension not in (*DELIMITERS, *JSON_LINES):
        raise TrainingError(f"{name} must be a .csv, .tsv or .jsonl file, got {str(file)!r}")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:  # a byte order mark is not part of the first column
            if extension in JSON_LINES:
                rows = []
                for line, text in enumerate(lines, 1):
                    if text.strip():
                        rows.append(_json_row(text, f"line {line:,} of {file}"))
                return _with_columns(rows, str(file))
            return _read_table(csv.reader(lines, delimiter=DELIMITERS[extension], strict=True), file)
    except UnicodeDecodeError as error:
        raise TrainingError(f"{file} must be UTF-8 text ({error.reason}): save it as UTF-8") from None
    except OSError as error:
        raise TrainingError(f"{name} cannot be read: {error}") from None


def _json_row(text: str, name: str) -> Row:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{name} must be a JSON object, and cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise TrainingError(f"{name} must be a JSON object, got {shown(values)}")
    return Row(values, name)


def _with_columns(rows: list[Row], source: str) -> Records:
    """Rows of objects that may each have their own keys: a column that one lacks is blank there."""
    columns = dict.fromkeys(key for row in rows for key in row.values)
    return Records(tuple(rows), tuple(columns), source)


def _read_table(reader: Any, file: Path) -> Records:
    """The rows of a table whose first line has the names of the columns."""
    columns: list[str] = []
    rows = []
    for line, cells in _lines(reader, file):
        if not columns:
            columns = [cell.strip() for cell in cells]
            named = [column for column in columns if column]  # a column without a name, as of row numbers, is ignored
            doubled = next((column for column in named if named.count(column) > 1), None)
            if doubled is not None:
                raise TrainingError(f"{file} must have each column once, and has {doubled!r} twice")
        elif len(cells) != len(columns):
            hint = ": put a cell that contains the delimiter in double quotes" if len(cells) > len(columns) else ""
            raise TrainingError(
                f"line {line:,} of {file} must have {len(columns)} cells like the header, got {len(cells)}{hint}"
            )
        else:
            values = {column: cell or None for column, cell in zip(columns, cells, strict=True) if column}
            rows.append(Row(values, f"line {line:,} of {file}"))
    return Records(tuple(rows), tuple(column for column in columns if column), str(file))


def _lines(reader: Any, file: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table that are not blank, each with the number of its first line."""
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise TrainingError(f"line {line:,} of {file} cannot be read as a row of cells: {error}") from None
