"""The command line, thin: each command prints what one or two calls of the package return."""

import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from minibert import __version__, store
from minibert.checkpoint import Pretrained
from minibert.config import BertConfig
from minibert.demo import demo
from minibert.errors import MinibertError, NewParametersWarning, StoreError
from minibert.heads import BertForMaskedLM, model_class
from minibert.model import BertModel, Encoder
from minibert.pooling import mean_pool
from minibert.similarity import cosine_similarity
from minibert.tables import matrix, table
from minibert.tokenizer import BertTokenizer
from minibert.weights import FORMS


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


@main.command("list")
def list_checkpoints() -> None:
    """List the checkpoints that minibert knows; any other BERT loads by its name as well.

    \b
    Example:
      minibert list
    """
    rows = [["", "name", "licence", "what it is"]]
    for known in store.catalogue().values():
        here = "✓" if (store.store_folder() / known.name).is_dir() else ""
        rows.append([here, known.name, known.licence, known.description])
    click.echo(table(rows))
    click.echo(f"\n✓ in the store {store.store_folder()}")


@main.command()
@name_argument
@click.option("--tensors", is_flag=True, help="Also show what became of every tensor of the file.")
def info(name: str, tensors: bool) -> None:
    """Show a checkpoint's architecture, the parameters of each part, and how its file was read.

    \b
    Example:
      minibert info sentence-transformers/all-MiniLM-L6-v2 --tensors
    """
    folder = store.resolve(name)
    model = model_class(folder).from_pretrained(folder)
    if tensors:
        click.echo(model.load_report.table())
        click.echo()
    click.echo(describe(model.config))
    click.echo()
    click.echo(table(count_parameters(model), right=(2,)))
    click.echo()
    file = Path(model.load_report.source)
    click.echo(model.load_report)
    for part in sorted(file.parent.glob(FORMS[file.name])) if FORMS[file.name] else [file]:
        click.echo(f"{part.stat().st_size:,} bytes, sha256 {store.sha256(part)}")


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


@main.command()
@click.argument("text")
@click.option("-k", "--top-k", default=5, show_default=True, type=click.IntRange(1), help="How many words to show.")
@click.option("--model", "name", required=True, help="A checkpoint with a masked-language-model head, or its folder.")
@torch.inference_mode()
def fill_mask(text: str, top_k: int, name: str) -> None:
    """Show which words fit where the text has [MASK], with their probabilities.

    \b
    Example:
      minibert fill-mask "Hello I'm a [MASK] model." --model google-bert/bert-base-uncased
    """
    folder = store.resolve(name)
    tokenizer = BertTokenizer.from_pretrained(folder)
    inputs = tokenizer(text)
    places = [place for place, token in enumerate(inputs.tokens()) if token == "[MASK]"]
    if not places:
        raise click.UsageError("the text has no [MASK], in capitals and brackets, to be filled")
    with warnings.catch_warnings():  # a head that starts at random knows no words
        warnings.simplefilter("error", NewParametersWarning)
        try:
            model = BertForMaskedLM.from_pretrained(folder)
        except NewParametersWarning:
            raise click.ClickException(f"{name} has no head for masked words: take a pretrained checkpoint") from None
    probabilities = model(**inputs).logits[0].softmax(dim=-1)  # (S, V)
    for place in places:
        known = probabilities[place, : len(tokenizer)]  # some vocabularies are filled up to a round number
        best = known.topk(min(top_k, len(known)))
        words = [tokenizer.decode([number]) for number in best.indices.tolist()]
        chances = [f"{chance:.4f}" for chance in best.values.tolist()]
        click.echo(table([["[MASK]", f"token {place}"], *zip(words, chances, strict=True)], right=(1,)))


@main.command()
@click.argument("name")
@click.argument("folder", type=click.Path(file_okay=False))
def convert(name: str, folder: str) -> None:
    """Write a checkpoint of any dialect as clean safetensors, heads included, with its tokenizer files.

    \b
    Example:
      minibert convert allenai/scibert_scivocab_uncased ./scibert
    """
    source, target = store.resolve(name), Path(folder)
    model = model_class(source).from_pretrained(source)
    model.save_pretrained(target)
    try:
        for file in store.TOKENIZER_FILES:
            if (source / file).is_file() and source.resolve() != target.resolve():
                shutil.copyfile(source / file, target / file)
    except OSError as error:
        raise StoreError(f"cannot copy the tokenizer's files to {folder}: {error}") from None
    click.echo(f"{model.load_report}\nwritten to {folder}")


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


def count_parameters(model: Pretrained) -> list[list[str]]:
    """Rows of part, shapes and parameters; the layers are alike, so one stands for all."""

    def count(module: nn.Module) -> str:
        return f"{sum(parameter.numel() for parameter in module.parameters()):,}"

    bert = model if isinstance(model, BertModel) else model.get_submodule("bert")
    parts = {**dict(bert.named_children()), **dict(model.named_children())}
    rows = [["part", "shapes", "parameters"]]
    for title, part in parts.items():
        if part is bert or not list(part.parameters()):
            continue
        if isinstance(part, Encoder):
            title, part = f"encoder, {len(part.layers)} layers of", part.layers[0]
        rows.append([title, "", count(part)])
        for name, module in part.named_modules():
            shapes = [" × ".join(map(str, parameter.shape)) for parameter in module.parameters(recurse=False)]
            if shapes:
                own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
                rows.append([f"  {name or 'itself'}", " + ".join(shapes), f"{own:,}"])
    return [*rows, ["all", "", count(model)]]
