"""How is a file of texts embedded and searched? The commands `embed` and `search`."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from minibert.cli.options import model_option
from minibert.errors import TextError
from minibert.show import table

if TYPE_CHECKING:
    from torch import Tensor

    from minibert import SentenceEncoder

# As the package has them. They are repeated here because the modules that define them import PyTorch, and `--help` does
# without it; a test compares the two.
POOLING = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
BATCH_TOKENS = 1024

# Extensions of files whose lines are not texts, or that have none.
NOT_LINES = {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".bz2", ".xz", ".zst", ".zip"}


@click.command()
@click.argument("corpus", type=click.Path(dir_okay=False, allow_dash=True), metavar="FILE|-")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False),
    help="A file ending in .safetensors, .npy or .jsonl.",
)
@model_option
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option("--pooling", type=click.Choice(POOLING), help="Pooling to use instead of the checkpoint's own.")
@click.option("--layer", default=-1, show_default=True, help="Layer whose output is pooled: 1 the first, -1 the last.")
@click.option("--prompt-name", help="Name of a prompt of the checkpoint, to put before each text.")
@click.option(
    "--batch-tokens",
    default=BATCH_TOKENS,
    show_default=True,
    type=click.IntRange(1),
    help="Maximum number of tokens computed at a time.",
)
@click.option("--device", default="cpu", show_default=True, help="Device to compute on: cpu, cuda, cuda:1, mps.")
def embed(
    corpus: str,
    output: str,
    name: str,
    resume: bool,
    pooling: str | None,
    layer: int,
    prompt_name: str | None,
    batch_tokens: int,
    device: str,
) -> None:
    """Write the vector of each line of a file.

    FILE has one text per line; "-" is standard input. The extension of the output says its format: .safetensors holds a
    tensor "vectors", .npy an array, .jsonl a text and its vector per line. An interrupted run loses nothing: repeat the
    command with --resume.

    \b
    Example:
      minibert embed corpus.txt -o corpus.safetensors
    """
    from minibert import SentenceEncoder, sentences

    if Path(corpus).resolve() == Path(output).resolve():
        raise click.UsageError(f"output must not be the file of texts, got {output!r}: it would be overwritten")
    encoder = SentenceEncoder.from_pretrained(name, pooling=pooling, layer=layer)
    try:
        encoder.to(device).encode("a fly")
    except (RuntimeError, AssertionError) as error:
        raise click.ClickException(f"cannot compute on {device!r}: {str(error).splitlines()[0]}") from None
    with open_lines(corpus) as texts, texts_named(line_of(corpus)):
        count = sentences.embed(
            encoder, texts, output, resume=resume, prompt_name=prompt_name, batch_tokens=batch_tokens
        )
    click.echo(f"{output}: {count:,} vectors of {encoder.dimension} numbers")


@click.command()
@click.argument("corpus", type=click.Path(dir_okay=False, allow_dash=True), metavar="FILE|-")
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@click.option("-k", "--top-k", default=5, show_default=True, type=click.IntRange(1), help="Number of lines to show.")
@click.option("--vectors", type=click.Path(dir_okay=False), help="The .safetensors file that 'embed' wrote for FILE.")
@model_option
def search(corpus: str, queries: tuple[str, ...], top_k: int, vectors: str | None, name: str) -> None:
    """Find the lines of a file closest in meaning to a query.

    FILE has one text per line; "-" is standard input. With --vectors, only the queries are computed.

    \b
    Example:
      minibert search corpus.txt "somebody plays the drums" -k 3
    """
    from minibert import SentenceEncoder

    with open_lines(corpus) as lines:
        texts = list(lines)
    if not texts:
        raise click.ClickException(f"{corpus} is empty: there is nothing to search in")
    if vectors:
        searched, encoder = read_embedded(vectors, corpus, texts, name)
    else:
        encoder = SentenceEncoder.from_pretrained(name)
        with texts_named(line_of(corpus)):
            searched = encoder.encode(texts, prompt=encoder.corpus_prompt())
    tables = []
    with texts_named(lambda index: f"query {index + 1}"):
        found = encoder.search(queries, searched, top_k, corpus_prompt=encoder.corpus_prompt())
    for query, hits in zip(queries, found, strict=True):
        rows = [[f"{hit.score:.4f}", str(hit.corpus_id + 1), texts[hit.corpus_id]] for hit in hits]
        tables.append(f"{query}\n{table([['score', 'line', 'text'], *rows], right=(1,))}")
    click.echo("\n\n".join(tables))


def read_embedded(file: str, corpus: str, texts: list[str], name: str) -> tuple[Tensor, SentenceEncoder]:
    """The vectors (N, E) in a file that `embed` wrote, and the encoder that made them.

    Raises:
        ClickException: the vectors are those of different texts, or of a different model.
    """
    from minibert import SentenceEncoder
    from minibert.sentences import read_vectors
    from minibert.sentences.vector_files import digest

    vectors, made_from = read_vectors(file)
    if len(vectors) != len(texts) or made_from["texts_sha256"] != digest(texts):
        raise click.ClickException(f"{file} was not made from {corpus} as it is now: embed it again")
    pooling, layers = json.loads(made_from["pooling"]), json.loads(made_from["layers"])
    encoder = SentenceEncoder.from_pretrained(name, pooling=pooling, layer=layers)
    if made_from["encoder"] != encoder.fingerprint():
        raise click.ClickException(f"{file} was made by a different model than {name}: give that one with --model")
    if made_from["prompt"] != encoder.corpus_prompt():
        raise click.ClickException(
            f"{file} was made with the prompt {made_from['prompt']!r} before each text, and a search takes "
            f"{encoder.corpus_prompt()!r}: embed it again with that one (--prompt-name)"
        )
    return vectors, encoder


@contextlib.contextmanager
def texts_named(name: Callable[[int], str]) -> Iterator[None]:
    """Names texts in errors and warnings as the user knows them: `name` has their index in the package's messages."""

    def named(message: object) -> str:
        return re.sub(r"^text (\d+)", lambda match: name(int(match[1])), str(message))

    show = warnings.showwarning
    warnings.showwarning = lambda message, *where: show(named(message), *where)
    try:
        yield
    except TextError as error:
        raise click.ClickException(named(error)) from None
    finally:
        warnings.showwarning = show


def line_of(file: str) -> Callable[[int], str]:
    """The name of a text in a file: its line, counted from 1."""
    where = "standard input" if file == "-" else file
    return lambda index: f"line {index + 1:,} of {where}"


@contextlib.contextmanager
def open_lines(file: str) -> Iterator[Iterator[str]]:
    """The texts in a file, one per line; "-" is standard input."""
    from minibert.sentences.corpus import read_lines

    if Path(file).suffix.lower() in NOT_LINES:
        raise click.UsageError(
            f"FILE must hold one text per line, got {file!r}, whose lines are not the texts: write the texts into a "
            "file of their own, or pipe them in as '-'"
        )
    if file == "-":
        if sys.stdin is None:
            raise click.UsageError("standard input is closed: give a file")
        yield read_lines(sys.stdin.buffer, "standard input")
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 (an error of what is done with the lines is another)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise click.ClickException(f"{file!r} cannot be read: {reason}") from None
    with stream:
        yield read_lines(stream, file)
