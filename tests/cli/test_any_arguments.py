"""Whatever is typed, and whatever the output can hold, a command prints its result or one line of error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from support.command_line import run
from support.examples import examples

from minibert import SentenceEncoder
from minibert.cli import main

few = examples(25, suppress_health_check=[HealthCheck.function_scoped_fixture])

# What a shell can hand over: any bytes but null; those that are not UTF-8 arrive as lone surrogates.
words = st.binary(max_size=12).map(lambda content: os.fsdecode(content.replace(b"\0", b"")))
written = st.text(max_size=8).map(lambda text: text.replace("\0", ""))
texts = written | words | st.sampled_from(["a fly", "[MASK]", "-1", "0", "--", "-", "10" * 30, "~x"])
commands = st.sampled_from(
    ["tokens", "similarity", "word", "search", "embed", "info", "fill-mask", "decompose", "heads", "lens"]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("typed")
    (folder / "corpus.txt").write_text("one\ntwo\n")
    return folder


@few
@given(command=commands, arguments=st.lists(texts, max_size=3))
def test_any_arguments(
    small: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, arguments: list[str]
) -> None:
    monkeypatch.chdir(folder)
    options = {"info": [], "search": ["corpus.txt"], "embed": ["-o", "out.npy"]}.get(command, [])
    if command != "info":
        options += ["--model", str(small)]
    result = run(command, *options, *arguments, input=b"a line\n")
    assert isinstance(result.exception, SystemExit | None)
    assert result.exit_code in (0, 1, 2)
    assert result.exit_code == 0 or "rror: " in result.stderr


@few
@given(
    encoding=st.sampled_from(["ascii", "cp1252", "latin-1", "cp437", "shift_jis", "utf-8", "utf-16"]),
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
)
def test_any_output_encoding(small: Path, encoding: str, text: str) -> None:
    result = CliRunner(charset=encoding).invoke(main, ["tokens", "--model", str(small), "--", text])
    assert isinstance(result.exception, SystemExit | None)
    assert result.exit_code == 0 or "has nothing to encode" in result.stderr


def test_a_closed_standard_output() -> None:
    program = f"{sys.executable} -m minibert list"
    done = subprocess.run(["bash", "-c", f"{program} >&-"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("show", [None, True, False])
def test_a_closed_standard_error(small: Path, monkeypatch: pytest.MonkeyPatch, show: bool | None) -> None:
    """There is nowhere for a progress bar."""
    encoder = SentenceEncoder.from_pretrained(small)
    monkeypatch.setattr(sys, "stderr", None)
    assert encoder.encode(["a fly"], show_progress_bar=show).shape == (1, 24)
