"""How is a JSON file read if it may hold anything?"""

import json
from pathlib import Path
from typing import Any

from minibert.errors import CheckpointNotFoundError, MinibertError

LARGEST = 256 << 20  # bytes; a tokenizer.json of a hundred thousand tokens has four million


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


def _read(file: Path, error: type[MinibertError]) -> Any:
    try:
        size = file.stat().st_size
        content = None if size > LARGEST else json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointNotFoundError(f"{file} does not exist") from None
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{file} cannot be read as JSON: {problem}") from None
    if size > LARGEST:
        raise error(f"{file} must have at most {LARGEST:,} bytes, got {size:,}: it is not a file of settings")
    return content
