"""What does one type? The command line, thin: each command prints what one or two calls of the package return."""

import contextlib
import itertools
import json
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from minibert import __version__
from minibert.checkpoints import layout, store
from minibert.checkpoints.loading import Pretrained
from minibert.config import BertConfig
from minibert.errors import MinibertError, NewParametersWarning, StoreError
from minibert.heads import BertForMaskedLM, model_class
from minibert.model import BertModel, Encoder
from minibert.sentences import SentenceEncoder, read_vectors
from minibert.sentences import embed as write_vectors
from minibert.sentences.corpus import read_lines
from minibert.sentences.vector_files import FORMATS, digest
from minibert.show.tables import matrix, table
from minibert.teaching import exercises
from minibert.tokenizer import BertTokenizer
from minibert.trace.certificate import verify
from minibert.vectors.batches import BATCH_TOKENS
from minibert.vectors.pooling import POOLING
from minibert.vectors.similarity import pairwise_similarity
from minibert.vectors.words import embed_words, find_word


class Commands(click.Group):
    """Commands whose errors and warnings are a line for the user, not a traceback and not a line of code."""

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():  # which also puts back what is shown how
            warnings.showwarning = lambda message, *_: click.echo(f"Note: {message}", err=True)
            try:
                return super().invoke(ctx)
            except (MinibertError, OSError) as error:
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


@main.command("verify")
@name_argument
@click.option("--json", "form", flag_value="json", help="Print the whole certificate as JSON.")
@click.option("--markdown", "form", flag_value="markdown", help="Print the certificate as Markdown.")
def verify_command(name: str, form: str | None) -> None:
    """Compare every value inside a checkpoint's BERT with transformers; the exit code is 1 if any is not equal.

    \b
    Example:
      minibert verify sentence-transformers/all-MiniLM-L6-v2
    """
    certificate = verify(name)
    written = {None: certificate.__str__, "json": certificate.to_json, "markdown": certificate.to_markdown}
    click.echo(written[form]())
    if not certificate.equal:
        sys.exit(1)


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
    for part in sorted(file.parent.glob(layout.WEIGHTS[file.name])) if layout.WEIGHTS[file.name] else [file]:
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
def similarity(texts: tuple[str, ...], name: str) -> None:
    """Show how close texts are: the similarities of their vectors, cosines for nearly every checkpoint.

    \b
    Example:
      minibert similarity "a river bank" "a savings bank" "the shore of a river"
    """
    if len(texts) < 2:
        raise click.UsageError("one text has nothing to be compared with: give two or more, each in quotes")
    encoder = SentenceEncoder.from_pretrained(name)
    click.echo(matrix(texts, encoder.similarity(encoder.encode(texts)).tolist()))


@main.command()
@click.argument("corpus", type=click.Path(dir_okay=False, allow_dash=True), metavar="FILE|-")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help=f"Ends in {', '.join(FORMATS)}.")
@model_option
@click.option("--resume", is_flag=True, help="Go on where an interrupted run ended.")
@click.option("--pooling", type=click.Choice(list(POOLING)), help="Instead of the checkpoint's own, or of the mean.")
@click.option("--layer", default=-1, show_default=True, help="Pool this layer's output: 1 is the first, -1 the last.")
@click.option("--prompt-name", help="Put this prompt of the checkpoint before each text.")
@click.option(
    "--batch-tokens", default=BATCH_TOKENS, show_default=True, type=click.IntRange(1), help="Tokens at a time."
)
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, cuda:1, mps.")
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
    """Write the vector of every line of a file, or of standard input.

    The form of the output is told by its ending: a tensor "vectors" in .safetensors, an array in .npy, text and vector
    in .jsonl. An interrupted run loses nothing: give the same command with --resume.

    \b
    Example:
      minibert embed corpus.txt -o corpus.safetensors
    """
    if Path(corpus).resolve() == Path(output).resolve():
        raise click.UsageError(f"{output} is the file of the texts: it would be overwritten")
    encoder = SentenceEncoder.from_pretrained(name, pooling=pooling, layer=layer)
    try:
        encoder.to(device).encode("a fly")
    except (RuntimeError, AssertionError) as error:
        raise click.ClickException(f"cannot compute on {device!r}: {str(error).splitlines()[0]}") from None
    with open_lines(corpus) as texts:
        count = write_vectors(encoder, texts, output, resume=resume, prompt_name=prompt_name, batch_tokens=batch_tokens)
    click.echo(f"{output}: {count:,} vectors of {encoder.dimension} numbers")


@main.command()
@click.argument("corpus", type=click.Path(dir_okay=False, allow_dash=True), metavar="CORPUS")
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@click.option("-k", "--top-k", default=5, show_default=True, type=click.IntRange(1), help="How many lines to show.")
@click.option("--vectors", type=click.Path(dir_okay=False), help="The .safetensors that 'embed' made of the corpus.")
@model_option
def search(corpus: str, queries: tuple[str, ...], top_k: int, vectors: str | None, name: str) -> None:
    """Find the lines of a file that are closest to a query in meaning.

    With the vectors that 'minibert embed' made of the file, nothing but the query is computed.

    \b
    Example:
      minibert search corpus.txt "somebody plays the drums" -k 3
    """
    with open_lines(corpus) as lines:
        texts = list(lines)
    if not texts:
        raise click.ClickException(f"{corpus} is empty: there is nothing to search in")
    if vectors:
        source, made_of = read_vectors(vectors)
        if made_of["texts_sha256"] != digest(texts):
            raise click.ClickException(f"{vectors} was not made of {corpus} as it is now: embed it again")
        pooling, layers = json.loads(made_of["pooling"]), json.loads(made_of["layers"])
        encoder = SentenceEncoder.from_pretrained(name, pooling=pooling, layer=layers)
        if made_of["encoder"] != encoder.fingerprint():
            raise click.ClickException(f"{vectors} was made by another model than {name}: say which with --model")
    else:
        source, encoder = None, SentenceEncoder.from_pretrained(name)
    found = []
    for query, hits in zip(queries, encoder.search(queries, texts if source is None else source, top_k), strict=True):
        rows = [[f"{hit.score:.4f}", str(hit.corpus_id + 1), texts[hit.corpus_id]] for hit in hits]
        found.append(f"{query}\n{table([['score', 'line', 'text'], *rows], right=(1,))}")
    click.echo("\n\n".join(found))


@main.command()
@click.argument("word")
@click.argument("sentences", nargs=-1, required=True, metavar="SENTENCE SENTENCE...")
@model_option
def word(word: str, sentences: tuple[str, ...], name: str) -> None:
    """Show how close a word is to itself in other sentences, layer by layer.

    Every occurrence of the word counts; the cosines are of its vectors at the embeddings and after each layer.

    \b
    Example:
      minibert word fly "a fly in my soup" "he had to fly home"
    """
    folder = store.resolve(name)
    tokenizer, model = BertTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder)
    places = [max(1, len(find_word(tokenizer, sentence, word))) for sentence in sentences]
    several = [sentence for sentence, count in zip(sentences, places, strict=True) for _ in range(count)]
    numbers = [number for count in places for number in range(count)]
    found = embed_words(model, tokenizer, several, word, numbers, layer="all")
    if len(found) < 2:
        raise click.UsageError(f"{word!r} is there once, and has nothing to be compared with: give another sentence")
    rows = [["", "token", "word", "sentence"]]
    for number, (sentence, vector) in enumerate(zip(several, found, strict=True), 1):
        place = ", ".join(map(str, vector.token_indices))
        rows.append([str(number), place, " ".join(vector.tokens), sentence])
    click.echo(table(rows, right=(0,)))
    click.echo()
    pairs = list(itertools.combinations(range(len(found)), 2))
    cosines = [pairwise_similarity(found[one].vector, found[other].vector).tolist() for one, other in pairs]
    lines = [["cosine of", *(f"{one + 1} and {other + 1}" for one, other in pairs)]]
    for layer, values in enumerate(zip(*cosines, strict=True)):
        lines.append([f"layer {layer}" if layer else "embeddings", *(f"{value:.4f}" for value in values)])
    click.echo(table(lines, right=range(1, len(pairs) + 1)))


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
        for file in layout.TOKENIZER:
            if (source / file).is_file() and source.resolve() != target.resolve():
                shutil.copyfile(source / file, target / file)
    except OSError as error:
        raise StoreError(f"cannot copy the tokenizer's files to {folder}: {error}") from None
    click.echo(f"{model.load_report}\nwritten to {folder}")


@main.group()
def exercise() -> None:
    """Write a part of BERT yourself, and have it checked with the real weights.

    \b
    Example:
      minibert exercise start attention
    """


exercise_argument = click.argument("name")


@exercise.command("list")
def list_exercises() -> None:
    """List the exercises, in the order in which they are best done.

    \b
    Example:
      minibert exercise list
    """
    rows = [["", "exercise", "what to write"]]
    for each in exercises.EXERCISES.values():
        rows.append(["begun" if Path(f"{each.name}.py").is_file() else "", each.name, each.task])
    click.echo(table(rows))


@exercise.command()
@exercise_argument
def start(name: str) -> None:
    """Write NAME.py into the current folder, with a function that is still to be written.

    \b
    Example:
      minibert exercise start attention
    """
    file = exercises.start(name)
    click.echo(f"{file}: write the function {name}, then: minibert exercise check {name}")


@exercise.command()
@exercise_argument
def check(name: str) -> None:
    """Say whether the function in NAME.py is right, and if not, what went wrong; the exit code is then 1.

    \b
    Example:
      minibert exercise check attention
    """
    found = exercises.check(exercises.load(name), name)
    if not found.healthy:
        click.echo(f"{found}\nA hint: minibert exercise hint {name}")
        sys.exit(1)
    click.echo(f"{found}\nOurs: minibert exercise solution {name}")


@exercise.command("hint")
@exercise_argument
@click.argument("step", type=click.IntRange(1, 3), default=1)
def show_hint(name: str, step: int) -> None:
    """Give a hint: 1, 2 or 3, each saying more.

    \b
    Example:
      minibert exercise hint attention 2
    """
    click.echo(exercises.hint(name, step))
    if step < 3:
        click.echo(f"More: minibert exercise hint {name} {step + 1}")


@exercise.command()
@exercise_argument
def solution(name: str) -> None:
    """Show how minibert itself does it.

    \b
    Example:
      minibert exercise solution attention
    """
    click.echo(exercises.find(name).solution())


@main.command("demo")
def show_demo() -> None:
    """Show what minibert does, on the default checkpoint, in one screen.

    \b
    Example:
      minibert demo
    """
    from minibert.cli.demo import demo

    if not demo():
        sys.exit(1)


@contextlib.contextmanager
def open_lines(file: str) -> Iterator[Iterator[str]]:
    """The texts in a file, one a line; "-" is standard input."""
    if file == "-":
        yield read_lines(sys.stdin.buffer, "standard input")
        return
    with Path(file).open("rb") as stream:
        yield read_lines(stream, file)


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
