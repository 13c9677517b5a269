"""What does one type?

One file for each group of commands, and each command prints what a few calls of the package return:

    checkpoints   download, list, info, convert
    texts         tokens, similarity, word, fill-mask
    corpus        embed, search
    training      pretrain, finetune, evaluate
    trace         verify
    interpret     decompose, lens, heads
    exercises     exercise list, start, check, hint, solution
    demo          demo

`minibert --help` and `minibert list` answer at once, because none of these files imports PyTorch, which takes a second
or two: a command imports what it needs when it runs.
"""

import contextlib
import io
import os
import sys
import warnings
from typing import Any

import click

from minibert import __version__
from minibert.cli.checkpoints import convert, download, info, list_checkpoints
from minibert.cli.corpus import embed, search
from minibert.cli.demo import show_demo
from minibert.cli.exercises import exercise
from minibert.cli.interpret import decompose, heads, lens
from minibert.cli.texts import fill_mask, similarity, tokens, word
from minibert.cli.trace import verify
from minibert.cli.training import evaluate, finetune, pretrain
from minibert.errors import MinibertError


class Commands(click.Group):
    """Commands whose errors and warnings are a line for the user, without a traceback or a line of code."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # for what an encoding such as cp1252 does not have
        try:
            return super().main(*arguments, **options)
        except OSError as error:  # the output cannot be written, as to a full disk
            _discard_output()
            with contextlib.suppress(OSError):
                click.echo(f"Error: the output cannot be written: {error.strerror}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():  # restores showwarning as well
            warnings.showwarning = lambda message, *_: click.echo(f"Note: {message}", err=True)
            try:
                result = super().invoke(ctx)
                if sys.stdout is not None:  # as it is when it is closed, by >&-
                    sys.stdout.flush()
                return result
            except MinibertError as error:
                raise click.ClickException(str(error)) from None
            except BrokenPipeError:  # whoever read the output has read enough
                _discard_output()
                sys.exit(1)
            except OSError as error:
                if error.filename is None:  # not a file that the user named
                    raise
                raise click.ClickException(str(error)) from None


def _discard_output() -> None:
    """Sends the rest of the output nowhere, so that Python does not fail once more when it exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="minibert")
def main() -> None:
    """BERT, written by hand.

    Start with 'minibert download', which fetches the default checkpoint.
    """


for command in (
    download,
    list_checkpoints,
    info,
    convert,
    tokens,
    similarity,
    word,
    fill_mask,
    embed,
    search,
    verify,
    decompose,
    lens,
    heads,
    pretrain,
    finetune,
    evaluate,
    exercise,
    show_demo,
):
    main.add_command(command)
