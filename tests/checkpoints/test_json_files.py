"""A small file is read whole, whatever it is: it gives its content, or an error that names the file, soon."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from minibert.checkpoints.json_files import LARGEST, MOST_VALUES, read_object, read_objects, read_strings, read_text
from minibert.errors import CheckpointNotFoundError, ConfigError, MinibertError

READERS = (read_text, read_object, read_objects, read_strings)
NOT_REGULAR: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("make", NOT_REGULAR.values(), ids=NOT_REGULAR)
@pytest.mark.parametrize("read", READERS)
def test_only_regular_files_are_opened(
    read: Callable[..., Any], make: Callable[[Path], object], tmp_path: Path
) -> None:
    make(tmp_path / "x")
    with pytest.raises(ConfigError, match="x must be a regular file, got a folder, a pipe or a device"):
        read(tmp_path / "x", ConfigError)


@pytest.mark.parametrize("read", READERS)
def test_a_file_too_large_is_not_read(read: Callable[..., Any], tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as stream:
        stream.truncate(1 << 40)  # sparse: it takes no disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    with pytest.raises(ConfigError, match=f"x must have at most {LARGEST:,} bytes"):
        read(tmp_path / "x", ConfigError)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * LARGEST / 1024


@pytest.mark.parametrize("values", ["{},", "1,", '"",', "[],", "[1,2],"])
def test_a_file_of_too_many_values_is_not_parsed(values: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(f'{{"a": [{values * MOST_VALUES}0]}}')
    with pytest.raises(ConfigError, match=f"x must hold at most {MOST_VALUES:,} values"):
        read_object(tmp_path / "x", ConfigError)


@pytest.mark.parametrize(
    "content,message",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "is a Git LFS pointer, .*git lfs pull"),
        (b"\n <!DOCTYPE html><title>Not found</title>", "is a web page, not the file itself"),
        (b'{"a": 1,\n "b": }', "cannot be read as JSON from line 2, column 7 on"),
        (b'{"a": ' + b"[" * 100_000, "it nests too many lists and objects"),
        (b'{"a": ' + b"9" * 5000 + b"}", "it holds a number of thousands of digits"),
        (b'{"a": "\\ud83e"}', "holds half of a surrogate pair"),
        (b'{"\\udd51": 1}', "holds half of a surrogate pair"),
        (b'{"a": "\xe9"}', "must be UTF-8 text: it is not at byte 7"),
        (b"", "cannot be read as JSON from line 1, column 1 on"),
    ],
)
def test_what_is_not_json_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        read_object(tmp_path / "x", ConfigError)
    assert str(error.value).startswith(f"{tmp_path / 'x'} ")


def test_both_halves_of_a_surrogate_pair_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b'\xef\xbb\xbf{"a": "\\ud83e\\udd51"}')
    assert read_object(tmp_path / "x", ConfigError) == {"a": "\U0001f951"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="x does not exist"):
        read_text(tmp_path / "x", ConfigError)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@examples(100)
@given(value=json_values, ascii_only=st.booleans())
def test_any_json_object_is_read_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, value: Any, ascii_only: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_bytes(json.dumps({"a": value}, ensure_ascii=ascii_only).encode())
    assert read_object(file, ConfigError) == {"a": value}


@examples(100)
@given(content=st.binary() | st.text('[]{}":,1e.-\\udf0tn \ufeff').map(str.encode))
def test_any_bytes_give_an_object_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_bytes(content)
    for read in READERS:
        message = ""
        try:
            read(file, ConfigError)
        except MinibertError as error:
            message = str(error)
        assert not message or message.startswith(str(file))
        assert len(message) < 500
