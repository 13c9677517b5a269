"""What does one type?

One file for each group of commands, and each command prints what a few calls of the package return:

    checkpoints   download, list, info, convert
    texts         tokens, similarity, word, fill-mask
    corpus        embed, search
    trace         verify
    exercises     exercise list, start, check, hint, solution
    demo          demo

`minibert --help` and `minibert list` answer at once, because none of these files imports PyTorch, which takes a second
or two: a command imports what it needs when it runs.
"""

import warnings
from typing import Any

import click

from minibert import __version__
from minibert.cli.checkpoints import convert, download, info, list_checkpoints
from minibert.cli.corpus import embed, search
from minibert.cli.demo import show_demo
from minibert.cli.exercises import exercise
from minibert.cli.texts import fill_mask, similarity, tokens, word
from minibert.cli.trace import verify
from minibert.errors import MinibertError


class Commands(click.Group):
    """Commands whose errors and warnings are a line for the user, without a traceback or a line of code."""

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():  # restores showwarning as well
            warnings.showwarning = lambda message, *_: click.echo(f"Note: {message}", err=True)
            try:
                return super().invoke(ctx)
            except (MinibertError, OSError) as error:
                raise click.ClickException(str(error)) from None


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
    exercise,
    show_demo,
):
    main.add_command(command)
