"""The text that the English model learns from: fetched, cleaned, and divided into two parts with nothing in common."""

import gzip
import hashlib
import http.client
import io
import json
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import books
import fetch
import pytest
import text
import wikitext
from cloze import CLOZE, MASK, occurs_in
from fetch import Package
from hypothesis import given
from hypothesis import strategies as st
from sources import SOURCES, Source
from splitter import split_sentences

from minibert.checkpoints import store
from minibert.errors import ChecksumError, DownloadError

# ------------------------------------------------------------------------------------------------------------ sentences


@pytest.mark.parametrize(
    "marked",
    [
        "It rained. | We stayed at home.",
        "Mr. and Mrs. Dashwood met Dr. Watson in St. Ives. | They had tea.",
        "J. R. R. Tolkien wrote it. | C. S. Lewis read it.",
        "It costs 3.50 dollars. | Pi is about 3.14.",
        "He was born on Oct. 5 in Vienna. | He died in Oct. | Nobody knew.",
        "The U.S. Army left. | It moved to the U.S. | The rest stayed.",
        'He asked, "Are you ill?" | She shook her head.',
        '"Are you ill?" he asked. | "No," she said.',
        "Wait... | Who is there? | Nobody!",
        "See No. 5 on p. 12 of vol. 3. | It is short.",
        "He woke at 5 a.m. and left. | It was 6 p.m. | The sun was low.",
        "They fled (as in 1812). | Nobody followed.",
        "Émile came. | Éva stayed.",
        "The last one | has no full stop".replace(" | ", " "),
    ],
)
def test_a_sentence_ends_where_a_reader_ends_it(marked: str) -> None:
    assert split_sentences(marked.replace(" | ", " ")) == marked.split(" | ")


@given(st.text(alphabet="aB .!?\"')(1", max_size=60))
def test_a_split_loses_no_character_but_spaces(paragraph: str) -> None:
    assert "".join("".join(split_sentences(paragraph)).split()) == "".join(paragraph.split())


# ----------------------------------------------------------------------------------------------------------- Wikipedia

ARTICLE = """{{Infobox {{nested | template}}
A sentence that is long enough to be prose, but is in a box at the margin of the page.
}}
:''For other uses, see [[Paris (disambiguation)]], which lists everything that was ever called by this name at all.''
[[Image:Eiffel.jpg|thumb|The [[Eiffel Tower]], seen from [[Montmartre]].]]
'''Paris''' ({{IPA|pari}}, ; [[French language|French]]: ''Paris'') is the [[capital]] of [[France]]&mdash;and its
largest city, on the river [[Seine]].<ref>A. Author, ''A Book'', 1999.</ref>  It has [http://example.org museums] , too.

{| class="wikitable"
| a cell ||
A sentence that is long enough to be prose, but is in one of the cells of a table.
|}
* A short item of a list.
== See also ==
The list of every sight in the city of Paris, which nobody has ever read from its beginning to its end.
=== Museums ===
Another sentence that is long enough for prose, but in a section that only says what else there is.
== History ==
Most people in the town worked on the river, and <math>x^2</math> of them sold fish. Nobody knows how many there were.
Smith, John (1999). Paris: A Guide. New York: Random House. Jones, Mary (2001). Rome: A Guide. London: Penguin Books.
[[Category:Cities]]
[[fr:Paris]]
"""


def test_mark_up_becomes_prose() -> None:
    assert wikitext.clean(ARTICLE) == [
        "Paris (French: Paris) is the capital of France—and its largest city, on the river Seine. It has museums, too.",
        "Most people in the town worked on the river, and \ufffc of them sold fish. Nobody knows how many there were.",
    ]


def test_a_sentence_is_left_out_whose_formula_was_taken_out() -> None:
    assert text.sentences(wikitext.clean(ARTICLE)[1]) == ["Nobody knows how many there were."]


def dump(*pages: tuple[str, str]) -> list[str]:
    """The lines of a dump of Wikipedia."""
    written = [
        f"<page>\n<title>{title}</title>\n<text xml:space='preserve'>{words}</text>\n</page>" for title, words in pages
    ]
    return "\n".join(written).splitlines(keepends=True)


def test_only_articles_are_read_from_a_dump() -> None:
    prose = "Everybody in the village knew that the old house by the river had been empty for years. " * 4
    pages = [
        ("A house", prose),
        ("Talk:A house", prose),
        ("House", "#REDIRECT [[A house]]"),
        ("Stub", "It is &lt;b&gt;."),
    ]
    lines = [*dump(*pages), "<page><title>The last</title><text>It is cut off\n"]
    assert list(wikitext.articles(lines)) == [[prose.strip()]]
    assert dict(wikitext.pages(lines))["Stub"] == "It is <b>."


def test_of_paragraphs_that_a_program_wrote_a_few_are_kept() -> None:
    towns = [[f"As of the census of 2000, there are {number} people in Town{number}."] for number in range(30)]
    mixed = [*towns, ["She laughed and went out into the garden to look for the cat."]]
    assert list(wikitext.without_patterns(mixed, limit=5)) == [*towns[:5], mixed[-1]]


# --------------------------------------------------------------------------------------------------------------- books

NOVEL = """The Project Gutenberg EBook

CHAPTER I. In which
nothing happens

It was late.[1]  The _old_ man
slept.

* * *

[Illustration: the old man]

[1] At night.

II

"Who is there?"
he cried.
"""


def test_a_book_becomes_chapters_without_the_printers_notes() -> None:
    assert list(books.chapters(NOVEL)) == [
        ["The Project Gutenberg EBook"],
        ["It was late. The old man slept."],
        ['"Who is there?" he cried.'],
    ]


def test_a_word_is_joined_at_the_end_of_a_line_unless_it_is_a_compound() -> None:
    text_before = "The red-\nskinned warrior ran fran-\n  tically on.\nThe other ran frantically, too."
    assert (
        books.joined_words(text_before)
        == "The red-skinned warrior ran frantically on.\nThe other ran frantically, too."
    )


def test_a_book_lies_between_the_licence_and_the_licence() -> None:
    assert books.between("licence\n*** START ***\na\nb\n*** END ***\nlicence", "*** START", "*** END") == "a\nb"


def test_strings_of_r_are_read() -> None:
    """The bytes are those that `serialize(c("é", ""), NULL)` of R 4 returns after its header."""
    header = b"X\n\0\0\0\3\0\4\2\1\0\3\5\0\0\0\0\5UTF-8"
    vector = b"\0\0\0\x10\0\0\0\2" + b"\0\0\x80\x09\0\0\0\2\xc3\xa9" + b"\0\4\0\x09\0\0\0\0"
    assert books.r_strings(header + vector) == ["é", ""]


def test_verses_of_the_bible_are_joined_to_paragraphs_and_numbers_left_out() -> None:
    def verse(chapter: int, number: int, words: str, kind: str = "paragraph text") -> dict:
        return {"type": kind, "chapterNumber": chapter, "verseNumber": number, "value": words}

    pieces = [
        {"type": "header", "value": "A Psalm"},
        {"type": "paragraph start"},
        verse(1, 1, "In the days of the judges  "),
        verse(1, 2, "there was a famine.  "),
        {"type": "paragraph end"},
        {"type": "stanza start"},
        verse(2, 1, "Sing, ", "line text"),
        {"type": "line break"},
        verse(2, 1, "all of you!", "line text"),
        {"type": "stanza end"},
    ]
    assert list(books.bible_chapters(pieces)) == [
        ["In the days of the judges there was a famine."],
        ["Sing, all of you!"],
    ]


def test_examples_of_a_dictionary_become_sentences() -> None:
    gloss = ' breathe with great difficulty; "She choked with emotion when she spoke"; "force out the air"'
    assert books.sentences_of(gloss) == ["She choked with emotion when she spoke."]


@pytest.mark.parametrize(
    "text_before, text_after",
    [
        ("\u201cIt\u2019s late\u2026\u201d \u2018Why?\u2019", "\"It's late...\" 'Why?'"),
        ("Cafe\u0301", "Café"),
        ("two--dashes\u00a0and  spaces", "two—dashes and spaces"),
        ("soft\u00adhyphen\ufeff", "softhyphen"),
    ],
)
def test_characters_are_made_alike(text_before: str, text_after: str) -> None:
    assert text.plain(text_before) == text_after


# ------------------------------------------------------------------------------------------------ training and held-out


def person(number: int) -> str:
    """A name for each number, without a digit in it."""
    return "Anna" + "".join("abcdefghij"[int(digit)] for digit in str(number))


def story(name: str, paragraphs: int = 4) -> list[str]:
    """A document whose paragraphs are unlike those of any other."""
    return [
        f"{name} woke up early on day {number} and walked to the {name} market. {name} bought bread. Then it rained."
        for number in range(paragraphs)
    ]


def lines_of(corpora: list[text.Corpus]) -> tuple[set[str], set[str]]:
    """The sentences of the training documents, and those that are held out."""
    train = {line for corpus in corpora for document in corpus.train for line in document}
    return train, {line for corpus in corpora for document in corpus.held_out for line in document}


def test_one_document_in_a_hundred_is_held_out_whatever_their_order() -> None:
    documents = [story(person(number)) for number in range(300)]
    train, held_out = text.hold_out(documents)
    assert len(held_out) == 3
    assert sorted(train + held_out) == sorted(documents)
    assert sorted(text.hold_out(documents[::-1])[1]) == sorted(held_out)


def test_nothing_that_is_held_out_is_learned_from_nor_a_near_copy_of_it() -> None:
    corpora = {
        "a": [story(person(number)) for number in range(50)],
        "b": [story("Ben" + person(number)) for number in range(50)],
    }
    ((first, *_),) = text.hold_out(corpora["a"])[1]
    near_copy = first.replace("bread", "cake")
    copying = [near_copy, "A short paragraph.", "And another.", "And a third."]
    quoting = [*story("Cora"), near_copy.upper(), "She said so."]
    corpora["b"] += [copying, quoting]
    assert copying in text.hold_out(corpora["b"])[0]
    train, held_out = lines_of(text.divide(corpora))
    assert first.split(". ")[0] + "." in held_out
    assert not train & held_out - {"Then it rained."}  # which is in every paragraph
    assert not any("cake" in line.lower() for line in train)
    assert "A short paragraph." not in train  # of a document that is a copy as a whole
    assert "She said so." in train


def test_what_occurs_twice_is_learned_once() -> None:
    (corpus,) = text.divide({"a": [story(name) for name in ("Anna", "Ben", "Cora", "Ben", "Dora", "Anna")]})
    documents = corpus.train + corpus.held_out
    assert sorted(document[0][:3] for document in documents) == ["Ann", "Ben", "Cor", "Dor"]


def test_no_cloze_sentence_is_in_the_text() -> None:
    told = ['He said: "The capital of France is Lyon, of course."', "She knew that a week has seven days or so."]
    (corpus,) = text.divide({"a": [[*story("Anna"), *told], story("Ben"), story("Cora")]})
    lines = [line for document in corpus.train + corpus.held_out for line in document]
    assert not any("Lyon" in line or "seven" in line for line in lines)
    assert any("Anna" in line for line in lines)


# ------------------------------------------------------------------------------------------------ from package to file


def tarball(file: Path, contents: dict[str, bytes]) -> bytes:
    with tarfile.open(file, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.read_bytes()


def read_tales(archive: Path) -> Iterator[list[str]]:
    return books.plain_files(archive, r"\.txt$")


@pytest.fixture
def tales(tmp_path: Path) -> tuple[dict[str, Source], Path]:
    """Two sources whose packages have been downloaded, and the folder of the text."""
    folder = tmp_path / "texts"
    (folder / "packages").mkdir(parents=True)
    found = {}
    for name in ("Anna", "Ben"):
        novel = "\n\n".join(
            f"CHAPTER {number}\n\n" + "\n\n".join(story(name + person(number))) for number in range(120)
        )
        content = tarball(
            folder / "packages" / f"{name}.tgz", {"package/novel.txt": novel.encode(), "setup.py": b"1 / 0"}
        )
        package = Package("npm", name, "1.0.0", f"{name}.tgz", hashlib.sha256(content).hexdigest())
        found[name] = Source("books", f"a novel about {name}", "public domain", package, read_tales)
    return found, folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_the_same_packages_give_the_same_bytes(tales: tuple[dict[str, Source], Path]) -> None:
    found, folder = tales
    text.build(found, folder)
    first = contents(folder)
    assert set(first) == {"books.txt", "books.held-out.txt", "sources.json"}  # nothing half-written is left
    text.build(found, folder)
    assert contents(folder) == first


def test_a_corpus_that_is_left_out_is_not_left_over(tales: tuple[dict[str, Source], Path]) -> None:
    found, folder = tales
    for name in ("bible.txt", "bible.held-out.txt", "notes.txt"):
        (folder / name).write_bytes(b"of an earlier build")
    text.build(found, folder)
    assert set(contents(folder)) == {"books.txt", "books.held-out.txt", "sources.json", "notes.txt"}


def test_a_file_has_a_sentence_a_line_and_an_empty_line_after_a_document(tales: tuple[dict[str, Source], Path]) -> None:
    found, folder = tales
    text.build(found, folder)
    documents = (folder / "books.txt").read_text(encoding="utf-8").split("\n\n")
    assert documents.pop() == ""
    assert documents[0].split("\n")[:3] == [
        "AnnaAnnaa woke up early on day 0 and walked to the AnnaAnnaa market.",
        "AnnaAnnaa bought bread.",
        "Then it rained.",
    ]


def test_the_report_counts_what_is_in_the_files(tales: tuple[dict[str, Source], Path]) -> None:
    found, folder = tales
    text.build(found, folder)
    report = json.loads((folder / "sources.json").read_text(encoding="utf-8"))["books"]
    assert {name: source["licence"] for name, source in report["sources"].items()} == dict.fromkeys(
        found, "public domain"
    )
    assert report["train"]["documents"] + report["held_out"]["documents"] == 240
    for part in ("train", "held_out"):
        content = (folder / report[part]["file"]).read_bytes()
        assert report[part]["sha256"] == hashlib.sha256(content).hexdigest()
        assert report[part]["documents"] == content.count(b"\n\n")
        assert report[part]["sentences"] == len([line for line in content.split(b"\n") if line])
        assert report[part]["words"] == len(content.split())


def test_a_package_with_another_sha256_is_refused_and_not_kept(
    tales: tuple[dict[str, Source], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, folder = tales
    (folder / "packages" / "Ben.tgz").write_bytes(b"damaged")
    monkeypatch.setitem(fetch.CLIENTS, "npm", lambda package, incoming: incoming.write_bytes(b"another"))
    with pytest.raises(
        ChecksumError, match=r"the sha256 of Ben\.tgz must be [0-9a-f]{64}, got [0-9a-f]{64}: Ben 1\.0\.0"
    ):
        text.build(found, folder)
    assert (folder / "packages" / "Ben.tgz").read_bytes() == b"damaged"
    assert not (folder / "books.txt").exists()


def test_a_client_that_is_not_there_is_named_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DownloadError, match=r"cannot download austen 1 \(debian\): there is no apt-get .* --without"):
        fetch.fetch(Package("debian", "austen", "1", "austen.deb", "0" * 64), tmp_path / "packages")


@pytest.mark.parametrize(
    "error, message",
    [
        (OSError("no route to host"), "no route to host"),
        (http.client.IncompleteRead(b"half"), "IncompleteRead"),
        (
            subprocess.CalledProcessError(1, "npm", stderr="npm error 404\nnot found\na log is in x"),
            "npm error 404 not found$",
        ),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(package: Package, incoming: Path) -> None:
        incoming.write_bytes(b"half")
        raise error

    monkeypatch.setitem(fetch.CLIENTS, "npm", fail)
    with pytest.raises(DownloadError, match=rf"cannot download tales 1 \(npm\): {message}"):
        fetch.fetch(Package("npm", "tales", "1", "tales.tgz", "0" * 64), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "page, content_type",
    [
        (
            '{"files": [{"filename": "a-1.tar.gz", "url": "../files/a-1.tar.gz"}]}',
            "application/vnd.pypi.simple.v1+json",
        ),
        ('<a href="../files/a-1.tar.gz#sha256=0" data-x="y">a-1.tar.gz</a>', "text/html"),
    ],
)
def test_an_index_is_read_in_both_of_its_formats(page: str, content_type: str) -> None:
    assert fetch.file_links(page, content_type) == {"a-1.tar.gz": "../files/a-1.tar.gz"}


def test_files_are_read_from_wheels_and_tarballs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("b/two.txt", "2")
        archive.writestr("b/one.txt", "1")
        archive.writestr("setup.py", "1 / 0")
    tarball(tmp_path / "a.tgz", {"b/two.txt": b"2", "b/one.txt": b"1", "packed.gz": gzip.compress(b"3")})
    for name in ("a.whl", "a.tgz"):
        assert list(fetch.members(tmp_path / name, r"\.txt$")) == [("b/one.txt", b"1"), ("b/two.txt", b"2")]
    assert fetch.member(tmp_path / "a.tgz", "packed.gz") == b"3"
    with pytest.raises(DownloadError, match=r"a\.tgz must have one file named \.txt, got 2"):
        fetch.member(tmp_path / "a.tgz", ".txt")


def test_austens_novels_are_read_as_r_stores_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [b"EMMA", b"", b"CHAPTER I", b"", b"Emma Woodhouse, handsome,", b"clever, and rich."]
    strings = b"".join(b"\0\4\0\x09" + len(line).to_bytes(4, "big") + line for line in lines)
    vector = b"X\n\0\0\0\3" + b"\0\0\0\x10" + len(lines).to_bytes(4, "big") + strings
    data = 2 * (len(vector).to_bytes(4, "big") + zlib.compress(vector))
    monkeypatch.setattr(books, "member", lambda archive, name: data)
    assert list(books.austen(tmp_path)) == 2 * [["Emma Woodhouse, handsome, clever, and rich."]]


def test_every_source_is_pinned_and_licensed() -> None:
    for source in SOURCES.values():
        assert len(bytes.fromhex(source.package.sha256)) == 32
        assert source.licence
        assert source.package.registry in fetch.CLIENTS
        assert source.package.version in source.package.file


# --------------------------------------------------------------------------------------------------------------- cloze


def test_there_are_sixty_cloze_sentences_with_one_gap_each() -> None:
    assert len({each.sentence for each in CLOZE}) == 60
    assert {each.sentence.count(MASK) for each in CLOZE} == {1}


def test_every_right_word_of_a_cloze_sentence_is_one_token() -> None:
    vocabulary = set((store.resolve(store.DEFAULT) / "vocab.txt").read_text(encoding="utf-8").split("\n"))
    assert not {word for each in CLOZE for word in each.right} - vocabulary


def test_no_right_word_of_a_trap_is_in_its_sentence() -> None:
    traps = [each for each in CLOZE if each.kind == "trap"]
    assert len(traps) == 7
    assert not [each.sentence for each in traps if any(map(each.is_copy, each.right))]


def test_a_cloze_sentence_is_found_within_another_and_with_any_word_in_its_gap() -> None:
    assert all(occurs_in(f"He thought: {each.sentence.replace(MASK, 'something')} Then he left.") for each in CLOZE)
    assert not any(occurs_in(line) for line in story("Anna"))
    assert not occurs_in("The capital of France is a large and old city.".replace(" is ", " was "))
