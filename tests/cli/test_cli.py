"""Every command explains itself, starts fast, and reports a mistake in a line."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import run

from minibert import __version__
from minibert.cli import main

COMMANDS = sorted(main.commands)


def test_the_commands() -> None:
    assert [
        *(
            "convert",
            "decompose",
            "demo",
            "download",
            "embed",
            "evaluate",
            "exercise",
            "fill-mask",
            "finetune",
            "heads",
        ),
        *("info", "lens", "list", "pretrain", "search", "similarity", "tokens", "verify", "word"),
    ] == COMMANDS
    assert run("--version").output == f"minibert, version {__version__}\n"
    for command in COMMANDS:
        assert f"  {command} " in run("-h").output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example:\n    minibert {command}" in result.output


@pytest.mark.parametrize("arguments", [(), ("exercise",)])
def test_each_line_of_help_is_whole(arguments: tuple[str, ...]) -> None:
    """click cuts a summary that is too long for a line, and ends it in three dots."""
    lines = run(*arguments, "--help").output.partition("Commands:\n")[2].splitlines()
    assert lines
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


HEAVY = {"torch", "transformers", "matplotlib", "tokenizers", "huggingface_hub", "numpy"}


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["-h"], ["--version"], ["list"], ["exercise", "--help"], ["exercise", "list", "--help"]),
        *([command, "--help"] for command in COMMANDS),
    ],
    ids=" ".join,
)
def test_starts_without_pytorch(arguments: list[str]) -> None:
    code = "import sys; from minibert.cli import main; main(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "minibert.cli" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "arguments,code,message",
    [
        (["tokens", ""], 1, "Error: text 0 has nothing to encode: ''\n"),
        (["tokens", "text", "--model", "../x"], 1, "Error: a checkpoint's name must be 'name' or"),
        (["similarity", "only one"], 2, "similarity needs at least two texts, got one: put each in quotes"),
        (["similarity", "a", " "], 1, "Error: text 1 has nothing to encode: ' '"),
        (["word", "fly", "a butterfly", "a fly"], 1, "Error: sentence 0: 'fly' is no"),
        (["word", "fly", "a fly in my soup"], 2, "'fly' must occur at least twice, got one occurrence"),
        (["search", "nothing.txt", "fly"], 1, "Error: 'nothing.txt' cannot be read: No such file or directory"),
        (["info", "nobody/nothing"], 1, "Error: nobody/nothing is n"),
        (["downlod"], 2, "No such command 'downlod'"),
    ],
)
def test_mistakes_are_a_line_or_two(checkpoint: Path, arguments: list[str], code: int, message: str) -> None:
    """The messages of the package are tested with the modules that raise them: here, that they arrive."""
    result = run(*arguments)
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()) <= (2 if code == 1 else 4)  # click adds its usage to code 2


def test_a_damaged_checkpoint_as_the_shell_sees_it(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"half a fi")
    done = subprocess.run(
        [sys.executable, "-m", "minibert", "info", str(tmp_path / "damaged")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"Error: .*model\.safetensors is damaged .*: download it again\n", done.stderr)


def run_program(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """What a shell makes of a command line with `minibert` in it."""
    command = command.replace("minibert", f"{sys.executable} -m minibert")
    return subprocess.run(["bash", "-c", command], env={**os.environ, **environment}, capture_output=True, check=False)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16"])
@pytest.mark.parametrize("arguments", ["list", "exercise list", "tokens 東京→"])
def test_an_output_that_cannot_hold_every_character(checkpoint: Path, encoding: str, arguments: str) -> None:
    done = run_program(f"minibert {arguments}", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) > 100


def test_a_reader_that_has_read_enough() -> None:
    done = run_program("minibert exercise list | head -1")
    assert (done.returncode, done.stderr) == (0, b"")
    done = run_program("set -o pipefail; minibert exercise list | true")
    assert b"Traceback" not in done.stderr
    assert b"Error" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
@pytest.mark.parametrize("arguments", ["--help", "list", "list --help"])
def test_an_output_that_is_full(arguments: str) -> None:
    done = run_program(f"minibert {arguments} > /dev/full")
    assert done.returncode == 1
    assert done.stderr.decode() == "Error: the output cannot be written: No space left on device\n"


def test_a_closed_standard_input(checkpoint: Path, tmp_path: Path) -> None:
    done = run_program(f"minibert embed - -o {tmp_path}/out.npy <&-")
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    assert b"Error" in done.stderr
