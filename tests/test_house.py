"""The plan of the house: each wing imports only from the wings above it, and no wing is forgotten."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import minibert

PACKAGE = Path(__file__).parent.parent / "minibert"

# From the ground up. A wing may import from itself and from those before it.
WINGS = (
    "",  # the ground
    "show",
    "checkpoints",
    "front",
    "vectors",
    "sentences",
    "training",
    "trace",
    "interpret",
    "teaching",
    "cli",
)
GROUND = ("errors", "checks")  # imported by everything, and importing nothing but each other
MODULES = sorted(PACKAGE.rglob("*.py"))


def wing(name: str) -> str:
    """The wing of a module: "minibert.trace.recording" → "trace"; that of the BERT itself is "front"."""
    first, *rest = name.split(".")[1:] or ["front"]
    if first in GROUND:
        return ""
    if first == "__main__":
        return "cli"
    return first if rest or first in WINGS else "front"


def imports(source: str) -> list[str]:
    """The modules of minibert that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            module = str(node.module)
            is_package = (PACKAGE.parent / module.replace(".", "/")).is_dir()  # then its names may be modules
            found += [f"{module}.{each.name}" for each in node.names] if is_package else [module]
        elif isinstance(node, ast.Import):
            found += [each.name for each in node.names]
    return [name for name in found if name.partition(".")[0] == "minibert"]


def forbidden(module: str, source: str) -> list[str]:
    """What a file imports that its wing may not."""
    home = wing(module)
    wrong = []
    for name in imports(source):
        there = wing(name)
        allowed = WINGS.index(there) <= WINGS.index(home)
        if home == "checkpoints" and name.startswith("minibert.config"):
            allowed = True  # the front imports `checkpoints` for `from_pretrained`, which needs the sizes
        if not allowed:
            wrong.append(name)
    return wrong


def dotted(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize(
    "file", [file for file in MODULES if file.parent != PACKAGE or file.stem != "__init__"], ids=dotted
)
def test_a_wing_imports_only_from_those_above_it(file: Path) -> None:
    assert forbidden(dotted(file), file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "module, source",
    [
        ("minibert.model", "from minibert.vectors.pooling import mean_pool"),
        ("minibert.errors", "from minibert.show.tables import table"),
        ("minibert.show.plots", "from minibert.config import BertConfig"),
        ("minibert.checkpoints.loading", "def later():\n    from minibert.model import BertModel"),
        ("minibert.checkpoints.store", "from minibert import model"),
        ("minibert.vectors.words", "import minibert.sentences.encoder"),
        ("minibert.trace.certificate", "from minibert.teaching import diagnosis"),
        ("minibert.teaching.exercises", "from minibert.cli import main"),
    ],
)
def test_an_arrow_that_runs_back_is_seen(module: str, source: str) -> None:
    assert len(forbidden(module, source)) == 1


def test_every_folder_is_a_wing_and_says_what_it_answers() -> None:
    folders = {file.parent.name for file in MODULES if file.parent != PACKAGE}
    assert folders == set(WINGS) - {"", "front"}
    for folder in folders:
        first = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8"))) or "?"
        assert "?" in first.splitlines()[0], folder


def test_no_module_has_the_name_of_a_function_beside_it() -> None:
    """`from minibert.trace import verify` gives a function, whatever was imported before."""
    for folder in {file.parent for file in MODULES}:
        front_page = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
        nested = [line for node in front_page.body if isinstance(node, ast.If) for line in node.body]
        lines = [node for node in front_page.body + nested if isinstance(node, ast.ImportFrom)]
        names = {each.asname or each.name for node in lines for each in node.names}
        modules = {file.stem for file in folder.glob("*.py")} | {
            file.name for file in folder.iterdir() if file.is_dir()
        }
        assert modules.isdisjoint(names), folder


def test_the_front_page_says_the_same_to_type_checkers() -> None:
    front_page = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = (node for node in front_page.body if isinstance(node, ast.If))
    imported = {each.asname: line.module for line in typed.body for each in line.names}
    assert imported == minibert._MODULE
    assert all(getattr(minibert, name).__name__ == name for name in minibert.__all__)


def test_no_test_imports_from_a_test() -> None:
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("test_"), file


def test_an_installed_copy_has_every_file(tmp_path: Path) -> None:
    """An editable install would not show that a wing is missing from the wheel."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PACKAGE.parent / name, tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "minibert", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", "out", "."], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("minibert/")}
    files = (file for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    assert packed == {file.relative_to(PACKAGE.parent).as_posix() for file in files}
