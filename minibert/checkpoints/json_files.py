"""How is a small file read whole if it may hold anything?

Settings and vocabularies come from strangers. What is read here is a regular file, not a pipe or a device that never
ends; it is not larger than any such file has reason to be; and it is UTF-8.
"""

import json
import re
import stat
from pathlib import Path
from typing import Any

from minibert.errors import CheckpointNotFoundError, MinibertError

LARGEST = 64 << 20  # bytes; a tokenizer.json of a hundred thousand tokens has four million
MOST_VALUES = 2_000_000  # of which a file of that size could hold tens of millions
LFS_POINTER = "version https://git-lfs.github.com/spec/"
WEB_PAGE = ("<!doctype", "<html", "<?xml")


def read_text(file: Path, error: type[MinibertError]) -> str:
    """Reads a file of UTF-8 text.

    Raises:
        CheckpointNotFoundError: there is no such file.
        error: it is not a regular file, is too large, is not UTF-8, or is something else (see `check_start`).
    """
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{file} must be a regular file, got a folder, a pipe or a device")
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)  # and no more: the size of a file can grow, or be said to be 0
        if len(content) > LARGEST:
            raise error(f"{file} must have at most {LARGEST:,} bytes: it is not a file of settings or words")
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except MinibertError:
        raise
    except FileNotFoundError:
        raise CheckpointNotFoundError(f"{file} does not exist") from None
    except UnicodeDecodeError as problem:
        raise error(f"{file} must be UTF-8 text: it is not at byte {problem.start:,}") from None
    except (OSError, ValueError) as problem:
        raise error(f"{file} cannot be read: {problem}") from None
    check_start(file, text[:200], error)
    return text


def check_start(file: Path, start: str, error: type[MinibertError]) -> None:
    """Raises an `error` if a file, by its first 200 characters, is not what was to be downloaded."""
    if start.startswith(LFS_POINTER):
        raise error(f"{file} is a Git LFS pointer, not the file itself: run 'git lfs pull' in its folder")
    if start.lstrip().lower().startswith(WEB_PAGE):
        raise error(f"{file} is a web page, not the file itself: download the file that the page is about")


def read_object(file: Path, error: type[MinibertError]) -> dict[str, Any]:
    """Reads the JSON object in a file.

    Raises:
        CheckpointNotFoundError: there is no such file.
        error: the file cannot be read, is not JSON, or holds something other than an object.
    """
    fields = _read(file, error)
    if not isinstance(fields, dict):
        raise error(f"{file} holds a JSON {type(fields).__name__}, not an object")
    return fields


def read_objects(file: Path, error: type[MinibertError]) -> list[dict[str, Any]]:
    """Reads a file that holds a list of JSON objects. Raises the errors of `read_object`."""
    items = _read(file, error)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise error(f"{file} must hold a JSON list of objects")
    return items


def read_strings(file: Path, error: type[MinibertError]) -> list[str]:
    """Reads a file that holds a list of strings. Raises the errors of `read_object`."""
    items = _read(file, error)
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise error(f"{file} must hold a JSON list of strings")
    return items


def _read(file: Path, error: type[MinibertError]) -> Any:
    text = read_text(file, error)
    if sum(text.count(mark) for mark in "[{,") > MOST_VALUES:  # each value but the first follows one of these
        raise error(f"{file} must hold at most {MOST_VALUES:,} values: it is not a file of settings")
    try:
        content = json.loads(text)
        # JSON can spell half of a surrogate pair, which no text may hold.
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise error(f"{file} holds half of a surrogate pair, which is not a character") from None
    except json.JSONDecodeError as problem:
        where = f"line {problem.lineno:,}, column {problem.colno:,}"
        raise error(f"{file} cannot be read as JSON from {where} on: correct it, or download it again") from None
    except RecursionError:
        raise error(f"{file} cannot be read as JSON: it nests too many lists and objects") from None
    except ValueError:
        raise error(f"{file} cannot be read as JSON: it holds a number of thousands of digits") from None
    return content
