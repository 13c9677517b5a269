"""What a user gets: imports that pull in nothing more, and a README that tells the truth."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.printed import difference

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
    """And every `# → value` behind a line is what the line gives, to one unit of the last printed digit."""
    monkeypatch.chdir(ROOT)
    namespace: dict = {}
    exec(block, namespace)
    for expression, shown in re.findall(r"^(\S.*?)  # → (.*)$", block, re.M):
        assert difference(shown, str(eval(expression, namespace))) is None, expression


def test_the_readme_shows_the_real_demo(checkpoint: Path) -> None:
    (shown,) = re.findall(r"```text\n(sentence-transformers/all-MiniLM-L6-v2: BERT.*?)```", README, re.S)
    printed = CliRunner().invoke(main, ["demo"]).stdout
    assert difference(shown, printed) is None


def test_every_public_report_has_a_test() -> None:
    tests = Path(__file__).parent
    rows = re.findall(
        r"^\| (\S+#\d+) \| (.+) \| `(.+?)(?:::(\w+))?` \|$", (tests / "PUBLIC_REPORTS.md").read_text(), re.M
    )
    assert len(rows) == (tests / "PUBLIC_REPORTS.md").read_text().count("\n| ") - 2  # and two lines of head
    for _, _, file, name in rows:
        assert f"def {name or 'test_'}" in (tests / file).read_text(), (file, name)
