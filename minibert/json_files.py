"""How is a JSON file read that may hold anything?"""

import json
from pathlib import Path
from typing import Any

from minibert.errors import CheckpointNotFoundError, MinibertError

LARGEST = 256 << 20  # bytes; a tokenizer.json of a hundred thousand tokens has four million


def read_object(file: Path, error: type[MinibertError]) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointNotFoundError: there is no such file.
        error: the file cannot be read, is no JSON, or holds something other than an object.
    """
    try:
        if file.stat().st_size > LARGEST:
            raise error(f"{file} has {file.stat().st_size:,} bytes, and more than {LARGEST:,} are no settings")
        fields = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointNotFoundError(f"{file} does not exist") from None
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{file} cannot be read as JSON: {problem}") from None
    if not isinstance(fields, dict):
        raise error(f"{file} holds a JSON {type(fields).__name__}, not an object")
    return fields
