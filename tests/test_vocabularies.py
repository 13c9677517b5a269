"""The four vocabularies of the public BERTs on texts that are hard to tokenise, compared with transformers."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from real_data import read_vocabulary
from support.examples import examples

from minibert import BertTokenizer

# These tests type special tokens by hand on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::minibert.errors.DoubledTokensWarning")

CASED = {"do_lower_case": False}
KINDS: dict[str, tuple[str, dict]] = {
    "uncased": ("bert_base_tok.i2w", {"do_lower_case": True}),
    "cased": ("bert_base_cased_tok.i2w", CASED),
    "multilingual cased": ("bert_multi_cased.i2w", CASED),
    "chinese": ("bert_chinese.i2w", {}),
    "uncased, accents kept": ("bert_base_tok.i2w", {"strip_accents": False}),
    "cased, accents stripped": ("bert_base_cased_tok.i2w", {**CASED, "strip_accents": True}),
    "multilingual, characters not split": ("bert_multi_cased.i2w", {**CASED, "tokenize_chinese_chars": False}),
}
HARD = [
    "Ångström naïve café Dvořák İstanbul ŒUVRE straße ǅ ﬁ ﬀ",
    "e\u0301 a\u0300\u0316 \u0301 n\u0303o o\u0308\u0304 \u0b95\u0bcd\u0bb7",
    "東京は日本の首都です。中文，测试！ 㐀 𠀀 豈 ㍿ 々〆",
    "한국어 조선말 각 \u1112\u1161\u11ab 힣",
    "русский язык ЁЛКА ё й",
    "العربية الْحَمْدُ ١٢٣ \u200f\u202bשָׁלוֹם",
    "हिन्दी नमस्ते ไทย ภาษา ភាសា མི",
    "🙂 👩‍👩‍👧 🇩🇪 👍🏽 ❤️ ☃ ①②③",
    "\x00\x01\x07\x1b\x7f\x80\ufffd\ufeff\u200b\u200d\u2060\xad",
    "a\tb\nc\r\nd\u00a0e\u2003f\u3000g\u2028h\u2029i\x0bj\x0ck",
    "don't we'll rock'n'roll U.S.A. 3,14 1e-5 50% $9.99 #tag @you a_b x=y <b>&amp;</b> http://a.b/c?d=e",
    "[MASK] [CLS][SEP] [mask] [PAD]x[UNK] [unused1] [MASK][MASK]. ##ing ## #",
    "internationalisation antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "x" * 99 + " " + "y" * 100 + " " + "z" * 101 + " " + "é" * 100 + " " + "字" * 120,
    "mixed混合mixedсмешанный혼합 iPhone12Pro中 2024年5月",
    "“quotes” «guillemets» ‘single’ ‚low’ – — … · • † ‡ § ¶ ™ © ®",
    "ⅣⅧ ½ ² ₂ ℃ Å ㎏ ﷺ",
]


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[BertTokenizer, transformers.PreTrainedTokenizerBase, list[str]]:
    """Our tokenizer and theirs from one folder of vocab.txt and tokenizer_config.json; and the vocabulary."""
    file, config = KINDS[request.param]
    tokens = read_vocabulary(data("vocabularies") / file)
    tokens = [token.upper() if token in ("[unk]", "[cls]", "[sep]", "[mask]") else token for token in tokens]
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return BertTokenizer.from_pretrained(folder), transformers.BertTokenizer.from_pretrained(folder, **config), tokens


def assert_same(pair: tuple, texts: list[str]) -> int:
    """Compares ids, tokens and offsets of every text that has any token; returns how many do."""
    ours, theirs, _ = pair
    texts = [text for text in texts if ours.tokenize(text)]
    if not texts:
        return 0
    a = ours(texts, truncation=True)
    b = theirs(texts, truncation=True, max_length=ours.model_max_length, return_offsets_mapping=True)
    for row, text in enumerate(texts):
        count = sum(b["attention_mask"][row])
        assert a["input_ids"][row, :count].tolist() == b["input_ids"][row], ascii(text)
        assert a.tokens(row)[:count] == b.tokens(row), ascii(text)
        assert a.offsets(row)[:count] == b["offset_mapping"][row], ascii(text)
    return len(texts)


def test_the_vocabulary_is_the_published_one(pair: tuple) -> None:
    ours, _, tokens = pair
    assert len(ours) == len(tokens) in (30_522, 28_996, 119_547, 21_128)
    assert ours.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 100, 101, 102, 103]


def test_hard_lines(pair: tuple) -> None:
    assert assert_same(pair, HARD) >= len(HARD) - 1  # a line of control characters has no tokens


def test_thousands_of_random_lines(pair: tuple) -> None:
    """Tokens of the vocabulary, words of the hard lines and characters of all of Unicode, joined at random."""
    _, _, tokens = pair
    draw = random.Random(0)
    hard_words = [word for line in HARD for word in line.split(" ")]

    def fragment() -> str:
        kind = draw.randrange(4)
        if kind == 0:
            return draw.choice(tokens).removeprefix("##")
        if kind == 1:
            return draw.choice(hard_words)
        if kind == 2:
            return draw.choice("!?.,;:'\"()[]{}-–—/\\#@&*+=<>|~^_`$€ \t\u3000")
        return chr(
            draw.choice((draw.randrange(0x20, 0x250), draw.randrange(0x250, 0xD800), draw.randrange(0xE000, 0x20000)))
        )

    lines = [
        "".join(fragment() + draw.choice(("", "", " ")) for _ in range(draw.randrange(1, 12))) for _ in range(1000)
    ]
    assert assert_same(pair, lines) > 900


@examples(300)
@given(texts=st.lists(st.text(max_size=40), max_size=4))
def test_any_text(pair: tuple, texts: list[str]) -> None:
    assert_same(pair, texts)


def test_each_setting_has_its_effect(data: Callable[[str], Path], tmp_path: Path) -> None:
    tokens = read_vocabulary(data("vocabularies") / "bert_base_cased_tok.i2w")
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")

    def tokenize(text: str, **config: object) -> list[str]:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return BertTokenizer.from_pretrained(tmp_path).tokenize(text)

    assert tokenize("Café", do_lower_case=False) == ["Café"]
    assert tokenize("Café", do_lower_case=True) == ["cafe"]
    assert tokenize("Café", do_lower_case=False, strip_accents=True) == ["Cafe"]
    assert tokenize("a中b", do_lower_case=False, tokenize_chinese_chars=True) == ["a", "中", "b"]
    assert tokenize("a中b", do_lower_case=False, tokenize_chinese_chars=False) == ["a", "##中", "##b"]
    assert tokenize("x [unused1] y", do_lower_case=False) == ["x", "[", "unused", "##1", "]", "y"]
    assert tokenize("x [unused1] y", do_lower_case=False, never_split=["[unused1]"]) == ["x", "[unused1]", "y"]


@pytest.mark.parametrize("pair", ["multilingual cased"], indirect=True)
def test_what_lesson_5_quotes(pair: tuple) -> None:
    lesson = Path(__file__).parent.parent / "notebooks" / "05_layers_as_features.ipynb"
    text = "Mao Zhedong believes the peasants are taken advantage of by capitalists "
    quoted = " ".join(pair[0].tokenize(text))
    assert quoted == "Mao Z ##hed ##ong believes the pe ##asan ##ts are taken advantage of by capital ##ists"
    assert all(each in lesson.read_text(encoding="utf-8") for each in (text, quoted))
