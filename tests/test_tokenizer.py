import copy
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
import torch
import transformers
from hypothesis import assume, example, given
from hypothesis import strategies as st

from minibert import BertTokenizer
from minibert.errors import CheckpointNotFoundError, DoubledTokensWarning, TextError, TextTypeError, TokenizerError

# These tests type special tokens by hand on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::minibert.errors.DoubledTokensWarning")

TEXTS = [
    "Hello, how are you?",
    "There was a fly drinking from my soup",
    "To become a commercial pilot, he had to fly for 1500 hours.",
    "don't we've 'fly' (fly) fly… U.S.A. 3,14 50% #tag a_b e-mail@example.org",
    "café naïve Ångström Dvořák İstanbul ŒUVRE straße",
    "東京は日本の首都です 中文 한국어 русский العربية हिन्दी",
    "emoji 🙂 family 👩‍👩‍👧 flag 🇩🇪",
    "tabs\tand\nnew lines\r\nand\u00a0odd\u2003spaces\u200b",
    "control\x00 characters\x07 and\ufffd replacement",
    "e\u0301 combining marks a\u0300\u0316",
    "internationalisation antidisestablishmentarianism " + "x" * 150,
    "[CLS] typed by hand [SEP] and [MASK] and [UNK]",
]


@pytest.fixture(scope="session")
def theirs(checkpoint: Path) -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def from_vocabulary(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> BertTokenizer:
    """The same tokenizer, built from vocab.txt and tokenizer_config.json alone."""
    folder = tmp_path_factory.mktemp("vocabulary")
    for file in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(checkpoint / file, folder)
    return BertTokenizer.from_pretrained(folder)


def assert_same(ours: BertTokenizer, theirs, *texts, **arguments) -> None:
    a = ours(*texts, **arguments)
    b = theirs(*texts, **{"padding": True, **arguments}, return_offsets_mapping=True, return_tensors="pt")
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        assert a[name].dtype == torch.int64
        assert torch.equal(a[name], b[name]), name
    for row in range(len(a["input_ids"])):
        assert a.tokens(row) == b.tokens(row)
        assert a.word_ids(row) == b.word_ids(row)
        assert a.sequence_ids(row) == b.sequence_ids(row)
        assert a.offsets(row) == [tuple(pair) for pair in b["offset_mapping"][row].tolist()]


@pytest.mark.parametrize(
    "texts,arguments",
    [
        ((TEXTS[0],), {}),
        ((TEXTS,), {}),
        ((TEXTS,), {"padding_side": "left"}),
        ((TEXTS,), {"truncation": True, "max_length": 7}),
        ((TEXTS[0], TEXTS[1]), {}),
        ((TEXTS, TEXTS[::-1]), {}),
        ((TEXTS, TEXTS[::-1]), {"truncation": True, "max_length": 9}),
        ((TEXTS[0],), {"padding": "max_length", "max_length": 20}),
        (([(TEXTS[2], TEXTS[3]), (TEXTS[4], TEXTS[5])],), {}),
    ],
)
def test_equal_to_transformers(tokenizer, from_vocabulary, theirs, texts: tuple, arguments: dict) -> None:
    assert_same(tokenizer, theirs, *texts, **arguments)
    assert_same(from_vocabulary, theirs, *texts, **arguments)


@pytest.mark.filterwarnings("error::minibert.errors.DoubledTokensWarning")
def test_special_tokens_typed_by_hand_are_noticed(tokenizer) -> None:
    message = r"text 1 begins with \[CLS\], .* the model reads them twice: \[CLS\] \[CLS\] a fly …"
    with pytest.warns(DoubledTokensWarning, match=message) as caught:
        inputs = tokenizer(["a [CLS] in the middle", "[CLS] a fly [SEP]"])
    assert inputs["input_ids"][1, :2].tolist() == [101, 101]
    assert len(caught) == 1
    assert caught[0].filename == __file__


@given(text=st.text(max_size=60))
@example("[MASK]" * 3)
@example("\u0130\u0307")
def test_any_text(tokenizer, from_vocabulary, theirs, text: str) -> None:
    assert tokenizer.tokenize(text) == from_vocabulary.tokenize(text) == theirs.tokenize(text)
    assume(tokenizer.tokenize(text))
    assert_same(tokenizer, theirs, text)
    assert_same(from_vocabulary, theirs, text)


def test_offsets_point_into_the_text(tokenizer: BertTokenizer) -> None:
    text = "The Flying Dutchman"
    inputs = tokenizer(text)
    assert inputs.tokens() == ["[CLS]", "the", "flying", "dutch", "##man", "[SEP]"]
    assert [text[start:end] for start, end in inputs.offsets()] == ["", "The", "Flying", "Dutch", "man", ""]
    assert inputs.word_ids() == [None, 0, 1, 2, 2, None]


def test_tokens_ids_and_text(tokenizer: BertTokenizer) -> None:
    assert tokenizer.tokenize("let's tokenize") == ["let", "'", "s", "token", "##ize"]
    assert tokenizer.convert_tokens_to_ids("king") == 2332
    assert tokenizer.convert_tokens_to_ids(["king", "[MASK]"]) == [2332, 103]
    assert tokenizer.convert_ids_to_tokens(2332) == "king"
    assert tokenizer.convert_ids_to_tokens(torch.tensor([101, 2332])) == ["[CLS]", "king"]
    ids = tokenizer("Hello, how are tokenizers?")["input_ids"][0]
    assert tokenizer.decode(ids) == "[CLS] hello, how are tokenizers? [SEP]"
    assert tokenizer.decode(ids.tolist(), skip_special_tokens=True) == "hello, how are tokenizers?"
    assert len(tokenizer) == 30_522


def test_truncation_of_one_call_is_not_that_of_the_next(tokenizer: BertTokenizer) -> None:
    """Nor that of a call in another thread."""
    long = "fly " * 50

    def length(limit: int) -> int:
        return tokenizer(long, truncation=True, max_length=limit)["input_ids"].shape[1]

    limits = [5, 40, 11, 30] * 25
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(length, limits)) == limits
    assert tokenizer(long)["input_ids"].shape == (1, 52)
    assert len(tokenizer.tokenize(long)) == 50


def test_to_a_device_keeps_everything(tokenizer: BertTokenizer) -> None:
    inputs = tokenizer("to the GPU")
    moved = inputs.to("meta")
    assert {name: tensor.device.type for name, tensor in moved.items()} == dict.fromkeys(inputs, "meta")
    assert moved.tokens() == inputs.tokens()
    assert inputs["input_ids"].device.type == "cpu"


@pytest.mark.parametrize(
    "arguments,error,message",
    [
        (([],), TextError, "text must not be an empty list"),
        (("",), TextError, "text 0 has nothing to encode: ''"),
        ((["fine", " \n"],), TextError, r"text 1 has nothing to encode: ' \\n'"),
        (("\u200b\x00",), TextError, "text 0 has nothing to encode"),
        (("text", ""), TextError, r"text 0 has nothing to encode: \('text', ''\)"),
        ((None,), TextTypeError, "text 0 must be a string, got NoneType: pass several texts as a list"),
        ((["fine", 3],), TextTypeError, "text 1 must be a string, got int"),
        ((b"bytes",), TextTypeError, "must be a string, got bytes"),
        ((["a"], ["b", "c"]), TextError, "text_pair must have as many texts as text, 1, got 2"),
        (([("a", 3)],), TextTypeError, "the second of pair 0 must be a string, got int"),
        ((["a", ("b", "c")],), TextTypeError, "must be all texts or all pairs, got both in one list"),
        (("half \ud83d",), TextError, "text 0 must be valid Unicode, got half of a surrogate pair at character 5"),
        (("fly " * 600,), TextError, "text 0 must have at most 512 tokens, got 602: pass truncation=True to cut"),
    ],
)
def test_bad_texts(tokenizer: BertTokenizer, arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tokenizer(*arguments)


@pytest.mark.parametrize(
    "option,value",
    [("padding", False), ("padding", "max-length"), ("truncation", "only_first"), ("padding_side", "lft")],
)
def test_unknown_options(tokenizer: BertTokenizer, option: str, value: object) -> None:
    with pytest.raises(TextError, match=f"{option} must be one of .*, got {value!r}"):
        tokenizer("text", **{option: value})
    with pytest.raises(TextError, match="return_tensors must be pt, got 'np'"):
        tokenizer("text", return_tensors="np")


ENTITY = {
    "content": "<ent>",
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "single_word": False,
    "special": True,
}
NEW = {**ENTITY, "content": "<new>", "special": False, "normalized": True}


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens.json": {"<new>": 30522, "<ent>": 30523}},
        {"tokenizer_config.json": {"added_tokens_decoder": {"30523": ENTITY, "30522": NEW}}},
        {"special_tokens_map.json": {"additional_special_tokens": ["<ent>"]}},
        {"tokenizer_config.json": {"additional_special_tokens": ["<ent>", "<new>"]}},
    ],
)
def test_added_tokens(checkpoint: Path, tmp_path: Path, files: dict[str, dict]) -> None:
    shutil.copy(checkpoint / "vocab.txt", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    for name, content in files.items():
        (tmp_path / name).write_text(
            json.dumps({**content, **({"tokenizer_class": "BertTokenizer"} if "config" in name else {})})
        )
    ours, theirs = BertTokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("Hello <new> worlds <ent>", "a<ent>b <NEW>", "<ent>"):
        assert ours(text)["input_ids"].tolist()[0] == theirs(text)["input_ids"], text


@pytest.mark.parametrize(
    "files,message",
    [
        (
            {"added_tokens.json": {"<new>": 31000}},
            "'<new>' has id 31000 .* would get 30522 here: a token before it is",
        ),
        ({"added_tokens.json": {"<new>": "x"}}, "id of the added token '<new>' must be an integer, got 'x'"),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"30522": 5}}},
            "added_tokens_decoder in the tokenizer.s settings must be a token, got 5",
        ),
        (
            {"special_tokens_map.json": {"additional_special_tokens": [7]}},
            "additional_special_tokens in the tokenizer.s settings must be a token, got 7",
        ),
    ],
)
def test_invalid_added_tokens(checkpoint: Path, tmp_path: Path, files: dict, message: str) -> None:
    shutil.copy(checkpoint / "vocab.txt", tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=message):
        BertTokenizer.from_pretrained(tmp_path)


def test_a_pair_keeps_a_token_of_each(tokenizer: BertTokenizer) -> None:
    assert tokenizer("a b c", "d e f", truncation=True, max_length=5).tokens() == ["[CLS]", "a", "[SEP]", "d", "[SEP]"]
    with pytest.raises(TextError, match="max_length must be an integer from 5 to 512, got 4"):
        tokenizer("a b c", "d e f", truncation=True, max_length=4)


def test_copies(tokenizer: BertTokenizer) -> None:
    """For worker processes; each copy has a lock of its own."""
    for again in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert again(TEXTS)["input_ids"].tolist() == tokenizer(TEXTS)["input_ids"].tolist()
        assert again.model_max_length == tokenizer.model_max_length


@pytest.mark.parametrize(
    "config", [{"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]
)
def test_the_config_takes_precedence(checkpoint: Path, tmp_path: Path, config: dict) -> None:
    """Over tokenizer.json, as in transformers."""
    shutil.copy(checkpoint / "tokenizer.json", tmp_path)
    shutil.copy(checkpoint / "vocab.txt", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "BertTokenizer"}))
    ours, theirs = BertTokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("The Café of 東京", TEXTS[4], TEXTS[5]):
        assert ours.tokenize(text) == theirs.tokenize(text)


@pytest.mark.parametrize("limit", [-1, 2, 513])
def test_bad_max_length(tokenizer: BertTokenizer, limit: int) -> None:
    with pytest.raises(TextError, match=f"max_length must be an integer from 3 to 512, got {limit}"):
        tokenizer("text", truncation=True, max_length=limit)


def test_unknown_tokens_and_ids(tokenizer: BertTokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"'Dutchman' is not in .*: tokenize\(\) splits it into dutch ##man"):
        tokenizer.convert_tokens_to_ids("Dutchman")
    for ids in ("101", None, 1.5, [[101]], [1.5], torch.tensor([1.5])):
        with pytest.raises(TokenizerError, match="ids must be"):
            tokenizer.convert_ids_to_tokens(ids)
    assert tokenizer.convert_ids_to_tokens(numpy.array([101, 102])) == ["[CLS]", "[SEP]"]
    assert (
        tokenizer.convert_ids_to_tokens(numpy.int64(101))
        == tokenizer.convert_ids_to_tokens(torch.tensor(101))
        == "[CLS]"
    )
    with pytest.raises(TokenizerError, match="id must be in the vocabulary, from 0 to 30521, got 30522"):
        tokenizer.convert_ids_to_tokens(30_522)
    with pytest.raises(TokenizerError, match="id must be in the vocabulary, from 0 to 30521, got -1"):
        tokenizer.decode([101, -1])
    with pytest.raises(TokenizerError, match=r"ids must be one row of integers, got shape \(1, 3\): take"):
        tokenizer.decode(torch.tensor([[1, 2, 3]]))


def test_settings_next_to_a_vocabulary(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint / "vocab.txt", tmp_path)
    assert BertTokenizer.from_pretrained(tmp_path).tokenize("Fly") == ["fly"]  # BERT's default: uncased
    settings = {"do_lower_case": False, "model_max_length": 1000, "pad_token": {"content": "[MASK]"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 40}))
    cased = BertTokenizer.from_pretrained(tmp_path)
    assert cased.tokenize("Fly fly") == ["[UNK]", "fly"]
    assert cased.model_max_length == 40
    assert cased(["fly", "fly fly"])["input_ids"].tolist()[0][-1] == 103


BYTE_PAIRS = json.dumps({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}})


@pytest.mark.parametrize(
    "files,error,message",
    [
        ({}, CheckpointNotFoundError, r"has neither tokenizer\.json nor vocab\.txt"),
        ({"tokenizer.json": "{}"}, TokenizerError, r"tokenizer\.json: it cannot be read as a tokenizer"),
        ({"vocab.txt": "fly\n[PAD]\n[UNK]\n"}, TokenizerError, r"it has no \[CLS\], \[SEP\], \[MASK\]"),
        ({"vocab.txt": "\udcff"}, TokenizerError, r"vocab\.txt must be UTF-8 text: it is not at byte 0"),
        (
            {"vocab.txt": "x", "tokenizer_config.json": "{"},
            TokenizerError,
            r"tokenizer_config\.json cannot be read as JSON",
        ),
        ({"vocab.txt": "x", "tokenizer_config.json": "[]"}, TokenizerError, "holds a JSON list, not an object"),
        (
            {"tokenizer.json": BYTE_PAIRS},
            TokenizerError,
            r"tokenizer\.json: the tokenizer must be WordPiece, as BERT's is, got BPE",
        ),
    ],
)
def test_bad_files(files: dict[str, str], error: type[Exception], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(error, match=message):
        BertTokenizer.from_pretrained(tmp_path)
