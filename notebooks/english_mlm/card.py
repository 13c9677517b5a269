"""What does one have to know of the English model before using it?

`card` turns the numbers of `score.py` into the page that lies beside the model: only the words around them are written
by hand.
"""

import math
from typing import Any

from cloze import CLOZE

NAME = "minibert/english-mlm"
BERT_WORDS = 3300e6  # that BERT was trained on (Devlin et al. 2019, 3.1), about forty times over (A.2)

CARD = """# {name}

A small masked language model for English: the one that minibert's commands, lessons and tests ask for a missing word.
It was trained with minibert, by `make english-mlm`.

```
minibert fill-mask "The capital of France is [MASK]."
```

## How good it is

On text that it was not trained on, at most 256 inputs of 128 tokens from the held-out part of each source. Of the
tokens, 15 % are chosen and hidden as in training. Accuracy: the share of them that is guessed first. Perplexity: e to
the power of the mean loss.

{held_out}

On sixty everyday sentences with a word left out, which were written before any model was asked
([cloze.py](../../../notebooks/english_mlm/cloze.py)). Copied: the first guess is wrong, and a word of the sentence.

{cloze}

The goals were an accuracy of 45 %, a perplexity of 30, a right word first in 2 of 5 sentences and among five in 2 of 3.
{goals}

Every fourth of the sixty sentences, in their order:

{guesses}

## How it was trained

It has {layers} layers of size {size} and {parameters:.1f} million parameters. It started from
`sentence-transformers/all-MiniLM-L6-v2`, a sentence encoder, with a new head and with its last two layers started anew:
the old ones put the whole sentence into every token, and such a model copies words of the sentence. What each start is
worth, by `notebooks/english_mlm/starts.py` (copied: of the hidden rare words that are not in the input, the share for
which a rare word of the input is guessed):

{starts}

Then {steps:,} steps of {batch} inputs of 128 tokens, {seen:.1f} million tokens in all;
AdamW, a learning rate of {rate:g} after {warmup:.0%} of warm-up, falling to 0; no dropout; products in {precision}.
{machine}

{curve}

## What it is not good for

Its English is that of an encyclopedia of 2006, of books from before 1930, of the Bible and of presidents' speeches, and
so are its prejudices. What it knows of the world is little, and often wrong. It was trained on inputs of 128 tokens;
longer ones are new to it. It is for learning and for tests. For work there are models such as
`google-bert/bert-base-uncased`, five times as large and trained on {ratio:.0f} times as much text, forty times over.

## Text and licences

The weights are under the Apache License 2.0, like those they started from. The text is not part of them:

{sources}
"""


def card(report: dict[str, Any]) -> str:
    """The model card; every number in it is one of the report's."""
    scores, run = report["scores"], report["run"]
    ours = scores[NAME]
    last = report["curve"][-1]["step"]
    words = sum(corpus["train"]["words"] for corpus in report["sources"].values())
    return CARD.format(
        name=NAME,
        held_out=_held_out(scores),
        cloze=table(
            ["", "right word first", "among the first five", "copied"],
            [[name, *(f"{value:.0%}" for value in each["cloze"].values())] for name, each in scores.items()],
        ),
        goals=goals(ours),
        guesses=table(
            ["sentence", "right", "its first five guesses"],
            [
                [each.sentence, each.answer, ", ".join(guesses)]
                for each, guesses in list(zip(CLOZE, ours["cloze_guesses"], strict=True))[::4]
            ],
        ),
        layers=report["layers"],
        size=report["size"],
        parameters=report["parameters"] / 1e6,
        starts=starts_table(report["starts"]),
        steps=last,
        batch=run["batch_size"],
        seen=last * run["batch_size"] * 128 / 1e6,
        rate=run["learning_rate"],
        warmup=run["warmup"],
        precision=report["precision"],
        machine=report["machine"],
        curve=_curve(report["curve"]),
        ratio=BERT_WORDS / words,
        sources=_sources(report["sources"]),
    )


def overall(held_out: dict[str, dict[str, float]]) -> dict[str, float]:
    """The mean over all held-out tokens that were scored, of all sources."""
    tokens = sum(each["tokens"] for each in held_out.values())
    return {key: sum(each[key] * each["tokens"] for each in held_out.values()) / tokens for key in ("loss", "accuracy")}


def goals(ours: dict[str, Any]) -> str:
    """Which goals were reached, and by how much the others were missed."""
    all_sources, cloze = overall(ours["held_out"]), ours["cloze"]
    perplexity = math.exp(all_sources["loss"])
    lines = []
    for name, value, goal, form in (
        ("accuracy", all_sources["accuracy"], 0.45, "{:.1%}"),
        ("a right word first", cloze["first"], 2 / 5, "{:.0%}"),
        ("a right word among five", cloze["among_five"], 2 / 3, "{:.0%}"),
    ):
        outcome = "reached" if value >= goal else "missed"
        lines.append(f"{name} {form.format(value)}, {outcome}")
    lines.insert(1, f"perplexity {perplexity:.1f}, {'reached' if perplexity <= 30 else 'missed'}")
    return f"Over all sources: {'; '.join(lines)}."


def _held_out(scores: dict[str, Any]) -> str:
    corpora = list(scores[NAME]["held_out"])
    rows = []
    for name, each in scores.items():
        accuracies = [f"{each['held_out'][corpus]['accuracy']:.1%}" for corpus in corpora]
        all_sources = overall(each["held_out"])
        perplexity = math.exp(all_sources["loss"])
        rows.append([name, *accuracies, f"**{all_sources['accuracy']:.1%}**", f"{perplexity:,.1f}"])
    return table(["accuracy", *corpora, "all", "perplexity, all"], rows)


def starts_table(starts: list[dict[str, Any]]) -> str:
    """What each start reaches."""
    rows = [
        [
            each["start"],
            f"{each['seen'] / 1e6:.1f} M",
            f"{each['minutes']:.1f}",
            f"{each['loss']:.3f}",
            f"{each['accuracy']:.1%}",
            f"{each['copied']:.1%}",
        ]
        for each in starts
    ]
    return table(["start", "tokens", "minutes", "held-out loss", "accuracy", "copied"], rows)


def _curve(entries: list[dict[str, float]]) -> str:
    rows = [
        [
            f"{entry['step']:,}",
            f"{entry['held_out_loss']:.3f}",
            f"{entry['held_out_perplexity']:,.1f}",
            f"{entry['held_out_accuracy']:.1%}",
        ]
        for entry in entries
    ]
    return table(["step", "held-out loss", "perplexity", "accuracy"], rows)


def _sources(corpora: dict[str, Any]) -> str:
    rows = [
        [source["description"], source["licence"]]
        for corpus in corpora.values()
        for source in corpus["sources"].values()
    ]
    return table(["text", "licence"], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
