"""Executes the lessons; `python tests/lessons.py [NAME …]` writes their outputs into the notebooks."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
LESSONS = sorted(FOLDER.glob("[0-9]*.ipynb"))


def execute(lesson: Path) -> Any:
    """The notebook with the outputs it has here and now.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the message has the cell and the traceback.
    """
    notebook = nbformat.read(lesson, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(lesson.parent)}},
        extra_arguments=["--InteractiveShellApp.ignore_cwd=True"],
    )
    # Neither the kernel nor a lesson imports what lies beside the notebook under the name of a package.
    client.execute(env={**os.environ, "PYTHONSAFEPATH": "1"})
    notebook.metadata["language_info"] = {"name": "python"}  # the kernel writes its version here
    return notebook


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[str]:
    """What a reader sees of a cell's outputs: printed text, and the text in pictures."""
    return [_text(output) for output in cell.outputs]


def _text(output: Any) -> str:
    if output.output_type == "stream":
        return f"{output.name}: {output.text}"
    picture = output.data.get("image/svg+xml")
    if picture is None:
        return output.data["text/plain"]
    return "picture: " + " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", "".join(picture)))


def main(names: list[str]) -> None:
    for lesson in LESSONS:
        if not names or lesson.stem in names:
            nbformat.write(execute(lesson), lesson)
            print(lesson.name)


if __name__ == "__main__":
    main(sys.argv[1:])
