"""Where does a sentence end?

Rules and no model: a full stop ends a sentence unless it belongs to an abbreviation ("Mr. Smith"), an initial
("J. R. R. Tolkien"), a number ("3.14", which has no space) or an initialism in the middle of a sentence
("the U.S. Army"). The first three are certain; an initialism is taken as the end if a word follows that begins
sentences far more often than names ("in the U.S. The army").
"""

import re
from collections.abc import Iterator

# A full stop, question or exclamation mark, or several, with the quotation marks and brackets that it closes; then a
# space, and what a sentence can begin with.
BOUNDARY = re.compile(r"""([.!?…]+)(["')\]]*)\s+(?=["'(\[]*[A-Z0-9À-Þ])""")

TITLES = "mr mrs ms messrs mme mlle dr prof st ste sr jr rev fr hon gov sen rep pres gen col maj capt lt sgt cpl adm"
REFERENCES = "no nos vol vols p pp fig figs ch chap art sec par ed eds trans op cf eg ie viz vs v ca approx"
PLACES = "mt ft"
ABBREVIATIONS = frozenset(f"{TITLES} {REFERENCES} {PLACES}".split())  # a name, a number or more of the same follows

# A number follows these in a date or a reference; otherwise they end in the full stop of the sentence.
MONTHS = "jan feb mar apr jun jul aug sep sept oct nov dec"
YEARS = "c b d r"  # circa, born, died, reigned
BEFORE_NUMBERS = frozenset(f"{MONTHS} {YEARS}".split())

INITIALISM = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]")  # "U.S", "a.m", "Ph.D" without the last full stop
PRONOUNS = "I It Its He She They We You His Her Their Our My This That These Those What Who Where Why How"
CONJUNCTIONS = "But And However If When While Since Although After As Then There"
PREPOSITIONS = "In On At By For From With During To"
DETERMINERS = "The A An Some Most Many All Both Each One Two Another Other No Not"
STARTERS = frozenset(f"{PRONOUNS} {CONJUNCTIONS} {PREPOSITIONS} {DETERMINERS}".split())


def split_sentences(paragraph: str) -> list[str]:
    """Returns the sentences of a paragraph, in order; together they hold all of its words."""
    starts = [0]
    starts += [match.end() for match in BOUNDARY.finditer(paragraph) if _is_end(paragraph, match)]
    parts = [paragraph[start:end].strip() for start, end in _spans(starts, len(paragraph))]
    return [part for part in parts if part]


def _spans(starts: list[int], end: int) -> Iterator[tuple[int, int]]:
    return zip(starts, [*starts[1:], end], strict=True)


def _is_end(paragraph: str, match: re.Match[str]) -> bool:
    """Whether the mark that was found ends a sentence."""
    mark, closing = match.groups()
    if mark != "." or closing:
        return True
    word = _last_word(paragraph[: match.start()])
    following = _first_word(paragraph[match.end() :])
    if word.lower().replace(".", "") in ABBREVIATIONS:
        return False
    if word.lower() in BEFORE_NUMBERS and following[:1].isdigit():
        return False
    if (len(word) == 1 and word.isupper() and word != "I") or INITIALISM.fullmatch(word):
        return following in STARTERS
    return True


def _last_word(text: str) -> str:
    return text[-30:].rpartition(" ")[2].lstrip("\"'([")


def _first_word(text: str) -> str:
    match = re.match(r"""["'(\[]*([\w-]+)""", text[:30])
    return match.group(1) if match else ""
