"""A student's file runs in a process of its own: whatever it does there, it is answered, and never called right."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from minibert.cli import main
from minibert.errors import ExerciseError
from minibert.teaching import isolated

RIGHT = "import torch.nn.functional as F\ndef gelu(x): return F.gelu(x)\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, code: str, *options: str) -> Result:
    Path(f"{name}.py").write_text(code, encoding="utf-8")
    return CliRunner().invoke(main, ["exercise", "check", name, *options])


def test_a_right_answer_beside_a_file_that_has_the_name_of_a_package(here: Path) -> None:
    Path("random.py").write_text("raise ZeroDivisionError", encoding="utf-8")
    Path("torch.py").write_text("raise ZeroDivisionError", encoding="utf-8")
    checked = run("gelu", RIGHT)
    assert checked.exit_code == 0, checked.output
    assert checked.output.startswith("Right. The same")


def test_a_part_of_training_is_checked_in_a_process_as_well(here: Path) -> None:
    code = "def learning_rate(step, peak, warmup, steps):\n    return peak * (1 - step / steps)\n"
    checked = run("learning_rate", code)
    assert checked.exit_code == 1
    assert checked.output.startswith("Not yet. The first thing that differs is the rate of step 0 of 20")
    assert "no warm-up" in checked.output


OWN_LINEAR = (
    "import torch\ndef pooler(self, hidden):\n    self.dense.weight.data.zero_(); self.dense.bias.data.zero_()\n"
)

DAMAGE = [
    # what is written, what is asked of it, and what is said
    (
        "pooler",
        OWN_LINEAR + "    return torch.zeros(len(hidden), hidden.shape[-1])\n",
        "pooler changes the weights of pooler.dense",
    ),
    (
        "gelu",
        "import torch\ntorch.allclose = torch.equal = lambda *a, **k: True\ndef gelu(x): return x + 182\n",
        "No single known mistake gives these numbers",
    ),
    (
        "gelu",
        "import os\ndef gelu(x): os._exit(0)\n",
        "gelu.py ends Python (exit code 0) before its function has returned",
    ),
    ("gelu", "while True: pass\n", "gelu.py must end within 1 seconds, and did not: look for a loop without an end"),
    ("gelu", "def gelu(x): raise KeyboardInterrupt\n", "gelu.py raises KeyboardInterrupt"),
    ("gelu", "import torch\ndef gelu(x): return torch.empty(3 * 2**28)\n", "it asks for more memory than it may have"),
    ("gelu", "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n", "is ended by the signal SIGTERM"),
]


@pytest.mark.parametrize("name, code, said", DAMAGE, ids=[said for *_, said in DAMAGE])
def test_what_a_file_does_to_its_process_is_said(name: str, code: str, said: str, here: Path) -> None:
    checked = run(name, code, "--seconds", "1" if "while True" in code else "60", "--gibibytes", "1")
    assert checked.exit_code == 1
    assert said in checked.output
    assert "Right" not in checked.output
    assert sorted(each.name for each in here.iterdir()) == [f"{name}.py"]


def test_an_answer_that_is_cut_off_is_none(tmp_path: Path) -> None:
    save_file({}, tmp_path / "0.safetensors", {"problem": '"none"'})
    (tmp_path / "1.safetensors").write_bytes((tmp_path / "0.safetensors").read_bytes()[:-1])
    answers = isolated._answers(tmp_path, Path("gelu.py"), 0)
    assert next(answers).problem == "none"
    with pytest.raises(ExerciseError, match="before its function has returned"):
        next(answers)


@pytest.mark.parametrize("limit", ["seconds", "gibibytes"])
def test_a_limit_is_a_positive_integer(limit: str, here: Path) -> None:
    with pytest.raises(ExerciseError, match=f"{limit} must be a positive integer, got 0"):
        isolated.check_file("gelu", ".", **{limit: 0})
