"""What does a BERT make of a text? The commands `tokens`, `similarity`, `word` and `fill-mask`."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from minibert.checkpoints import store
from minibert.cli.options import masked_lm_option, model_option
from minibert.errors import NewParametersWarning
from minibert.show import matrix, table

if TYPE_CHECKING:
    from minibert import BertForMaskedLM
    from minibert.vectors.words import WordVector


@click.command()
@click.argument("text")
@model_option
def tokens(text: str, name: str) -> None:
    """Show the tokens of a text, their ids and offsets.

    \b
    Example:
      minibert tokens "Hello, how are you?"
    """
    from minibert import BertTokenizer

    inputs = BertTokenizer.from_pretrained(name)(text)
    rows = [["", "token", "id", "characters", "text"]]
    for position, (token, token_id, (start, end)) in enumerate(
        zip(inputs.tokens(), inputs["input_ids"][0].tolist(), inputs.offsets(), strict=True)
    ):
        characters = f"{start}–{end}" if end else ""  # special tokens have none
        rows.append([str(position), token, str(token_id), characters, text[start:end]])
    click.echo(table(rows, right=(0, 2)))


@click.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT TEXT...")
@model_option
def similarity(texts: tuple[str, ...], name: str) -> None:
    """Show how similar texts are in meaning.

    The score is the one that the checkpoint was trained for: for nearly all, the cosine of the texts' vectors.

    \b
    Example:
      minibert similarity "a river bank" "a savings bank" "the shore of a river"
    """
    from minibert import SentenceEncoder

    if len(texts) < 2:
        raise click.UsageError("similarity needs at least two texts, got one: put each in quotes")
    encoder = SentenceEncoder.from_pretrained(name)
    click.echo(matrix(texts, encoder.similarity(encoder.encode(texts)).tolist()))


@click.command()
@click.argument("word")
@click.argument("sentences", nargs=-1, required=True, metavar="SENTENCE...")
@model_option
def word(word: str, sentences: tuple[str, ...], name: str) -> None:
    """Compare a word with itself in different sentences.

    Every occurrence of the word counts. The cosines between its vectors are shown at the embeddings and after each
    layer.

    \b
    Example:
      minibert word fly "a fly in my soup" "he had to fly home"
    """
    from minibert import BertModel, BertTokenizer
    from minibert.vectors import embed_words, find_word

    folder = store.resolve(name)
    tokenizer, model = BertTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder)
    repeated, occurrences = [], []  # a sentence once for each occurrence, and the number of the occurrence
    for sentence in sentences:
        count = len(find_word(tokenizer, sentence, word))
        for occurrence in range(max(1, count)):  # without any, embed_words says so
            repeated.append(sentence)
            occurrences.append(occurrence)
    found = embed_words(model, tokenizer, repeated, word, occurrences, layer="all")
    if len(found) < 2:
        raise click.UsageError(f"{word!r} must occur at least twice, got one occurrence: give more sentences")
    click.echo(f"{_occurrence_table(repeated, found)}\n\n{_cosine_table(found)}")


def _occurrence_table(sentences: list[str], found: list[WordVector]) -> str:
    """A row for each occurrence: its number, the positions of its tokens, the tokens, the sentence."""
    rows = [["", "token", "word", "sentence"]]
    for number, (sentence, vector) in enumerate(zip(sentences, found, strict=True), 1):
        positions = ", ".join(map(str, vector.token_indices))
        rows.append([str(number), positions, " ".join(vector.tokens), sentence])
    return table(rows, right=(0,))


def _cosine_table(found: list[WordVector]) -> str:
    """A row for each layer, a column for each pair of occurrences."""
    from minibert.vectors import pairwise_similarity

    header, columns = ["cosine of"], []
    for first, second in itertools.combinations(range(len(found)), 2):
        header.append(f"{first + 1} and {second + 1}")
        columns.append(pairwise_similarity(found[first].vector, found[second].vector).tolist())  # (L + 1)
    rows = [header]
    for layer, cosines in enumerate(zip(*columns, strict=True)):
        rows.append([f"layer {layer}" if layer else "embeddings", *(f"{cosine:.4f}" for cosine in cosines)])
    return table(rows, right=range(1, len(header)))


@click.command()
@click.argument("text")
@click.option("-k", "--top-k", default=5, show_default=True, type=click.IntRange(1), help="Number of words to show.")
@masked_lm_option
def fill_mask(text: str, top_k: int, name: str) -> None:
    """Predict the word at each [MASK] of a text.

    The checkpoint needs a masked-language-model head. The default one is made by 'make english-mlm'.

    \b
    Example:
      minibert fill-mask "The capital of France is [MASK]."
      minibert fill-mask "Hello I'm a [MASK] model." --model google-bert/bert-base-uncased
    """
    import torch

    from minibert import BertTokenizer

    folder = store.resolve(name)
    tokenizer = BertTokenizer.from_pretrained(folder)
    inputs = tokenizer(text)
    masked = [position for position, token in enumerate(inputs.tokens()) if token == "[MASK]"]
    if not masked:
        raise click.UsageError(f"text must contain [MASK], in capitals and brackets, got {text!r}")
    model = load_masked_lm(folder, name)
    with torch.inference_mode():
        probabilities = model(**inputs).logits[0].softmax(dim=-1)  # (S, V)
    # Not all V: some models pad it to a round number, and a line that occurs twice in vocab.txt leaves an id unused.
    token_ids = torch.tensor(sorted(set(tokenizer.tokenizer.get_vocab().values()) & set(range(probabilities.shape[1]))))
    for position in masked:
        best = probabilities[position, token_ids].topk(min(top_k, len(token_ids)))
        rows = [["[MASK]", f"token {position}"]]
        for token_id, probability in zip(token_ids[best.indices].tolist(), best.values.tolist(), strict=True):
            rows.append([tokenizer.decode([token_id]), f"{probability:.4f}"])
        click.echo(table(rows, right=(1,)))


def load_masked_lm(folder: Path, name: str) -> BertForMaskedLM:
    """The masked-language model of a checkpoint; one without the head, which would start at random, is refused."""
    from minibert import BertForMaskedLM

    with warnings.catch_warnings():
        warnings.simplefilter("error", NewParametersWarning)
        try:
            return BertForMaskedLM.from_pretrained(folder)
        except NewParametersWarning:
            raise click.ClickException(
                f"{name} has no masked-language-model head: choose a checkpoint that was pretrained with one"
            ) from None
