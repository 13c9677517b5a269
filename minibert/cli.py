"""The command line, thin: each command prints what one or two calls of the package return."""

import sys
from typing import Any

import click
import torch
from torch import nn

from minibert import __version__, store
from minibert.checkpoint import WEIGHTS_FILE
from minibert.config import BertConfig
from minibert.demo import demo
from minibert.errors import MinibertError
from minibert.model import BertModel
from minibert.pooling import mean_pool
from minibert.similarity import cosine_similarity
from minibert.tables import matrix, table
from minibert.tokenizer import BertTokenizer


class Commands(click.Group):
    """Commands whose errors are a line for the user, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MinibertError as error:
            raise click.ClickException(str(error)) from None


name_argument = click.argument("name", default=store.DEFAULT)
model_option = click.option(
    "--model", "name", default=store.DEFAULT, show_default=True, help="A checkpoint's name, or its folder."
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="minibert")
def main() -> None:
    """BERT, written by hand.

    Start with 'minibert download', which fetches the default checkpoint.
    """


@main.command()
@name_argument
def download(name: str) -> None:
    """Bring a checkpoint into the store and verify it.

    \b
    Example:
      minibert download sentence-transformers/all-MiniLM-L6-v2
    """
    click.echo(f"{name} → {store.store_folder()}", err=True)
    folder = store.download(name)
    pinned = len(store.catalogue().get(name, store.Checkpoint(name)).sha256)
    verified = f"{pinned} files, every sha256 as pinned" if pinned else "not in the catalogue, so no sha256 to check"
    click.echo(f"{folder}: {verified}")


@main.command()
@name_argument
def info(name: str) -> None:
    """Show a checkpoint's architecture, with the parameters of each part.

    \b
    Example:
      minibert info sentence-transformers/all-MiniLM-L6-v2
    """
    folder = store.resolve(name)
    model = BertModel.from_pretrained(folder)
    click.echo(describe(model.config))
    click.echo()
    click.echo(table(count_parameters(model), right=(2,)))
    click.echo()
    weights = folder / WEIGHTS_FILE
    dtypes = ", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}))
    click.echo(f"{weights}: {weights.stat().st_size:,} bytes, {dtypes}\nsha256 {store.sha256(weights)}")


@main.command()
@click.argument("text")
@model_option
def tokens(text: str, name: str) -> None:
    """Show the pieces a text is cut into, their ids and where in the text they stand.

    \b
    Example:
      minibert tokens "Hello, how are you?"
    """
    inputs = BertTokenizer.from_pretrained(name)(text)
    rows = [["", "token", "id", "characters", "text"]]
    for place, (token, number, (start, end)) in enumerate(
        zip(inputs.tokens(), inputs["input_ids"][0].tolist(), inputs.offsets(), strict=True)
    ):
        rows.append([str(place), token, str(number), f"{start}–{end}" if end else "", text[start:end]])
    click.echo(table(rows, right=(0, 2)))


@main.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT TEXT...")
@model_option
@torch.inference_mode()
def similarity(texts: tuple[str, ...], name: str) -> None:
    """Show how close texts are: the cosines of their mean token vectors.

    \b
    Example:
      minibert similarity "a river bank" "a savings bank" "the shore of a river"
    """
    if len(texts) < 2:
        raise click.UsageError("one text has nothing to be compared with: give two or more, each in quotes")
    folder = store.resolve(name)
    inputs = BertTokenizer.from_pretrained(folder)(list(texts))
    vectors = mean_pool(BertModel.from_pretrained(folder)(**inputs).last_hidden_state, inputs["attention_mask"])
    click.echo(matrix(texts, cosine_similarity(vectors)))


@main.command("demo")
def show_demo() -> None:
    """Show what minibert does, on the default checkpoint, in one screen.

    \b
    Example:
      minibert demo
    """
    if not demo():
        sys.exit(1)


def describe(config: BertConfig) -> str:
    """The sizes of a BERT in two lines."""
    return (
        f"BERT: {config.num_hidden_layers} layers, hidden size {config.hidden_size}, "
        f"{config.num_attention_heads} heads of width {config.head_width}, feed-forward {config.intermediate_size} "
        f"({config.hidden_act})\n"
        f"{config.vocab_size:,} tokens, at most {config.max_position_embeddings} in a sequence, "
        f"{config.type_vocab_size} segments"
    )


def count_parameters(model: BertModel) -> list[list[str]]:
    """Rows of part, shapes and parameters; the layers are alike, so one stands for all."""

    def count(module: nn.Module) -> str:
        return f"{sum(parameter.numel() for parameter in module.parameters()):,}"

    layers = model.encoder.layers
    rows = [["part", "shapes", "parameters"]]
    for title, part in (
        ("embeddings", model.embeddings),
        (f"encoder, {len(layers)} layers of", layers[0]),
        ("pooler", model.pooler),
    ):
        rows.append([title, "", count(part)])
        for name, module in part.named_modules():
            shapes = [" × ".join(map(str, parameter.shape)) for parameter in module.parameters(recurse=False)]
            if shapes:
                rows.append([f"  {name}", " + ".join(shapes), count(module)])
    return [*rows, ["all", "", count(model)]]
