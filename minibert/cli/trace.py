"""What happens inside a BERT, and is it the same as in transformers? The command `verify`."""

import sys

import click

from minibert.cli.options import name_argument


@click.command()
@name_argument
@click.option("--gradients", is_flag=True, help="Compare the gradients of every value and parameter as well.")
@click.option("--training", is_flag=True, help="Train both for five steps with dropout, and compare these as well.")
@click.option("--json", "output", flag_value="json", help="Print the whole certificate as JSON.")
@click.option("--markdown", "output", flag_value="markdown", help="Print the whole certificate as Markdown.")
def verify(name: str, gradients: bool, training: bool, output: str | None) -> None:
    """Compare every value inside a BERT with transformers.

    NAME is a checkpoint's name, or the path of its folder. Without it, the default checkpoint is compared. The exit
    code is 1 if any value is not equal. With --training, the checkpoint's heads are compared as well.

    \b
    Example:
      minibert verify sentence-transformers/all-MiniLM-L6-v2
      minibert verify rxnfp/bert_pretrained --training
    """
    from minibert import trace

    certificate = trace.verify(name, gradients=gradients, training=training)
    if output == "json":
        click.echo(certificate.to_json())
    elif output == "markdown":
        click.echo(certificate.to_markdown())
    else:
        click.echo(certificate)
    if not certificate.equal:
        sys.exit(1)
