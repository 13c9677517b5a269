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
from support.crashes import forks, needs_fork
from support.examples import examples
from tokenizers import AddedToken, BertWordPieceTokenizer, normalizers

from minibert import BertTokenizer
from minibert.checkpoints import json_files
from minibert.errors import MinibertError, TextError, TokenizerError
from minibert.tokenizer import MODEL_INPUTS

# These tests type special tokens by hand on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::minibert.errors.DoubledTokensWarning")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "red", "is", "mask", "[", "]", "##s", "The", "caf"]
WORDS += ["café", "cafe", "##e", "東", "京", "東京", "[E1]", "e", "x"]
TEXTS = [
    "the cat",
    "The [MASK] is red",
    "café 東京",
    "the [E1] cats [NEW]",
    "[mask] [PAD] x the",
    "the\x0ccat e[NEW]e <s>",
]
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
    assert list(ours.model_input_names) == [name for name in MODEL_INPUTS if name in theirs.model_input_names]
    for texts in (TEXTS, list(zip(TEXTS, TEXTS[::-1], strict=True))):
        for options in ({}, {"truncation": True, "max_length": 5}):
            for text in texts:
                a, b = (
                    ours(text if isinstance(text, str) else [text], **options),
                    theirs(*as_arguments(text), **options),
                )
                assert {name: tensor[0].tolist() for name, tensor in a.items()} == dict(b)
            if theirs.pad_token is not None:
                a, b = ours(texts, **options), theirs(texts, padding=True, return_tensors="pt", **options)
                assert a.keys() == b.keys()
                assert all(torch.equal(a[name], b[name]) for name in a)


def as_arguments(text: str | tuple[str, str]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def token(content: str, **fields: Any) -> dict[str, Any]:
    """A token as the settings hold it."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"__type": "AddedToken", "content": content, **flags, "special": True, **fields}


def special(content: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": content, "type_id": 0}}


def template(single: list[dict[str, Any]], ids: dict[str, int]) -> dict[str, Any]:
    """A post-processor that treats a pair like a single text."""
    tokens = {name: {"id": name, "ids": [value], "tokens": [name]} for name, value in ids.items()}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


NORMALIZER = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}
A, CLS, SEP = ({"Sequence": {"id": "A", "type_id": 0}}, special("[CLS]"), special("[SEP]"))
PADDED = {
    "strategy": {"Fixed": 9},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "[PAD]",
}


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
    "no segments for a generic class": {
        "tokenizer.json": trained(),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"},
    },
    "no segments for DistilBERT": {
        "vocab.txt": vocabulary(WORDS),
        "tokenizer_config.json": {"tokenizer_class": "DistilBertTokenizer"},
    },
    "white space at the end of a line": {"vocab.txt": "\r\n".join(WORDS) + " \u3000\r\n"},
    "special tokens of the map alone": {
        "vocab.txt": vocabulary(WORDS),
        "special_tokens_map.json": {"mask_token": token("[MASK]", single_word=True), "image_token": "[NEW]"},
    },
    "a decoder replaces the other files": {
        "tokenizer.json": trained(),
        "tokenizer_config.json": {"added_tokens_decoder": {"24": token("[NEW]", single_word=True)}},
        "special_tokens_map.json": {"additional_special_tokens": ["[E1]"]},
        "added_tokens.json": {"[ent]": 40},
    },
    "padding to 9 tokens": {"tokenizer.json": trained(padding=PADDED)},
    "no limit": {"vocab.txt": vocabulary(WORDS), "tokenizer_config.json": {"model_max_length": 10**30}},
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
    "no input ids": (
        {"tokenizer_config.json": {"model_input_names": []}},
        r"model_input_names must be a list with 'input_ids', got \[\]",
    ),
    "split": ({"tokenizer_config.json": {"split_special_tokens": "yes"}}, "must be true or false, got 'yes'"),
    "surrogate": ({"tokenizer_config.json": '{"bos_token": "\\ud800"}'}, "half of a surrogate pair"),
    "git": ({"vocab.txt": "version https://git-lfs.github.com/spec/v1\noid sha256:ab\n"}, "git lfs pull"),
    "a new token under the id of another": (
        {
            "vocab.txt": vocabulary([*WORDS, "the", "z"]),
            "tokenizer_config.json": {"extra_special_tokens": ["[N]", "[M]"]},
        },
        r"the new token '\[N\]' would get the id 25 of 'z': a line of vocab.txt occurs twice",
    ),
    "a cased file and silent settings": (
        {"tokenizer.json": trained(normalizer={**NORMALIZER, "lowercase": False})},
        "normalizer.lowercase must be True .*, got False: set do_lower_case in tokenizer_config.json, or tokenizer",
    ),
    "a normalizer of its own": ({"tokenizer.json": trained(normalizer={"type": "Lowercase"})}, "got 'Lowercase'"),
    "no pre-tokenizer": ({"tokenizer.json": trained(pre_tokenizer=None)}, "pre_tokenizer.type must be 'BertPreT"),
    "no [SEP]": (
        {"tokenizer.json": trained(post_processor=template([CLS, A], {"[CLS]": 2}))},
        r"post_processor must be '\[CLS\]:0 .*, got '\[CLS\]:0 \[UNK\]:0 and .* set tokenizer_class to PreTrainedTok",
    ),
    "an unknown word of its own": (
        {"tokenizer.json": trained(model={**trained()["model"], "unk_token": "x"})},
        r"model.unk_token must be '\[UNK\]' for BERT's tokenizer class, got 'x'",
    ),
    "special tokens of the map": ({"special_tokens_map.json": {"cls_token": "x"}}, r"cls_token .* must be '\[CLS\]'"),
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


FRAMED = template([CLS] * 600 + [A, SEP], {"[CLS]": 2, "[SEP]": 3})
TENFOLD = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
UNTRUSTED: dict[str, tuple[dict[str, Any], str]] = {
    "more around a text than the model takes": (
        {"post_processor": FRAMED},
        "post_processor must leave room for a text, got 601 tokens around it: the model takes 512",
    ),
    "a normalizer that fills the memory": (
        {"normalizer": {"type": "Sequence", "normalizers": [TENFOLD] * 8}},
        "normalizer must make at most 100 characters of one, got 100,000,000",
    ),
    "a decoder that does": (
        {"decoder": {"type": "Sequence", "decoders": [{**TENFOLD, "pattern": {"Regex": "b?"}}] * 3}},
        "decoder must make at most 100 characters of one, got 1,331",
    ),
    "a step that fails on every text": (
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        "a step of this tokenizer, .*, fails on the text; the tokenizers library says: chunk size must be non-zero",
    ),
}


@pytest.mark.parametrize("changes,message", UNTRUSTED.values(), ids=UNTRUSTED)
def test_a_generic_file_that_no_text_survives(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """It is refused when it is read, with its name."""
    folder = write(tmp_path / "a", {"tokenizer.json": trained(**changes), "tokenizer_config.json": GENERIC})
    with pytest.raises(TokenizerError, match=rf"tokenizer\.json: {message}"):
        BertTokenizer.from_pretrained(folder)


def test_a_normalizer_inside_a_normalizer(tmp_path: Path) -> None:
    """The library's own way to look into it never ends."""
    nested = {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}]}
    folder = write(tmp_path / "a", {"tokenizer.json": trained(normalizer=nested), "tokenizer_config.json": GENERIC})
    assert_as_transformers(folder)
    assert len(BertTokenizer.from_pretrained(folder)("The " * 999, truncation=True)["input_ids"][0]) == 512


@pytest.mark.parametrize("content,pattern", [("'", "`"), (" ", "\u3000"), ("", "\u00ad"), ("xyz", "x")])
def test_a_normalizer_that_replaces_characters(tmp_path: Path, content: str, pattern: str) -> None:
    replace = {"type": "Replace", "pattern": {"String": pattern}, "content": content}
    folder = write(tmp_path / "a", {"tokenizer.json": trained(normalizer=replace), "tokenizer_config.json": GENERIC})
    assert_as_transformers(folder)


PANICS = {
    "a token that is not listed": {"post_processor": template([special("[CLS]")], {})},
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
    with pytest.raises(TokenizerError, match="must have at most 67,108,864 bytes: it is not a file"):
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
    monkeypatch.setattr(json_files, "MOST_VALUES", 100)
    settings.write_text('{"a": [' + "{}," * 100 + "{}]}")
    with pytest.raises(TokenizerError, match="must hold at most 100 values"):
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


def test_a_length_limit_that_means_none(tmp_path: Path) -> None:
    """transformers writes 10**30, which the library cannot cut to."""
    files = {"vocab.txt": vocabulary(WORDS), "tokenizer_config.json": {"model_max_length": 10**30}}
    tokenizer = BertTokenizer.from_pretrained(write(tmp_path / "a", files))
    assert tokenizer.model_max_length == 512
    assert tokenizer("the cat " * 600, truncation=True)["input_ids"].shape == (1, 512)


@pytest.mark.parametrize("given", ["vocab.txt", None, 5, {}])
def test_the_constructor_takes_a_tokenizer(given: object) -> None:
    with pytest.raises(TokenizerError, match=r"use BertTokenizer\.from_pretrained\(folder\)"):
        BertTokenizer(given)


@pytest.mark.parametrize(
    "option,value",
    [
        ("model_max_length", 0),
        ("model_max_length", 2),
        ("model_max_length", "512"),
        ("pad_token", None),
        ("pad_token", "[NEW]"),
        ("model_input_names", None),
        ("model_input_names", "input_ids"),
        ("model_input_names", ["input_ids", "pixels"]),
        ("padding_side", ""),
        ("truncation_side", ["left"]),
    ],
)
def test_the_constructor_takes_only_what_it_can_use(tokenizer: BertTokenizer, option: str, value: object) -> None:
    with pytest.raises(TokenizerError):
        BertTokenizer(copy.copy(tokenizer).tokenizer, **{option: value})
    if option.endswith("padding_side"):
        with pytest.raises(TextError, match="padding_side must be one of right, left, got ''"):
            tokenizer("a text", padding_side=value)


SETTINGS: dict[str, list[Any]] = {
    "tokenizer_class": ["BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "DistilBertTokenizer", None],
    "do_lower_case": [True, False],
    "strip_accents": [True, False, None],
    "tokenize_chinese_chars": [True, False],
    "split_special_tokens": [True, False],
    "padding_side": ["left", "right"],
    "truncation_side": ["left", "right"],
    "extra_special_tokens": [["[E1]"], ["[NEW]"], {"e": "[NEW]"}, []],
    "additional_special_tokens": [["[E1]", "[NEW]"], ["the"]],
    "bos_token": ["[NEW]", "[CLS]", token("[E1]", single_word=True)],
    "image_token": ["<s>"],
    "cls_token": ["[CLS]", "[MASK]"],
    "mask_token": ["[MASK]", "x"],
    "pad_token": ["[PAD]", "x"],
    "added_tokens_decoder": [
        {"24": token("[NEW]", special=False, normalized=True)},
        {"4": token("[MASK]", lstrip=True), "21": token("[E1]")},
        {"25": token("[NEW]")},
        {},
    ],
    "model_input_names": [["input_ids", "attention_mask"], list(MODEL_INPUTS)],
}
SPECIAL_MAPS = [
    {"additional_special_tokens": ["[E1]"]},
    {"bos_token": "[NEW]"},
    {"cls_token": "x"},
    {"mask_token": {"content": "[MASK]", "lstrip": True}, "additional_special_tokens": ["[NEW]"]},
]
CHANGES: dict[str, list[Any]] = {
    "post_processor": [None, template([CLS, A], {"[CLS]": 2}), template([CLS, A, SEP], {"[CLS]": 2, "[SEP]": 3})],
    "normalizer": [
        None,
        {**NORMALIZER, "lowercase": False},
        {**NORMALIZER, "clean_text": False},
        {"type": "Lowercase"},
    ],
    "pre_tokenizer": [None, {"type": "WhitespaceSplit"}],
    "added_tokens": [[], [{"id": 4, **token("[MASK]", normalized=True)}, {"id": 24, **token("[NEW]", special=False)}]],
    "padding": [PADDED],
    "truncation": [{"direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0}],
}


def some(choices: dict[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the keys, each with one of its values."""
    return st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in choices.items()})


@examples(100)
@given(
    settings=some(SETTINGS),
    changes=some(CHANGES),
    of_config=some({"tokenizer_class": SETTINGS["tokenizer_class"]}),
    others=some({"special_tokens_map.json": SPECIAL_MAPS, "added_tokens.json": [{"[NEW]": 24}, {"[MASK]": 4}]}),
    words=st.lists(st.sampled_from([*WORDS[5:], "y", "", "x "]), max_size=4),
    has_json=st.booleans(),
)
@example({"tokenizer_class": "BertTokenizer"}, {"added_tokens": []}, {}, {}, [], True)
def test_files_against_each_other(
    tmp_path_factory: pytest.TempPathFactory,
    settings: dict[str, Any],
    changes: dict[str, Any],
    of_config: dict[str, Any],
    others: dict[str, Any],
    words: list[str],
    has_json: bool,
) -> None:
    """The same ids as transformers, before and after saving; or an error with a name."""
    files = {"tokenizer_config.json": settings, "config.json": {"model_type": "bert", **of_config}, **others}
    files["vocab.txt"] = vocabulary([*WORDS, *words])
    if has_json:
        files["tokenizer.json"] = trained(**changes)
    folder = write(tmp_path_factory.getbasetemp() / "against", files)
    try:
        ours = BertTokenizer.from_pretrained(folder)
    except MinibertError:
        return
    names = {settings.get("tokenizer_class"), of_config.get("tokenizer_class")}
    if has_json or "PreTrainedTokenizerFast" not in names:  # for which transformers wants a tokenizer.json
        assert_as_transformers(folder)
    ours.save_pretrained(folder / "saved")
    again = BertTokenizer.from_pretrained(folder / "saved")
    assert again.to_json() == ours.to_json()
    assert again(TEXTS)["input_ids"].tolist() == ours(TEXTS)["input_ids"].tolist()
    assert_as_transformers(folder / "saved")


NAMES = [*SETTINGS, "never_split", "auto_map", "word_tokenizer_type", "model_max_length", "max_position_embeddings"]
ANY_JSON = st.recursive(
    st.sampled_from([None, True, False, 0, -1, 5, 1.5, 10**400, float("nan"), "", "x", "[MASK]", "\x00", "\u00b2"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["content", "lstrip", "24", "-1", "99999999999", "\u00b2"]), inner, max_size=2),
    ),
    max_leaves=4,
)
FOUR_FILES = ("tokenizer_config.json", "config.json", "special_tokens_map.json", "added_tokens.json")


@examples(150)
@given(
    files=st.fixed_dictionaries(
        {}, optional={name: st.dictionaries(st.sampled_from(NAMES), ANY_JSON, max_size=3) for name in FOUR_FILES}
    ),
    has_json=st.booleans(),
)
def test_any_settings(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Any], has_json: bool) -> None:
    """A tokenizer that works, or an error of ours."""
    files = {"vocab.txt": vocabulary(WORDS), **files, **({"tokenizer.json": trained()} if has_json else {})}
    with contextlib.suppress(MinibertError):
        tokenizer = BertTokenizer.from_pretrained(write(tmp_path_factory.getbasetemp() / "any", files))
        assert tokenizer.convert_ids_to_tokens(tokenizer("the cat")["input_ids"][0])[1:-1] == ["the", "cat"]
        assert tokenizer(["the cat " * 600, "cat"], truncation=True)["input_ids"].shape == (
            2,
            tokenizer.model_max_length,
        )


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


@examples(150)
@given(
    short=st.lists(st.sampled_from(PIECES), min_size=1, max_size=12),
    pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=20),
    times=st.integers(1, 40),
    limit=st.integers(5, 12),
    is_first=st.booleans(),
)
@example(short=["fly"], pieces=["the "], times=60, limit=7, is_first=True)
@example(short=["a "] * 60, pieces=["fly "], times=100, limit=8, is_first=False)
def test_a_long_text_of_a_pair_is_cut_before_it_is_tokenised(
    tokenizer: BertTokenizer, short: list[str], pieces: list[str], times: int, limit: int, is_first: bool
) -> None:
    pair = ("".join(short) + "a", "".join(pieces) * times + "the end")[:: 1 if is_first else -1]
    (whole,), (ours,) = tokenizer._encode([pair], limit), tokenizer.encode([pair], limit)
    assert (ours.ids, ours.type_ids, ours.offsets) == (whole.ids, whole.type_ids, whole.offsets)
    assert bool(ours.overflowing) == bool(whole.overflowing)


@pytest.mark.parametrize(
    "text",
    [
        "<a.b.c.d.e" + "\x00" * 1000 + ".f> the end",  # the tokenizer sees one token
        "[the end of it all" * 100,
        "the end" * 100,
        "\x00" * 1000 + "the end",
        "the end of it" + "\u0301" * 1000 + " all",
    ],
)
@pytest.mark.parametrize("fields", [{"normalized": True}, {"normalized": False}, {"single_word": True}])
def test_an_added_token_that_the_cut_falls_into(tokenizer: BertTokenizer, text: str, fields: dict[str, bool]) -> None:
    tokenizer = copy.copy(tokenizer)
    added = ("<a.b.c.d.e.f>", "the end", "[the end of it all[the end of it all")
    tokenizer.tokenizer.add_tokens([AddedToken(content, **fields) for content in added])
    for limit in range(3, 9):
        (whole,), (ours,) = tokenizer._encode([text], limit), tokenizer.encode([text], limit)
        assert (ours.ids, ours.offsets, bool(ours.overflowing)) == (whole.ids, whole.offsets, bool(whole.overflowing))


def test_memory_is_bounded_by_the_limit_not_by_the_text(
    tokenizer: BertTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 0
    encode = BertTokenizer._encode

    def watched(self: BertTokenizer, texts: list[str], *rest: Any, **options: Any) -> Any:
        nonlocal longest
        longest = max(longest, *(len(text) for each in texts for text in as_arguments(each)))
        return encode(self, texts, *rest, **options)

    monkeypatch.setattr(BertTokenizer, "_encode", watched)
    long = "the fly in the soup " * 1_000_000
    assert len(tokenizer.encode([long], 128)[0]) == 128
    assert len(tokenizer.encode([("the fly", long), (long, "the fly")], 128)[1]) == 128
    lower = copy.copy(tokenizer)
    lower.tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.BertNormalizer()])
    assert len(lower.encode([long], 128)[0]) == 128
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


@needs_fork
@forks
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
