"""Can I write it myself? The commands `exercise list`, `start`, `check`, `hint` and `solution`."""

import sys
from pathlib import Path

import click

from minibert.show import table

exercise_argument = click.argument("name")


@click.group()
def exercise() -> None:
    """Write a part of BERT yourself, and have it checked.

    \b
    Example:
      minibert exercise start attention
    """


@exercise.command("list")
def list_exercises() -> None:
    """List the exercises in the suggested order.

    \b
    Example:
      minibert exercise list
    """
    from minibert.teaching import EXERCISES

    rows = [["", "exercise", "what to write"]]
    for each in EXERCISES.values():
        rows.append(["begun" if Path(f"{each.name}.py").is_file() else "", each.name, each.task])
    click.echo(table(rows))


@exercise.command()
@exercise_argument
def start(name: str) -> None:
    """Write NAME.py, with a function for you to fill in.

    The file goes into the current folder. One that is there already is left as it is.

    \b
    Example:
      minibert exercise start attention
    """
    from minibert.teaching import exercises

    file = exercises.start(name)
    click.echo(f"{file}: write the function {name}, then: minibert exercise check {name}")


@exercise.command()
@exercise_argument
@click.option("--seconds", type=click.IntRange(1), default=60, show_default=True, help="How long NAME.py may run.")
@click.option(
    "--gibibytes",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="How much memory NAME.py may have; Linux alone enforces it.",
)
def check(name: str, seconds: int, gibibytes: int) -> None:
    """Check the function in NAME.py with real weights.

    NAME.py runs in a process of its own. If the function is not right, the answer says what went wrong, and the exit
    code is 1.

    \b
    Example:
      minibert exercise check attention
    """
    from minibert.teaching import isolated

    found = isolated.check_file(name, ".", seconds, gibibytes)
    if not found.correct:
        click.echo(f"{found}\nA hint: minibert exercise hint {name}")
        sys.exit(1)
    click.echo(f"{found}\nOurs: minibert exercise solution {name}")


@exercise.command()
@exercise_argument
@click.argument("step", type=click.IntRange(1, 3), default=1)
def hint(name: str, step: int) -> None:
    """Show a hint; STEP is 1, 2 or 3, and each says more.

    \b
    Example:
      minibert exercise hint attention 2
    """
    from minibert.teaching import exercises

    click.echo(exercises.hint(name, step))
    if step < 3:
        click.echo(f"More: minibert exercise hint {name} {step + 1}")


@exercise.command()
@exercise_argument
def solution(name: str) -> None:
    """Show minibert's own code for an exercise.

    \b
    Example:
      minibert exercise solution attention
    """
    from minibert.teaching import exercises

    click.echo(exercises.find(name).solution())
