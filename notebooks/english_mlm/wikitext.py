"""How does the mark-up of Wikipedia become prose?

Reads a dump of MediaWiki (XML) and returns the paragraphs of each article: without templates, tables, images,
references, lists, headings, and the sections that only list things ("See also"). The dump is that of 2006 which
data compressors are measured on, so the mark-up is that of 2006, too.
"""

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator

SAME_PATTERN = 10  # paragraphs that differ only in names and numbers; a program wrote the others from a table

OTHER_NAMESPACES = re.compile(r"(Talk|User|Wikipedia|Image|MediaWiki|Template|Help|Category|Portal)( talk)?:")
LAST_SECTIONS = re.compile(
    r"(see also|references?|external links?|further reading|bibliography|sources?|notes?|footnotes|literature|"
    r"discography|filmography|works|publications|partial bibliography|selected (works|bibliography))\W*",
    re.IGNORECASE,
)
HEADING = re.compile(r"(=+)\s*(.*?)\s*=+\s*")

# Tags whose content is not prose. A formula leaves a mark, so that its sentence can be left out.
CONTENT = re.compile(
    r"<(ref|math|pre|code|source|gallery|timeline|table|score|hiero)\b[^>]*?(?:/>|>.*?</\1\s*>)",
    re.DOTALL | re.IGNORECASE,
)
MISSING = "\ufffc"  # the object replacement character
NOT_PROSE = ("ref", "gallery", "timeline", "table")

TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
TABLE = re.compile(r"\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL)
FILE_LINK = re.compile(
    r"\[\[(?::?(?:image|file|media|category|simple|[a-z]{2,3}(?:-[a-z]+)*)):(?:(?!\[\[|\]\]).)*\]\]", re.IGNORECASE
)
LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)*([^\[\]|]*)\]\]")
WEB_LINK = re.compile(r"\[(?:https?|ftp|mailto|news|irc):[^\s\]]*\s*([^\]]*)\]")
ADDRESS = re.compile(r"(?:https?|ftp)://\S+")

LEFT_IN_BRACKETS = [
    (re.compile(r"\(\s*(?:[,;:/]|or|and|\s)+"), "("),  # "( , born 1950)" → "(born 1950)"
    (re.compile(r"[,;:\s]+\)"), ")"),
    (re.compile(r"\s*(?:\(\s*\)|\[\s*\]|\"\s*\"(?=\s))"), ""),
    (re.compile(r"\s+([,.;:?!)])"), r"\1"),
    (re.compile(r"([,;:])(?:\s*[,;:])+"), r"\1"),
    (re.compile(r"\s+"), " "),
]
HATNOTE = re.compile(
    r"(this article (is|deals|concerns|describes|discusses)|for (other|the|more|information|an|a)\b.{0,80}\bsee\b|"
    r"this (page|entry|is) (is )?(about|a disambiguation)|see also|main articles?|(much|some|part) of the material)",
    re.IGNORECASE,
)


def articles(dump: Iterable[str]) -> Iterator[list[str]]:
    """Yields the paragraphs of each article that has any, in the order of the dump's lines."""
    for title, text in pages(dump):
        if OTHER_NAMESPACES.match(title) or text.lstrip()[:9].upper() == "#REDIRECT":
            continue
        paragraphs = clean(text)
        if sum(map(len, paragraphs)) >= 300:  # shorter ones are stubs and disambiguations
            yield paragraphs


def pages(dump: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields the title and the mark-up of each page of a dump; one that is cut off at the end is left out."""
    title = ""
    lines: list[str] | None = None
    for line in dump:
        if lines is None:
            found = re.search(r"<title>(.*?)</title>", line)
            if found:
                title = html.unescape(found.group(1))
            if "<text" not in line:
                continue
            line = line.partition("<text")[2].partition(">")[2]
            lines = []
        before, end, _ = line.partition("</text>")
        lines.append(before)
        if end:
            yield title, html.unescape("".join(lines))
            lines = None


def clean(text: str) -> list[str]:
    """Returns the paragraphs of prose in the mark-up of a page."""
    text = re.sub(r"<!--.*?(-->|$)", "", text, flags=re.DOTALL)
    text = CONTENT.sub(lambda found: "" if found.group(1).lower() in NOT_PROSE else MISSING, text)
    text = _without_nested(TEMPLATE, text)
    text = _without_nested(TABLE, text)
    text = _without_links(text)
    text = WEB_LINK.sub(r"\1", text)
    text = ADDRESS.sub("", text)
    text = re.sub(r"'{2,5}", "", text)
    text = re.sub(r"<br\s*/?>", " ", text, flags=re.IGNORECASE)
    text = html.unescape(re.sub(r"</?[a-zA-Z][^<>]{0,200}>", "", text))
    return [paragraph for line in _prose_lines(text) if (paragraph := tidy(line)) and is_prose(paragraph)]


def _without_nested(pattern: re.Pattern[str], text: str) -> str:
    """Removes what matches, from the inside out, until nothing does."""
    count = 1
    while count:
        text, count = pattern.subn("", text)
    return text


def _without_links(text: str) -> str:
    """Replaces links by the words that they show; images and categories by nothing. Captions have links inside."""
    count = 1
    while count:
        text, files = FILE_LINK.subn("", text)
        text, links = LINK.subn(r"\1", text)
        count = files + links
    return text


def _prose_lines(text: str) -> Iterator[str]:
    """Yields the lines that may be prose: no headings, tables or short list items, nothing from the last sections."""
    depth = 0  # of the heading that is skipped
    for line in map(str.strip, _unwrapped(text).split("\n")):
        heading = HEADING.fullmatch(line)
        if heading:
            level = len(heading.group(1))
            if not depth or level <= depth:
                depth = level if LAST_SECTIONS.fullmatch(heading.group(2)) else 0
        elif not depth and line and line[0] not in "=|!{}^" and not line.startswith(("----", "__")):
            item = line.lstrip("*#:; ")
            if item == line or len(item) >= 120:
                yield item


def _unwrapped(text: str) -> str:
    """Joins lines of plain text when the first ends within a sentence; in this mark-up they are one paragraph."""
    return re.sub(r"(?<=[\w,;])[ \t]*\n(?=[a-z(])", " ", text)


def tidy(line: str) -> str:
    """Removes what is left in brackets when links and templates are gone."""
    for pattern, replacement in LEFT_IN_BRACKETS:
        line = pattern.sub(replacement, line)
    return line.strip()


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph is made of sentences: not a caption, a list of names, or a reference to a book."""
    words = paragraph.split()
    if len(paragraph) < 60 or not re.search(r"""[.!?]["')\]]*$""", paragraph) or HATNOTE.match(paragraph):
        return False
    plain = sum(character.isalpha() or character.isspace() for character in paragraph)
    lower = sum(word[0].islower() for word in words)
    return plain >= 0.75 * len(paragraph) and lower >= 0.45 * len(words) and "ISBN" not in paragraph


def without_patterns(documents: Iterable[list[str]], limit: int = SAME_PATTERN) -> Iterator[list[str]]:
    """Yields documents without the paragraphs whose pattern has occurred `limit` times already."""
    seen: Counter[str] = Counter()
    for document in documents:
        kept = []
        for paragraph in document:
            shape = pattern(paragraph)
            if shape is not None:
                seen[shape] += 1
            if shape is None or seen[shape] <= limit:
                kept.append(paragraph)
        if kept:
            yield kept


def pattern(paragraph: str) -> str | None:
    """The first ten words with N for a name and 0 for a number; None if fewer than five are left as they are."""
    words = ["0" if re.search(r"\d", word) else "N" if word[0].isupper() else word for word in paragraph.split()[:10]]
    return " ".join(words) if sum(word not in ("0", "N") for word in words) >= 5 else None
