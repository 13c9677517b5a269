"""The demo fits on a screen, and tells the truth."""

import sys
from pathlib import Path

import pytest
import transformers
from support.command_line import run


def test_the_demo(checkpoint: Path) -> None:
    result = run("demo")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) <= 25
    assert "sha256 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db" in result.output
    assert f"equal to transformers {transformers.__version__}, to the last bit" in result.output


def test_the_demo_sees_a_difference(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minibert.model import ACTIVATIONS, gelu_tanh

    monkeypatch.setitem(ACTIVATIONS, "gelu", gelu_tanh)
    result = run("demo")
    assert result.exit_code == 1
    assert f"values differ from transformers {transformers.__version__}, the first is " in result.output


def test_the_demo_without_transformers(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it fails
    result = run("demo")
    assert result.exit_code == 0
    assert "not compared: verify compares with transformers: pip install" in result.output
