"""What does minibert do, in one screen? The command `demo`, which is also `make demo`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from minibert.checkpoints import layout, store
from minibert.errors import MissingPackageError
from minibert.show import matrix, table

if TYPE_CHECKING:
    from minibert import BertModel, BertTokenizer

BANKS = [
    "He is sitting near the river bank",
    "He is sitting in the bank to get some cash",
    "The elephant is sitting near the bank of the river",
    "The bank is closed so he cannot get any money today",
]
FLIES = [
    "There was a fly drinking from my soup",
    "There is a fly swimming in my juice",
    "To become a commercial pilot, he had to fly for 1500 hours.",
]


@click.command("demo")
def show_demo() -> None:
    """Show what minibert does, in one screen.

    It needs the default checkpoint. If transformers is installed, the model is compared with it; the exit code is 1 if
    any value is not equal.

    \b
    Example:
      minibert demo
    """
    from minibert import BertModel, BertTokenizer

    folder = store.resolve(store.DEFAULT)
    model = BertModel.from_pretrained(folder)
    tokenizer = BertTokenizer.from_pretrained(folder)
    click.echo(
        f"{store.DEFAULT}: BERT, {model.config.num_hidden_layers} layers, {model.config.parameter_count:,} parameters\n"
        f"{layout.SAFETENSORS}, sha256 {store.sha256(folder / layout.SAFETENSORS)}\n"
    )
    compare_sentences(model, tokenizer)
    compare_words(model, tokenizer)
    if not compare_with_transformers():
        sys.exit(1)


def compare_sentences(model: BertModel, tokenizer: BertTokenizer) -> None:
    """Prints the cosines of four sentences."""
    import torch

    from minibert import cosine_similarity, mean_pool

    inputs = tokenizer(BANKS)
    with torch.inference_mode():
        vectors = mean_pool(model(**inputs).last_hidden_state, inputs["attention_mask"])  # (4, D)
    click.echo("How close are four sentences? The cosine of their mean token vectors:")
    click.echo(f"{matrix(BANKS, cosine_similarity(vectors).tolist())}\n")


def compare_words(model: BertModel, tokenizer: BertTokenizer) -> None:
    """Prints the cosines of one word in three sentences, at the embeddings and after the last layer."""
    import torch

    from minibert import cosine_similarity
    from minibert.vectors import embed_words

    flies = torch.stack([found.vector for found in embed_words(model, tokenizer, FLIES, "fly", layer="all")])
    click.echo('One word, three sentences: the cosine of "fly" to "fly". The embeddings differ by its position alone;')
    click.echo("six layers later the insects are together, and the pilot is somewhere else:")
    soup_juice, soup_pilot, juice_pilot = (0, 1), (0, 2), (1, 2)
    rows = [["", "soup, juice", "soup, pilot", "juice, pilot"]]
    for name, layer in (("embeddings", 0), ("last layer", -1)):
        cosines = cosine_similarity(flies[:, layer])  # (3, L + 1, D) → (3, D) → (3, 3)
        rows.append([name, *(f"{cosines[pair]:.4f}" for pair in (soup_juice, soup_pilot, juice_pilot))])
    click.echo(f"{table(rows, right=(1, 2, 3))}\n")


def compare_with_transformers() -> bool:
    """Prints whether the model equals the one in `transformers`; False if any value differs."""
    from minibert.trace import verify

    click.echo("Is it equal to transformers? Every value inside, by eager attention and by sdpa:")
    try:
        certificate = verify(store.DEFAULT)
    except MissingPackageError as error:
        click.echo(f"not compared: {error}")
        return True
    click.echo(certificate.summary())
    return certificate.equal
