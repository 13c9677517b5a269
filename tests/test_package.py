"""What a user gets: imports that pull in nothing more, and a README that tells the truth."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import minibert
from minibert.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_import_pulls_in_no_extra() -> None:
    code = "import sys, torch; before = set(sys.modules); import minibert; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "minibert" in loaded
    assert loaded <= {"minibert", "safetensors", "tokenizers"} | set(sys.stdlib_module_names)


def test_every_public_name_is_there_and_documented() -> None:
    for name in minibert.__all__:
        assert getattr(minibert, name).__doc__, name


def test_the_model_stays_readable() -> None:
    """Short enough for one sitting, and nothing in it of files, kernels or speed."""
    source = (ROOT / "minibert" / "model.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 330
    assert not re.search(r"\b(safetensors|json|path|open|file|cache|fast|faster|kernel|cuda)\b", source)


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.S))
def test_the_code_of_the_readme_runs(checkpoint: Path, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And every `# value` behind a line is what the line gives."""
    monkeypatch.chdir(ROOT)
    namespace: dict = {}
    exec(block, namespace)
    for expression, shown in re.findall(r"^(\S.*?)  # → (.*)$", block, re.M):
        assert str(eval(expression, namespace)) == shown, expression


def test_the_readme_shows_the_real_demo(checkpoint: Path) -> None:
    (shown,) = re.findall(r"```text\n(sentence-transformers/all-MiniLM-L6-v2: BERT.*?)```", README, re.S)
    printed = CliRunner().invoke(main, ["demo"]).stdout
    number = r"-?\d+\.\d{4}"  # another processor may round the last digit otherwise
    assert re.sub(number, "#", shown) == re.sub(number, "#", printed)
    for ours, theirs in zip(re.findall(number, shown), re.findall(number, printed), strict=True):
        assert abs(float(ours) - float(theirs)) < 2e-4
