"""A tokenizer's files are read as transformers reads them, or refused by name; whatever they hold."""

import contextlib
import copy
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from support.examples import examples
from tokenizers import BertWordPieceTokenizer

from minibert import BertTokenizer
from minibert.checkpoints import json_files
from minibert.errors import MinibertError, TokenizerError

pytestmark = pytest.mark.filterwarnings("ignore::minibert.errors.DoubledTokensWarning")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "red", "is", "mask", "[", "]", "##s", "The", "caf"]
WORDS += ["café", "cafe", "##e", "東", "京", "東京", "[E1]", "e", "x"]
TEXTS = ["the cat", "The [MASK] is red", "café 東京", "the [E1] cats [NEW]", "[mask] [PAD] x the"]
SIDES = ("right", "left")
NAMED = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMED}


def write(folder: Path, files: dict[str, Any]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in {"config.json": {"model_type": "bert"}, **files}.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def trained(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json as the tokenizers library writes it; changes are to its fields."""
    tokenizer = BertWordPieceTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    return {**json.loads(tokenizer.to_str()), **changes}


def vocabulary(words: list[str]) -> str:
    return "\n".join(words) + "\n"


def assert_as_transformers(folder: Path) -> None:
    ours, theirs = BertTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert (ours.padding_side, ours.truncation_side) == (theirs.padding_side, theirs.truncation_side)
    for texts in (TEXTS, list(zip(TEXTS, TEXTS[::-1], strict=True))):
        for options in ({}, {"truncation": True, "max_length": 5}):
            a, b = ours(texts, **options), theirs(texts, padding=True, return_tensors="pt", **options)
            for name in a.keys() & b.keys():
                assert torch.equal(a[name], b[name]), name
    assert list(a) == list(ours.model_input_names)


# Each setting alone, and what the library's own trainer leaves out.
READ: dict[str, dict[str, Any]] = {
    "no post-processor": {"tokenizer.json": trained(post_processor=None)},
    "no added tokens": {"tokenizer.json": trained(added_tokens=[]), "tokenizer_config.json": NAMED},
    "no added tokens, generic": {"tokenizer.json": trained(added_tokens=[]), "tokenizer_config.json": GENERIC},
    "another special token": {"tokenizer.json": trained(), "tokenizer_config.json": {"bos_token": "[NEW]"}},
    "a list of them": {"tokenizer.json": trained(), "tokenizer_config.json": {"extra_special_tokens": ["[E1]"]}},
    "names of them": {"tokenizer.json": trained(), "tokenizer_config.json": {"extra_special_tokens": {"e": "[NEW]"}}},
    "special tokens split": {"tokenizer.json": trained(), "tokenizer_config.json": {"split_special_tokens": True}},
    "case by the settings": {
        "tokenizer.json": trained(),
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": False},
    },
    "case by the file": {"tokenizer.json": trained(), "tokenizer_config.json": {**GENERIC, "do_lower_case": False}},
    "a doubled line": {"vocab.txt": vocabulary([*WORDS, "the", "red", "z"])},
    "left": {
        "vocab.txt": vocabulary(WORDS),
        "tokenizer_config.json": {"padding_side": "left", "truncation_side": "left"},
    },
    "no segments": {
        "vocab.txt": vocabulary(WORDS),
        "tokenizer_config.json": {"model_input_names": ["input_ids", "attention_mask"]},
    },
    "a class that cuts alike": {
        "vocab.txt": vocabulary(WORDS),
        "tokenizer_config.json": {"tokenizer_class": "ElectraTokenizerFast"},
    },
}


@pytest.mark.parametrize("files", READ.values(), ids=READ)
def test_what_the_files_say_is_done(tmp_path: Path, files: dict[str, Any]) -> None:
    ours = BertTokenizer.from_pretrained(write(tmp_path / "a", files))
    assert_as_transformers(tmp_path / "a")
    ours.save_pretrained(tmp_path / "b")
    assert_as_transformers(tmp_path / "b")
    for again in (BertTokenizer.from_pretrained(tmp_path / "b"), copy.copy(ours)):
        for options in ({}, {"truncation": True, "max_length": 5}):
            assert again(TEXTS, **options)["input_ids"].tolist() == ours(TEXTS, **options)["input_ids"].tolist()
        assert again(TEXTS).keys() == ours(TEXTS).keys()


JAPANESE = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}
BACKEND = {"tokenizer_class": "TokenizersBackend"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "class": ({"tokenizer_config.json": JAPANESE}, "tokenizer_class in tokenizer_config.json must be BertTokenizer"),
    "class in the config": (
        {"config.json": {"tokenizer_class": "BertJapaneseTokenizer"}},
        "tokenizer_class in config.json must be BertTokenizer .*, got 'BertJapaneseTokenizer'",
    ),
    "class that is not a name": ({"tokenizer_config.json": {"tokenizer_class": 5}}, "tokenizer_class .*, got 5"),
    "words": ({"tokenizer_config.json": {"word_tokenizer_type": "sudachi"}}, "word_tokenizer_type .* got 'sudachi'"),
    "subwords": ({"tokenizer_config.json": {"subword_tokenizer_type": "character"}}, "subword_tokenizer_type"),
    "no words": ({"tokenizer_config.json": {"do_basic_tokenize": False}}, "do_basic_tokenize .* got False"),
    "code": ({"tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["a.B", None]}}}, "auto_map"),
    "side": ({"tokenizer_config.json": {"padding_side": "top"}}, "padding_side must be one of right, left, got 'top'"),
    "inputs": ({"tokenizer_config.json": {"model_input_names": ["pixels", "input_ids"]}}, "got 'pixels'"),
    "no input ids": ({"tokenizer_config.json": {"model_input_names": []}}, "model_input_names .* must list inputs"),
    "split": ({"tokenizer_config.json": {"split_special_tokens": "yes"}}, "must be true or false, got 'yes'"),
    "surrogate": ({"tokenizer_config.json": '{"bos_token": "\\ud800"}'}, "half of a surrogate pair"),
    "git": ({"vocab.txt": "version https://git-lfs.github.com/spec/v1\noid sha256:ab\n"}, "git lfs pull"),
    "generic without template": (
        {"tokenizer.json": trained(post_processor=None), "tokenizer_config.json": BACKEND},
        "post_processor must say where",
    ),
}


@pytest.mark.parametrize("files,message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused_by_name(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    folder = write(tmp_path / "a", {"vocab.txt": vocabulary(WORDS), **files})
    with pytest.raises(TokenizerError, match=message):
        BertTokenizer.from_pretrained(folder)


def template(single: list[dict[str, Any]], special: dict[str, Any]) -> dict[str, Any]:
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}


A, CLS = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
PANICS = {
    "a token that is not listed": {"post_processor": template([CLS, A], {})},
    "the second text in a single one": {"post_processor": template([{"Sequence": {"id": "B", "type_id": 0}}], {})},
    "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
}


@pytest.mark.parametrize("changes", PANICS.values(), ids=PANICS)
def test_a_panic_of_the_library_is_an_error_of_ours(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = write(tmp_path / "a", {"tokenizer.json": trained(**changes)})
    with pytest.raises(MinibertError):
        BertTokenizer.from_pretrained(folder)("the cat")


def test_a_decoder_that_strips_more_than_there_is(tmp_path: Path) -> None:
    strip = {"type": "Strip", "content": "t", "start": 9, "stop": 9}
    tokenizer = BertTokenizer.from_pretrained(write(tmp_path / "a", {"tokenizer.json": trained(decoder=strip)}))
    with contextlib.suppress(TokenizerError):
        tokenizer.decode([5, 6])


def test_files_that_are_too_large_or_never_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "a", {"vocab.txt": vocabulary(WORDS)})
    with (folder / "tokenizer.json").open("wb") as sparse:
        sparse.truncate(3 << 30)
    with pytest.raises(TokenizerError, match="must have at most 67,108,864 bytes, got 3,221,225,472"):
        BertTokenizer.from_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    settings = folder / "tokenizer_config.json"
    os.mkfifo(settings)
    with pytest.raises(TokenizerError, match="must be a regular file"):
        BertTokenizer.from_pretrained(folder)
    settings.unlink()
    settings.symlink_to("/dev/zero")
    with pytest.raises(TokenizerError, match="must be a regular file"):
        BertTokenizer.from_pretrained(folder)
    settings.unlink()
    monkeypatch.setattr(json_files, "MOST_OBJECTS", 100)
    settings.write_text('{"a": [' + "{}," * 100 + "{}]}")
    with pytest.raises(TokenizerError, match="holds more than 100 lists and objects"):
        BertTokenizer.from_pretrained(folder)


def test_ten_thousand_added_tokens(tmp_path: Path) -> None:
    """Added one at a time, they take more than a minute, because each call indexes all of them."""
    tokens = {f"<{number}>": len(WORDS) + number for number in range(10_000)}
    folder = write(tmp_path / "a", {"vocab.txt": vocabulary(WORDS), "added_tokens.json": tokens})
    tokenizer = BertTokenizer.from_pretrained(folder)
    assert len(tokenizer) == len(WORDS) + 10_000
    assert tokenizer.convert_tokens_to_ids("<9999>") == len(WORDS) + 9_999


def test_a_line_that_occurs_twice_leaves_an_id_without_a_token(tmp_path: Path) -> None:
    tokenizer = BertTokenizer.from_pretrained(write(tmp_path / "a", {"vocab.txt": vocabulary([*WORDS, "the", "z"])}))
    assert len(tokenizer) == len(WORDS) + 2
    assert tokenizer("the z")["input_ids"].tolist() == [[2, len(WORDS), len(WORDS) + 1, 3]]
    with pytest.raises(TokenizerError, match=r"id 5 has no token in this vocabulary: a line of its vocab\.txt occurs"):
        tokenizer.convert_ids_to_tokens(5)
    with pytest.raises(TokenizerError, match="id must be in the vocabulary, from 0 to 25, got 26"):
        tokenizer.convert_ids_to_tokens(26)


@pytest.mark.parametrize("given", ["vocab.txt", None, 5, {}])
def test_the_constructor_takes_a_tokenizer(given: object) -> None:
    with pytest.raises(TokenizerError, match=r"use BertTokenizer\.from_pretrained\(folder\)"):
        BertTokenizer(given)  # type: ignore[arg-type]


SETTING = {
    "tokenizer_class": st.sampled_from(["BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", None]),
    "do_lower_case": st.booleans(),
    "strip_accents": st.sampled_from([True, False, None]),
    "tokenize_chinese_chars": st.booleans(),
    "split_special_tokens": st.booleans(),
    "padding_side": st.sampled_from(SIDES),
    "truncation_side": st.sampled_from(SIDES),
    "extra_special_tokens": st.lists(st.sampled_from(["[E1]", "[NEW]", "x"]), max_size=2),
    "bos_token": st.sampled_from(["[CLS]", "[NEW]", None]),
}
CHANGED: dict[str, st.SearchStrategy[Any]] = {
    "post_processor": st.none(),
    "added_tokens": st.just([]),
    "padding": st.just(
        {"strategy": {"Fixed": 9}, "direction": "Left", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    ),
    "truncation": st.just({"direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0}),
}


@examples(40)
@given(
    settings=st.fixed_dictionaries({}, optional=SETTING),
    changed=st.fixed_dictionaries({}, optional=CHANGED),
    words=st.lists(st.sampled_from([*WORDS[5:], "y"]), max_size=30),
    has_json=st.booleans(),
)
@example(settings={"tokenizer_class": "BertTokenizer"}, changed={"added_tokens": []}, words=[], has_json=True)
def test_settings_against_each_other(
    tmp_path_factory: pytest.TempPathFactory, settings: dict, changed: dict, words: list[str], has_json: bool
) -> None:
    """The same ids as transformers, or an error with a name."""
    files: dict[str, Any] = {"tokenizer_config.json": {**settings, **NAMED}}
    files["vocab.txt"] = vocabulary([*WORDS, *words])
    if has_json:
        files = {**files, "vocab.txt": vocabulary(WORDS), "tokenizer.json": trained(**changed)}
    elif settings.get("tokenizer_class") == "PreTrainedTokenizerFast":
        return  # transformers wants a tokenizer.json for it
    folder = write(tmp_path_factory.getbasetemp() / "against", files)
    with contextlib.suppress(MinibertError):
        assert_as_transformers(folder)


# --- long texts ------------------------------------------------------------------------------------------------------

PIECES = ["a", "the ", "fly", "x" * 120 + " ", "東", "\u0301", "\x00", " ", "[MASK]", "[MA", ". ", "\u200b" * 40, "é"]
PIECES += ["##s", "\n"]


@examples(150)
@given(
    pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=40),
    times=st.integers(1, 60),
    limit=st.integers(3, 12),
)
@example(pieces=["[MA"], times=60, limit=3)
@example(pieces=["\x00"], times=60, limit=3)
def test_a_long_text_is_cut_before_it_is_tokenised(
    tokenizer: BertTokenizer, pieces: list[str], times: int, limit: int
) -> None:
    """The ids are those of the whole text, and so is whether it was cut."""
    text = "".join(pieces) * times + "the end"
    (whole,) = tokenizer._encode([text], limit)
    (ours,) = tokenizer.encode([text], limit)
    assert (ours.ids, ours.offsets, bool(ours.overflowing)) == (whole.ids, whole.offsets, bool(whole.overflowing))


def test_memory_is_bounded_by_the_limit_not_by_the_text(
    tokenizer: BertTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 0
    encode = BertTokenizer._encode

    def watched(self: BertTokenizer, texts: list[str], *rest: Any, **options: Any) -> Any:
        nonlocal longest
        longest = max(longest, *map(len, texts))
        return encode(self, texts, *rest, **options)

    monkeypatch.setattr(BertTokenizer, "_encode", watched)
    assert len(tokenizer.encode(["the fly in the soup " * 1_000_000], 128)[0]) == 128
    assert 0 < longest < 10_000


# --- copies, threads, forks ------------------------------------------------------------------------------------------


def test_a_copy_has_a_state_of_its_own(tokenizer: BertTokenizer) -> None:
    again = copy.copy(tokenizer)
    assert again.tokenizer is not tokenizer.tokenizer
    assert again._lock is not tokenizer._lock
    wrong = 0

    def encode(which: BertTokenizer, limit: int) -> None:
        nonlocal wrong
        for _ in range(150):
            wrong += len(which.encode(["fly " * 50], limit)[0]) != limit

    threads = [threading.Thread(target=encode, args=pair) for pair in ((tokenizer, 7), (again, 23))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_fork_while_another_thread_encodes(tokenizer: BertTokenizer) -> None:
    stop = threading.Event()

    def encode() -> None:
        while not stop.is_set():
            tokenizer.encode(["fly " * 400] * 4, 100)

    thread = threading.Thread(target=encode)
    thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0 if len(tokenizer.encode(["the fly"], 9)[0]) == 4 else 1)
            assert exit_code(child) == 0
    finally:
        stop.set()
        thread.join()


def exit_code(child: int, seconds: float = 20) -> int | None:
    """The exit code of a process; None, and it is killed, if it hangs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None
