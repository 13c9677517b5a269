"""Which word is missing? Sixty everyday sentences for asking a masked language model.

They were written before any model was asked, and are not changed afterwards. Each has one [MASK], the word that belongs
there, and others that do as well; all are single tokens of bert-base-uncased. None of the sentences is in the text
that the model learns from: `text.py` leaves them out, with whatever word in the gap.
"""

import re
from dataclasses import dataclass

MASK = "[MASK]"


@dataclass(frozen=True)
class Cloze:
    """A sentence with a gap."""

    kind: str
    sentence: str  # with one [MASK]
    answer: str
    also: tuple[str, ...] = ()  # other words that are right

    @property
    def right(self) -> frozenset[str]:
        """All words that are right."""
        return frozenset((self.answer, *self.also))

    def is_copy(self, word: str) -> bool:
        """Whether a word is in the rest of the sentence; if it is also not right, the model has copied it."""
        return word in words_of(self.sentence.replace(MASK, " "))


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation: copies of a text may differ in it."""
    return re.findall(r"\w+", text.lower())


CLOZE = [
    # Who and what: nouns.
    Cloze("noun", "He unlocked the door with his [MASK].", "key", ("keys",)),
    Cloze("noun", "She poured the milk into a [MASK].", "glass", ("cup", "bowl", "pan", "pot", "mug", "bottle", "jar")),
    Cloze("noun", "The farmer milked the [MASK] every morning.", "cows", ("cow", "goats", "goat", "cattle")),
    Cloze("noun", "My grandmother baked a chocolate [MASK] for my birthday.", "cake", ("pie",)),
    Cloze("noun", "We slept in a tent and cooked our meals over a [MASK].", "fire", ("stove",)),
    Cloze("noun", "The teacher wrote the answer on the [MASK].", "board", ("paper", "wall")),
    Cloze("noun", "It was raining, so she opened her [MASK].", "umbrella"),
    Cloze("noun", "The bird built its [MASK] in the apple tree.", "nest", ("home", "house")),
    Cloze("noun", "He cut the bread with a [MASK].", "knife", ("blade",)),
    Cloze("noun", "They rowed across the lake in a small [MASK].", "boat", ("canoe",)),
    Cloze("noun", "The king wore a golden [MASK] on his head.", "crown", ("helmet", "hat", "cap")),
    Cloze("noun", "She put a stamp on the letter and took it to the post [MASK].", "office", ("box",)),
    Cloze("noun", "He washed his hands with hot water and [MASK].", "soap"),
    # Verbs.
    Cloze("verb", "The dog began to [MASK] when the stranger knocked.", "bark", ("growl", "howl")),
    Cloze("verb", "She [MASK] a letter to her mother every week.", "wrote", ("sent", "writes", "sends", "posted")),
    Cloze("verb", "He was so thirsty that he [MASK] three glasses of water.", "drank", ("had", "drained", "emptied")),
    Cloze("verb", "Please [MASK] the window; it is cold in here.", "close", ("shut",)),
    Cloze("verb", "The baby cried until her father [MASK] her up.", "picked", ("lifted", "took", "held")),
    Cloze("verb", "We [MASK] to music on the radio all evening.", "listened", ("danced",)),
    Cloze("verb", "Every morning the sun [MASK] in the east.", "rises", ("rose", "appears", "appeared")),
    Cloze("verb", "My sister can [MASK] three languages fluently.", "speak", ("read", "write", "talk")),
    Cloze(
        "verb", "The boy fell off his bicycle and [MASK] his arm.", "broke", ("hurt", "injured", "twisted", "bruised")
    ),
    Cloze("verb", "I forgot to [MASK] my teeth this morning.", "brush", ("clean", "wash")),
    Cloze("verb", "These birds [MASK] south for the winter.", "fly", ("go", "flew", "went", "move", "head", "travel")),
    Cloze("verb", "He [MASK] the ball over the fence and had to climb after it.", "threw", ("kicked", "hit", "tossed")),
    # Adjectives.
    Cloze("adjective", "The soup was too [MASK] to eat, so he let it cool.", "hot", ("warm",)),
    Cloze("adjective", "The room was so [MASK] that she could not see her own hands.", "dark"),
    Cloze(
        "adjective", "An elephant is much [MASK] than a mouse.", "bigger", ("larger", "heavier", "stronger", "taller")
    ),
    Cloze(
        "adjective",
        "She was [MASK] because she had not eaten all day.",
        "hungry",
        ("starving", "weak", "tired", "faint"),
    ),
    Cloze(
        "adjective", "After the long walk we were very [MASK] and went straight to bed.", "tired", ("sleepy", "weary")
    ),
    Cloze("adjective", "The old man is [MASK] and cannot hear the telephone.", "deaf"),
    Cloze("adjective", "The box was too [MASK] for her to lift.", "heavy", ("big", "large")),
    # Prepositions and other function words.
    Cloze("function word", "She has lived in this house [MASK] 1990.", "since"),
    Cloze("function word", "The little boy is afraid [MASK] the dark.", "of"),
    Cloze(
        "function word",
        "The cat is hiding [MASK] the bed.",
        "under",
        ("behind", "beneath", "in", "on", "near", "beside"),
    ),
    Cloze("function word", "I would rather walk [MASK] take the bus.", "than"),
    Cloze("function word", "Neither the boy [MASK] the girl said a word.", "nor", ("or",)),
    Cloze(
        "function word",
        "They stayed at home [MASK] it was raining.",
        "because",
        ("as", "since", "when", "while", "for"),
    ),
    Cloze("function word", "You can have either tea [MASK] coffee.", "or"),
    Cloze("function word", "The book [MASK] you gave me is on the shelf.", "that", ("which",)),
    Cloze("function word", "He did not stop [MASK] he reached the top of the hill.", "until", ("till", "before")),
    # Facts.
    Cloze("fact", "The capital of France is [MASK].", "paris"),
    Cloze("fact", "A week has seven [MASK].", "days", ("nights",)),
    Cloze("fact", "Water freezes at zero [MASK] Celsius.", "degrees"),
    Cloze("fact", "The first president of the United States was George [MASK].", "washington"),
    Cloze("fact", "Bees make [MASK] from the nectar of flowers.", "honey"),
    Cloze("fact", "The earth goes around the [MASK] once a year.", "sun"),
    Cloze("fact", "A spider has eight [MASK].", "legs", ("eyes",)),
    Cloze("fact", "Most people in Spain speak [MASK].", "spanish"),
    # Agreement, over words in between that have another number or gender.
    Cloze("agreement", "The keys to the cabinet [MASK] on the table.", "are", ("were", "lay", "lie")),
    Cloze(
        "agreement",
        "The boy who feeds the horses [MASK] in the village.",
        "lives",
        ("lived", "works", "worked", "is", "was"),
    ),
    Cloze("agreement", "The letters from my brother [MASK] never opened.", "were", ("are",)),
    Cloze("agreement", "My uncle's wife hurt [MASK] when she fell down the stairs.", "herself"),
    # Traps: a word of the sentence would fit the gap on its own, and is wrong there.
    Cloze(
        "trap",
        "The doctor told the [MASK] to rest for a week.",
        "patient",
        ("man", "woman", "boy", "girl", "child", "patients", "children", "men", "king", "soldier", "others", "family"),
    ),
    Cloze(
        "trap",
        "The teacher asked her [MASK] to open their books.",
        "students",
        ("pupils", "class", "children", "classmates"),
    ),
    Cloze("trap", "Paris is the capital of [MASK].", "france"),
    Cloze("trap", "The cat chased the [MASK] into a hole in the wall.", "mouse", ("rat", "mice", "rats", "rabbit")),
    Cloze("trap", "A shepherd looks after his [MASK].", "sheep", ("flock", "goats", "animals")),
    Cloze("trap", "My brother's wife is my [MASK]-in-law.", "sister"),
    Cloze("trap", "My mother's mother is my [MASK].", "grandmother", ("grandma",)),
]


# For each sentence the words before and after the gap, and of these the longer part, which is quickly searched for.
_AROUND = [tuple(" ".join(words_of(part)) for part in each.sentence.split(MASK)) for each in CLOZE]
_PATTERNS = [
    (max(before, after, key=len), re.compile(rf"\b{before} \w+ {after}".rstrip() + r"\b")) for before, after in _AROUND
]


def occurs_in(sentence: str) -> bool:
    """Whether a cloze sentence, with any word in its gap, is a sentence or a part of one."""
    words = " ".join(words_of(sentence))
    return any(part in words and pattern.search(words) for part, pattern in _PATTERNS)
