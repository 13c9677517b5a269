"""The command line, in this process."""

from click.testing import CliRunner, Result

from minibert.cli import main


def run(*arguments: str, **options) -> Result:
    """What `minibert ARGUMENTS` prints, and its exit code; options are those of `CliRunner.invoke`."""
    return CliRunner().invoke(main, arguments, **options)
