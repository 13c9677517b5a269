"""Every lesson runs, says what it says in git, and keeps its form."""

import re
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import lessons
import nbformat
import pytest
import torch
from support.printed import difference

from minibert import BertConfig, BertModel
from minibert.teaching.exercises import EXERCISES

each_lesson = pytest.mark.parametrize("lesson", lessons.LESSONS, ids=lambda lesson: lesson.stem)


def read(lesson: Path) -> Any:
    return nbformat.read(lesson, as_version=4)


@each_lesson
def test_it_runs_and_shows_what_is_in_git(lesson: Path, checkpoint: Path, reactions: Path, data: Any) -> None:
    """To a reader: a rounded number may differ by one unit of its last digit, as it does on another processor."""
    there, here = read(lesson), lessons.execute(lesson)
    for old, new in zip(lessons.code_cells(there), lessons.code_cells(here), strict=True):
        assert old.execution_count == new.execution_count, "run: python tests/lessons.py"
        assert len(old.outputs) == len(new.outputs), f"run: python tests/lessons.py; the cell is\n{old.source}"
        if "varies" in old.metadata.get("tags", []):  # the size of a rounding error, or what was trained
            continue
        for before, after in zip(lessons.shown(old), lessons.shown(new), strict=True):
            found = difference(before, after)
            assert found is None, f"run: python tests/lessons.py, and look at what changed in\n{old.source}"


@each_lesson
def test_its_form(lesson: Path) -> None:
    notebook = read(lesson)
    cells = lessons.code_cells(notebook)
    assert lesson.stat().st_size < 1_000_000
    assert statistics.median(len(cell.source.splitlines()) for cell in cells) <= 6
    first = notebook.cells[0].source
    assert re.match(rf"# {int(lesson.stem[:2])}\. ", first)
    assert "**Afterwards you can**" in first
    assert any("assert " in cell.source for cell in cells)
    for cell in cells:
        assert all(output.output_type in ("stream", "execute_result", "display_data") for output in cell.outputs)
        for text in lessons.shown(cell):
            assert not text.startswith("stderr"), text
            assert not re.search(r"0x[0-9a-f]{6,}|/home/|/root/|/tmp/|Warning: ", text), text


@each_lesson
def test_its_exercises(lesson: Path) -> None:
    """Two to four, each a stub whose checker says so, with a hint."""
    turn = "\n".join(cell.source for cell in lessons.code_cells(read(lesson)) if "check(" in cell.source)
    named = re.findall(r"hint\(\"(\w+)\"\)", turn)
    assert 2 <= len(named) <= 4
    assert set(named) <= set(EXERCISES)
    assert len(re.findall(r"print\(check\(", turn)) == len(named) == turn.count("raise NotImplementedError")


@pytest.mark.parametrize(
    "lesson, name, count",
    [
        ("04_one_word_many_meanings", "bert-base-cased", 1),
        ("05_layers_as_features", "bert-base-multilingual-cased", 1),
        ("06_sentence_vectors", "bert-base-nli-mean-tokens", 1),
        ("07_search_and_word2vec", "bert-base-uncased", 2),
    ],
)
def test_published_numbers_are_compared(
    lesson: str, name: str, count: int, tmp_path: Path, checkpoint: Path, reactions: Path, data: Any
) -> None:
    """Under the name of the checkpoint that numbers were published for, another model is refused by the cells."""
    folder = shutil.copytree(checkpoint, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
    small = {"hidden_size": 24, "num_hidden_layers": 4, "intermediate_size": 24}
    BertModel(BertConfig.from_json_file(checkpoint / "config.json", **small)).save_pretrained(folder)
    namespace: dict[str, Any] = {}
    refused = []
    with torch.enable_grad():  # some lessons switch it off; this ends with it on again
        for cell in lessons.code_cells(read(lessons.FOLDER / f"{lesson}.ipynb")):
            if len(refused) == count:
                break
            try:
                exec(re.sub('CHECKPOINT = ".*"', f"CHECKPOINT = {str(folder)!r}", cell.source), namespace)
            except AssertionError:  # what is found with the default checkpoint may fail as well
                if f'CHECKPOINT.endswith("{name}")' in cell.source:
                    refused.append(cell.source)
    assert len(refused) == count


def test_a_change_is_noticed(tmp_path: Path) -> None:
    """A lesson whose code no longer gives what is in git, and one that fails."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1 + 1, 0.25)")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    file = tmp_path / "01_small.ipynb"
    nbformat.write(notebook, file)
    nbformat.write(lessons.execute(file), file)
    (cell,) = lessons.code_cells(read(file))
    assert lessons.shown(cell) == ["stdout: 2 0.25\n"]

    def change(before: str, after: str) -> None:
        file.write_text(file.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")

    change("1 + 1, 0.25", "1 + 1, 0.26")  # the last digit, by one: as on another processor
    test_it_runs_and_shows_what_is_in_git(file, file, file, None)
    change("1 + 1, 0.26", "1 + 2, 0.25")
    with pytest.raises(AssertionError, match=r"python tests/lessons\.py"):
        test_it_runs_and_shows_what_is_in_git(file, file, file, None)
    change("1 + 2", "1 / 0")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        lessons.execute(file)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 puts the working directory first")
def test_a_lesson_imports_nothing_that_lies_beside_it(tmp_path: Path) -> None:
    for name in ("ipykernel_launcher", "json", "pip", "colorsys"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import pip, colorsys; print(1)")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "01_small.ipynb")
    (cell,) = lessons.code_cells(lessons.execute(tmp_path / "01_small.ipynb"))
    assert lessons.shown(cell) == ["stdout: 1\n"]
    assert not (tmp_path / "ran").exists()
