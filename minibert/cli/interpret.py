"""Why does a BERT compute what it computes? The commands `decompose`, `lens` and `heads`."""

from typing import Any

import click

from minibert.checkpoints import store
from minibert.cli.options import HELP, masked_lm_option, model_option
from minibert.cli.texts import load_masked_lm
from minibert.show.tables import table

MASK = "[MASK]"


@click.command()
@click.argument("text")
@click.option("--token", help="The token whose logit is taken apart.  [default: the most probable one]")
@click.option("--position", type=int, help="The position in the text, counted from [CLS], which is 0.")
@click.option("--by", type=click.Choice(["part", "head"]), default="head", show_default=True, help="How finely.")
@click.option("--top", "k", type=click.IntRange(1), default=12, show_default=True, help="How many parts to show.")
@click.option(
    "--model", "name", help=f"{HELP}  [default: {store.MASKED_LM} for a text with {MASK}, else {store.DEFAULT}]"
)
def decompose(text: str, token: str | None, position: int | None, by: str, k: int, name: str | None) -> None:
    """Take a prediction or a hidden state apart.

    Either is a sum of what embeddings, heads, feed-forward blocks and biases add. For a text with [MASK], the parts of
    a token's logit there are shown, which needs a checkpoint with a masked-language-model head; for any other text,
    those of the last hidden state, at one position or as the mean over all. The scales of LayerNorms are taken as they
    are in this text.

    \b
    Example:
      minibert decompose "There was a fly drinking from my soup" --position 4
      minibert decompose "Hello I'm a [MASK] model."
    """
    from minibert import BertModel, BertTokenizer, interpret

    name = name or (store.MASKED_LM if MASK in text else store.DEFAULT)
    folder = store.resolve(name)
    tokenizer = BertTokenizer.from_pretrained(folder)
    inputs = tokenizer(text)
    options: Any = {"by": by, "position": position}
    if MASK in inputs.tokens():
        model = load_masked_lm(folder, name)
        parts = interpret.decompose(model, inputs, to="logit", token=token, **options)
    elif token is not None:
        raise click.UsageError(f"--token needs a text with {MASK}, in capitals and brackets, got {text!r}")
    else:
        parts = interpret.decompose(BertModel.from_pretrained(folder), inputs, **options)
    click.echo(parts.table(k))


@click.command()
@click.argument("text")
@click.option("--position", type=int, help="Show the most probable tokens at this position, counted from [CLS].")
@click.option("--top", "k", type=click.IntRange(1), help="How many tokens to show there.  [default: 5]")
@masked_lm_option
def lens(text: str, position: int | None, k: int | None, name: str) -> None:
    """Show what would be predicted after each layer.

    For a text with one [MASK], or with --position, the most probable tokens there; otherwise the most probable token at
    each position. The checkpoint needs a masked-language-model head.

    \b
    Example:
      minibert lens "He sat by the [MASK] bank."
    """
    from minibert import BertTokenizer, interpret

    folder = store.resolve(name)
    inputs = BertTokenizer.from_pretrained(folder)(text)
    one = position is not None or inputs.tokens().count(MASK) == 1
    if k is not None and not one:
        raise click.UsageError(f"--top needs a text with one {MASK}, or --position")
    found = interpret.logit_lens(load_masked_lm(folder, name), inputs)
    click.echo(found.at(position, k=k or 5) if one else found)


@click.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@model_option
def heads(texts: tuple[str, ...], name: str) -> None:
    """Show what each attention head looks at.

    Each number is a mean over all tokens of the texts: the entropy of a head's attention in nats, how far it looks in
    tokens, and how much of its attention goes to a token itself, to the one before or after it, to [CLS], [SEP] and
    punctuation.

    \b
    Example:
      minibert heads "There was a fly drinking from my soup"
    """
    from minibert import BertModel, BertTokenizer, interpret

    folder = store.resolve(name)
    found = interpret.survey(BertModel.from_pretrained(folder), BertTokenizer.from_pretrained(folder), texts).heads
    rows = [["layer", "head", *found]]
    layers, count = next(iter(found.values())).shape
    for layer in range(layers):
        for head in range(count):
            rows.append([str(layer), str(head), *(f"{values[layer, head]:.2f}" for values in found.values())])
    click.echo(table(rows, right=range(len(rows[0]))))
