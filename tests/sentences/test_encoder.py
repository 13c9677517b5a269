"""`SentenceEncoder` compared with sentence-transformers: bit-equal in equal batches, within 1e-6 in any others."""

import contextlib
import dataclasses
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from support.examples import examples
from support.sentences import edit_json, same_batch
from support.texts import SIX
from tokenizers import normalizers
from torch import nn

from minibert import BertModel, BertTokenizer, SentenceEncoder, mean_pool
from minibert.errors import (
    ConfigError,
    InputError,
    MinibertError,
    PoolingError,
    StoreError,
    TextError,
    TextTypeError,
    TruncationWarning,
)
from minibert.sentences import embed
from minibert.sentences.recipe import Recipe
from minibert.sentences.vector_files import FORMATS
from minibert.vectors.pooling import POOLING

MIXED = [" ".join(SIX[: number % 6 + 1])[number % 11 : 12 * number] for number in range(3, 60, 2)]


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> SentenceTransformer:
    return SentenceTransformer(str(checkpoint), device="cpu")


def test_equal_to_sentence_transformers(encoder, theirs) -> None:
    same_batch(encoder, theirs)
    same_batch(encoder, theirs, MIXED)
    same_batch(encoder, theirs, [SIX[0] * 40, "short"])  # cut at 256 tokens


def test_the_six_sentences(encoder, theirs) -> None:
    """Masked mean, normalised, and their cosines to the first, in one call each; then by hand."""
    vectors, expected = encoder.encode(SIX), theirs.encode(SIX, convert_to_tensor=True)
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)
    readable = SentenceEncoder(encoder.model, encoder.tokenizer, encoder.recipe, fast=False).eval()
    assert torch.equal(readable.encode(SIX), expected)
    row = encoder.similarity(vectors[0], vectors[1:])
    torch.testing.assert_close(row, torch.tensor([[0.2206, 0.4764, 0.0548, 0.3407, 0.2274]]), atol=1e-4, rtol=0)
    inputs = encoder.tokenizer(SIX)
    hidden = encoder.model(**inputs).last_hidden_state
    by_hand = nn.functional.normalize(mean_pool(hidden, inputs["attention_mask"]))
    torch.testing.assert_close(vectors, by_hand, atol=1e-6, rtol=0)


def test_published_numbers(encoder) -> None:
    published = torch.tensor([-0.034478, 0.031023, 0.006735, 0.026109, -0.039362])
    torch.testing.assert_close(encoder.encode("hello world")[:5], published, atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def their_vectors(theirs: SentenceTransformer) -> torch.Tensor:
    """sentence-transformers' vectors of MIXED."""
    return theirs.encode(MIXED, convert_to_tensor=True)


@examples(6)
@given(order=st.permutations(range(len(MIXED))), batch_tokens=st.integers(1, 3000))
def test_any_batching_is_within_a_millionth(encoder, their_vectors, order: list[int], batch_tokens: int) -> None:
    vectors = encoder.encode([MIXED[number] for number in order], batch_tokens=batch_tokens)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, their_vectors[order], atol=1e-6, rtol=0)


def test_texts_in_different_containers(encoder) -> None:
    vectors = encoder.encode(SIX)
    assert vectors.shape == (6, 384)
    assert not vectors.is_inference()  # a classifier can be trained on them
    assert encoder.encode(SIX[0]).shape == (384,)
    assert encoder.encode([]).shape == (0, 384)
    for texts in (
        tuple(SIX),
        iter(SIX),
        dict.fromkeys(SIX).keys(),
        numpy.array(SIX),
        [numpy.str_(text) for text in SIX],
    ):
        assert torch.equal(encoder.encode(texts), vectors)


def test_a_stream_is_read_window_by_window(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibert.sentences.encoder.WINDOW", 7)
    encoder = SentenceEncoder.from_pretrained(small)
    taken = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield f"line {number} " + "and so on " * (number % 5)

    sizes = []
    for vectors in encoder.encode_stream(lines()):
        sizes.append(len(vectors))
        assert taken <= sum(sizes) + 1
    assert sizes == [7, 7, 7, 7, 7, 5]
    torch.testing.assert_close(encoder.encode(lines()), torch.cat([encoder.encode(line)[None] for line in lines()]))
    with pytest.raises(TextError, match="text 9 has nothing to encode: ''"):
        encoder.encode(["a"] * 9 + [""])
    with pytest.raises(TextTypeError, match="text 8 must be a string, got list"):
        encoder.encode(["a"] * 8 + [["a"]])


def test_long_texts_are_cut_and_counted(encoder) -> None:
    with pytest.warns(TruncationWarning, match="2 of 3 texts are longer than 256 tokens and were cut") as caught:
        vectors = encoder.encode(["so " * 254 + "far", "so " * 300, "so"])
    assert caught[0].filename == __file__
    with pytest.warns(TruncationWarning):
        assert torch.equal(vectors[0], encoder.encode("so " * 255))
    assert encoder.encode("so " * 254).shape == (384,)


def test_progress(encoder, capsys: pytest.CaptureFixture) -> None:
    encoder.encode(SIX)
    assert capsys.readouterr() == ("", "")  # no terminal
    encoder.encode(SIX, show_progress_bar=True)
    assert "6/6" in capsys.readouterr().err
    encoder.encode(iter(SIX), show_progress_bar=True)
    assert "6 texts" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["mean", "max", "mean_sqrt_len_tokens"])
def test_a_prompt_that_is_not_pooled_after_padding_on_either_side(small: Path, mode: str) -> None:
    encoder = SentenceEncoder.from_pretrained(small)
    encoder.recipe = Recipe(pooling=(mode,), include_prompt=False)
    alone = [encoder.encode(text, prompt="a prompt: ") for text in SIX]
    length = len(encoder.tokenizer.tokenize("a prompt: ")) + 1
    for side in ("right", "left"):
        inputs = encoder.tokenizer([f"a prompt: {text}" for text in SIX], padding_side=side)
        last = inputs["attention_mask"].sum(1)
        with torch.no_grad():
            # The tokens stand at the same positions as without padding, so the vectors are the same.
            positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
            hidden = encoder.model(inputs["input_ids"], inputs["attention_mask"], None, positions).last_hidden_state
            vectors = encoder._pool(hidden, inputs["attention_mask"], length)
        torch.testing.assert_close(vectors, torch.stack(alone), atol=1e-5, rtol=1e-5)
        assert last.min() < last.max()


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("mode", [mode for mode in POOLING if mode != "weightedmean"])
def test_prompts(small: Path, tmp_path: Path, include_prompt: bool, mode: str) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    modules = [Transformer(str(small)), Pooling(24, mode, include_prompt=include_prompt)]
    theirs = SentenceTransformer(modules=modules, device="cpu", prompts=prompts, default_prompt_name="passage")
    theirs.save(str(tmp_path))
    theirs, ours = SentenceTransformer(str(tmp_path), device="cpu"), SentenceEncoder.from_pretrained(tmp_path)
    same_batch(ours, theirs, prompt="a prompt of some length: ")
    for options in ({}, {"prompt_name": "query"}, {"prompt": "to whom it concerns, "}, {"prompt": ""}):
        expected = theirs.encode(SIX, convert_to_tensor=True, **options)
        torch.testing.assert_close(ours.encode(SIX, **options), expected, atol=3e-6, rtol=1e-5)
    ours.save_pretrained(tmp_path / "ours")
    saved = dataclasses.replace(ours.recipe, max_seq_length=512)
    assert SentenceEncoder.from_pretrained(tmp_path / "ours").recipe == saved
    # A search uses a prompt for the query, and another for the documents.
    vectors = ours.encode(SIX, prompt_name="passage")
    scores = ours.similarity(ours.encode("the fish", prompt_name="query"), vectors)[0]
    expected = [(number, pytest.approx(scores[number].item())) for number in scores.argsort(descending=True).tolist()]
    assert ours.search("the fish", SIX, top_k=6) == expected
    assert ours.search("the fish", vectors, top_k=6) == expected


def test_a_plain_bert(small: Path, tmp_path: Path) -> None:
    """With the mean, or a pooling of your choice."""
    assert SentenceEncoder.from_pretrained(small).recipe == Recipe()
    for pooling in ("max", ["mean", "cls"]):
        ours = SentenceEncoder.from_pretrained(small, pooling=pooling)
        theirs = SentenceTransformer(modules=[Transformer(str(small)), Pooling(24, pooling)], device="cpu")
        same_batch(ours, theirs)


def test_a_layer_of_your_choice(checkpoint: Path, encoder, tmp_path: Path) -> None:
    inputs = encoder.tokenizer(SIX)
    states = encoder.model(**inputs, output_hidden_states=True).hidden_states
    for layer, number in ((2, 2), (-3, 4)):
        ours = SentenceEncoder.from_pretrained(checkpoint, layer=layer)
        expected = nn.functional.normalize(mean_pool(states[number], inputs["attention_mask"]))
        assert torch.equal(ours(**inputs), expected)
    ours.save_pretrained(tmp_path)
    same_batch(ours, SentenceTransformer(str(tmp_path), device="cpu"))


def test_a_different_pooling_keeps_the_other_steps(checkpoint: Path) -> None:
    assert SentenceEncoder.from_pretrained(checkpoint, pooling="cls").encode(SIX).norm(dim=1).allclose(torch.ones(6))


def test_normalize_embeddings(small: Path) -> None:
    ours = SentenceEncoder.from_pretrained(small)
    expected = nn.functional.normalize(ours.encode(SIX))
    assert torch.equal(ours.encode(SIX, normalize_embeddings=True), expected)


def test_half_precision(small: Path) -> None:
    ours = SentenceEncoder.from_pretrained(small)
    expected = ours.encode(SIX)
    vectors = ours.bfloat16().encode(SIX)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, expected, atol=0.1, rtol=0.1)


def test_search(encoder) -> None:
    """The search engine of nine documents, its queries and their answers."""
    documents = [
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "The girl is carrying a baby.",
        "A man is riding a horse.",
        "A woman is playing violin.",
        "Two men pushed carts through the woods.",
        "A man is riding a white horse on an enclosed ground.",
        "A monkey is playing drums.",
        "A cheetah is running behind its prey.",
    ]
    queries = [
        "A man is eating a pasta",
        "Someone in a gorilla costume is playing a set of drums.",
        "A cheetah chases prey on across a field.",
    ]
    found = encoder.search(queries, documents, top_k=2)
    assert [[hit.corpus_id for hit in hits] for hits in found] == [[0, 1], [7, 4], [8, 0]]
    one = encoder.search(queries[1], documents, top_k=1)
    assert one[0].corpus_id == 7
    assert one[0].score == pytest.approx(0.6433, abs=1e-4)


def test_tokenizer_saved(tmp_path: Path, small: Path, checkpoint: Path) -> None:
    """As transformers reads it, cased and uncased."""
    for source in (small, checkpoint):
        ours = BertTokenizer.from_pretrained(source)
        ours.save_pretrained(tmp_path / source.name)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / source.name)
        text = "Ünder the Straße, 日本 [MASK] fly"
        assert theirs(text)["input_ids"] == ours(text)["input_ids"][0].tolist()
        assert theirs.model_max_length == ours.model_max_length == 512
        assert theirs.pad_token_id == 0
        assert BertTokenizer.from_pretrained(tmp_path / source.name)(text).tokens() == ours(text).tokens()


def test_a_half_model_with_a_whole_dense(small: Path, tmp_path: Path) -> None:
    SentenceTransformer(modules=[Transformer(str(small)), Pooling(24), Dense(24, 5)], device="cpu").save(str(tmp_path))
    edit_json(tmp_path / "config.json", dtype="bfloat16")
    assert SentenceEncoder.from_pretrained(tmp_path).encode(SIX).shape == (6, 5)


def test_the_fingerprint_is_of_all_that_determines_a_vector(small: Path, tmp_path: Path) -> None:
    SentenceTransformer(modules=[Transformer(str(small)), Pooling(24), Dense(24, 5)], device="cpu").save(str(tmp_path))

    def fingerprint() -> str:
        return SentenceEncoder.from_pretrained(tmp_path).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    seen = {first}
    edit_json(tmp_path / "2_Dense/config.json", activation_function="torch.nn.modules.activation.ReLU")
    seen.add(fingerprint())
    edit_json(tmp_path / "1_Pooling/config.json", pooling_mode="max")
    seen.add(fingerprint())
    edit_json(tmp_path / "sentence_bert_config.json", max_seq_length=9)
    seen.add(fingerprint())
    edit_json(tmp_path / "tokenizer_config.json", do_lower_case=True, tokenizer_class="BertTokenizer")
    seen.add(fingerprint())
    edit_json(tmp_path / "config.json", layer_norm_eps=0.1)
    seen.add(fingerprint())
    encoder = SentenceEncoder.from_pretrained(tmp_path)
    encoder.final_steps[0].linear.bias.data[2] += 1
    seen.add(encoder.fingerprint())
    assert len(seen) == 7


def test_lower_case_is_the_recipes_in_memory_and_on_disk(small: Path, tmp_path: Path) -> None:
    """Nothing that determines a vector changes when an encoder is saved and loaded, however often."""
    cased = BertTokenizer.from_pretrained(small)
    encoder = SentenceEncoder(BertModel.from_pretrained(small), cased, Recipe(do_lower_case=True)).eval()
    assert torch.equal(encoder.encode("The FLY"), encoder.encode("the fly"))
    assert cased.tokenize("FLY") != cased.tokenize("fly")  # the given tokenizer is untouched
    vectors, fingerprint = encoder.encode(SIX), encoder.fingerprint()
    for turn in range(3):
        encoder.save_pretrained(tmp_path / str(turn))
        encoder = SentenceEncoder.from_pretrained(tmp_path / str(turn))
        assert torch.equal(encoder.encode(SIX), vectors)
        assert encoder.fingerprint() == fingerprint
        assert encoder.tokenizer.to_json().count("Lowercase") == 1


def test_lower_case_anywhere_in_a_normalizer_is_enough(small: Path) -> None:
    """As for sentence-transformers, which adds none then."""
    tokenizer = BertTokenizer.from_pretrained(small)
    tokenizer.tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    encoder = SentenceEncoder(BertModel.from_pretrained(small), tokenizer, Recipe(do_lower_case=True)).eval()
    assert encoder.tokenizer is tokenizer


@pytest.mark.parametrize("text", ["\u200b", "", " ", "\x00", "\ufeff", "\x0c"])
@pytest.mark.parametrize("prompt", ["passage: ", "passage:", ""])
def test_a_text_of_which_the_tokenizer_keeps_nothing(small: Path, text: str, prompt: str) -> None:
    encoder = SentenceEncoder.from_pretrained(small)
    with pytest.raises(TextError, match="text 1 has nothing to encode"):
        encoder.encode(["a text", text], prompt=prompt)


@pytest.mark.parametrize("text", ["\U0001fa77", "drums", ".", "a " * 3000])
def test_a_text_of_which_it_keeps_something(small: Path, text: str) -> None:
    encoder = SentenceEncoder.from_pretrained(small)
    with pytest.warns(TruncationWarning) if len(text) > 2000 else contextlib.nullcontext():
        assert encoder.encode(text, prompt="passage:").shape == (24,)


class Frame:
    """As pandas' DataFrame: it iterates over the names of its columns."""

    columns = ("text", "label")

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


@pytest.mark.parametrize(
    "texts,message",
    [
        (Frame(), r"got Frame: choose one column, such as table\['text'\]"),
        (pyarrow.table({"text": ["a", "b"]}), "got Table: choose one column"),
        ({"text": "a"}, "got dict: choose one column"),
        ({"a", "b"}, "texts must have an order, got set"),
        (b"ab", "got bytes"),
        (5, "got int"),
        ([["a", "b"]], "text 0 must be a string, got list"),
        (pyarrow.table({"text": ["a", "b"]})["text"], "text 0 must be a string, got StringScalar"),
    ],
)
def test_what_iterates_over_something_else_than_texts(small: Path, texts: object, message: str) -> None:
    with pytest.raises(TextTypeError, match=message):
        SentenceEncoder.from_pretrained(small).encode(texts)


@pytest.mark.parametrize("fast", [True, False])
def test_a_vector_that_is_not_finite(small: Path, tmp_path: Path, fast: bool) -> None:
    """No form of output has it: the error names the text, and nothing is kept."""
    encoder = SentenceEncoder.from_pretrained(small, fast=fast)
    encoder.model.embeddings.word_embeddings.weight.data[encoder.tokenizer.convert_tokens_to_ids("fish")] = 3e38
    with pytest.raises(TextError, match=r"text 1 has a vector with NaN or infinity: .* for float32"):
        encoder.encode(SIX)
    for extension in FORMATS:
        with pytest.raises(TextError, match="text 1 has a vector with NaN"):
            embed(encoder, SIX, tmp_path / f"out{extension}")
    assert list(tmp_path.iterdir()) == []


def test_a_search_in_vectors_is_the_search_in_their_texts(small: Path) -> None:
    base = SentenceEncoder.from_pretrained(small)
    recipe = Recipe(prompts={"query": "query: ", "passage": "passage: "})
    encoder = SentenceEncoder(base.model, base.tokenizer, recipe).eval()
    expected = encoder.search("the fish", SIX)
    with pytest.raises(InputError, match="puts 'passage: ' before the texts of a corpus, and vectors do not show"):
        encoder.search("the fish", encoder.encode(SIX))
    vectors = encoder.encode(SIX, prompt_name="passage")
    assert encoder.search("the fish", vectors, corpus_prompt="passage: ") == expected
    without = encoder.search("the fish", SIX, corpus_prompt="")
    assert encoder.search("the fish", encoder.encode(SIX), corpus_prompt="") == without != expected
    assert base.search("the fish", base.encode(SIX)) == base.search("the fish", SIX)


@pytest.mark.parametrize("layer", [numpy.int64(1), numpy.int8(-2), torch.tensor(1)])
def test_a_layer_by_an_integer_of_another_library(small: Path, layer: Any) -> None:
    expected = SentenceEncoder.from_pretrained(small, layer=1).encode(SIX)
    encoder = SentenceEncoder.from_pretrained(small, layer=layer)
    encoder.max_seq_length = numpy.int32(64)
    assert torch.equal(encoder.encode(SIX, batch_tokens=numpy.int64(1024)), expected)


@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_prompt_that_leaves_no_room_for_a_text(small: Path, include_prompt: bool) -> None:
    """All vectors would be equal, also those of texts of which the tokenizer keeps nothing."""
    encoder = SentenceEncoder.from_pretrained(small)
    encoder.recipe = dataclasses.replace(encoder.recipe, include_prompt=include_prompt)
    encoder.max_seq_length = 9
    assert encoder.encode("a", prompt="a b c d e f ").shape == (24,)
    for text in ("a text", "\u200b"):
        with pytest.raises(
            TextError, match="the prompt has 8 tokens and max_seq_length is 9, so no text fits: shorten"
        ):
            encoder.encode(text, prompt="a b c d e f g")


def test_a_prompt_of_which_the_tokenizer_keeps_nothing(small: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(small)
    encoder.recipe = dataclasses.replace(encoder.recipe, include_prompt=False)
    theirs = SentenceTransformer(modules=[Transformer(str(small)), Pooling(24, include_prompt=False)], device="cpu")
    vectors = torch.from_numpy(theirs.encode(SIX, prompt="\u200b "))
    assert torch.allclose(encoder.encode(SIX, prompt="\u200b "), vectors, atol=1e-5)


def test_settings_with_which_a_text_would_not_be_encoded_alone(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    edit_json(tmp_path / "tokenizer_config.json", padding_side="left")
    with pytest.raises(ConfigError, match="padding_side of an encoder's tokenizer must be 'right', got 'left': BERT"):
        SentenceEncoder.from_pretrained(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", padding_side="right")
    content = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(re.sub(r'"type_id": 0', '"type_id": 1', content))
    with pytest.raises(ConfigError, match=r"must put a single text into segment 0, got \[1, 1, 1\]: set model_input"):
        SentenceEncoder.from_pretrained(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    vectors = torch.from_numpy(SentenceTransformer(str(tmp_path), device="cpu").encode(SIX))
    assert torch.allclose(SentenceEncoder.from_pretrained(tmp_path).encode(SIX), vectors, atol=1e-5)


@pytest.mark.parametrize("setting", [{"truncation_side": "left"}, {"split_special_tokens": True}])
def test_the_fingerprint_is_also_of_what_tokenizer_json_does_not_say(
    small: Path, tmp_path: Path, setting: dict[str, object]
) -> None:
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    before = SentenceEncoder.from_pretrained(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", **setting)
    after = SentenceEncoder.from_pretrained(tmp_path)
    text = "a [SEP] " * 300 + "end"
    with pytest.warns(TruncationWarning):
        assert not torch.equal(before.encode(text), after.encode(text))
    assert before.fingerprint() != after.fingerprint()
    after.save_pretrained(tmp_path / "again")
    assert SentenceEncoder.from_pretrained(tmp_path / "again").fingerprint() == after.fingerprint()


@pytest.mark.parametrize("layer", [0, 7, -7, 1.5, True])
def test_a_layer_that_does_not_exist(small: Path, layer: object) -> None:
    with pytest.raises(ConfigError, match=f"layer must be an integer from 1 to 2, or from -2 to -1, got {layer}"):
        SentenceEncoder.from_pretrained(small, layer=layer)


def test_a_pooling_that_does_not_exist(small: Path) -> None:
    with pytest.raises(ConfigError, match=r"pooling must be one of cls, max, .*, got 'avg'"):
        SentenceEncoder.from_pretrained(small, pooling="avg")


# What is wrong → the call, the error, and its message.
INVALID_CALLS: dict[str, tuple[Callable[[SentenceEncoder], object], type[MinibertError], str]] = {
    "a number for texts": (
        lambda encoder: encoder.encode(7),
        TextTypeError,
        "texts must be a list or another iterable of strings, got int",
    ),
    "bytes for texts": (lambda encoder: encoder.encode(b"x"), TextTypeError, "texts must be a list .* got bytes"),
    "bytes among texts": (lambda encoder: encoder.encode([b"x"]), TextTypeError, "text 0 must be a string, got bytes"),
    "an unknown prompt": (
        lambda encoder: encoder.encode("fly", prompt_name="passage"),
        TextError,
        "unknown prompt 'passage': this checkpoint has query, document",
    ),
    "a prompt and its name": (
        lambda encoder: encoder.encode("fly", prompt_name="query", prompt="query: "),
        TextTypeError,
        "give either prompt, which must be a string, or prompt_name, not both",
    ),
    "a prompt that is not a string": (
        lambda encoder: encoder.encode("fly", prompt=7),
        TextTypeError,
        "give either prompt, which must be a string",
    ),
    "an empty text after a prompt": (
        lambda encoder: encoder.encode(["fly", " "], prompt="query: "),
        TextError,
        "text 1 has nothing to encode: ' '",
    ),
    "batches of no tokens": (
        lambda encoder: encoder.encode("fly", batch_tokens=0),
        TextError,
        "batch_tokens must be a positive integer, got 0",
    ),
    "one text for a corpus": (
        lambda encoder: encoder.search("fly", "a text"),
        TextTypeError,
        "corpus must be a list of texts, or their vectors, got a single text",
    ),
    "texts for vectors": (
        lambda encoder: encoder.similarity("fly", "a text"),
        PoolingError,
        "a must be a tensor",
    ),
}


@pytest.mark.parametrize("mistake", INVALID_CALLS)
def test_invalid_calls(encoder, mistake: str) -> None:
    call, error, message = INVALID_CALLS[mistake]
    with pytest.raises(error, match=message):
        call(encoder)


def test_training_mode_is_refused(small: Path) -> None:
    with pytest.raises(InputError, match=r"in training mode, .* call \.eval\(\)"):
        SentenceEncoder.from_pretrained(small).train().encode("fly")


def test_an_encoder_is_made_from_a_model_and_a_tokenizer(encoder) -> None:
    with pytest.raises(InputError, match="from a BertModel and a BertTokenizer, got NoneType and BertTokenizer"):
        SentenceEncoder(None, encoder.tokenizer)


@pytest.mark.parametrize("length", [2, 513, None, True])
def test_an_invalid_max_seq_length(encoder, length: object) -> None:
    with pytest.raises(ConfigError, match=f"max_seq_length must be an integer from 3 to 512, got {length}"):
        encoder.max_seq_length = length


def test_a_prompt_that_leaves_no_tokens_for_a_text(encoder) -> None:
    prompted = SentenceEncoder(encoder.model, encoder.tokenizer, Recipe(include_prompt=False, max_seq_length=5)).eval()
    with pytest.raises(TextError, match="the prompt has 5 tokens and max_seq_length is 5, so no text fits: shorten"):
        prompted.encode("fly", prompt="to be or not")


def test_a_folder_that_cannot_be_written(encoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot save to the folder"):
        encoder.save_pretrained(tmp_path / "file")


def test_saving_leaves_nothing_beside(small: Path, tmp_path: Path) -> None:
    SentenceEncoder.from_pretrained(small).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1_Pooling",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert len({path.stat().st_mode for path in itertools.filterfalse(Path.is_dir, tmp_path.iterdir())}) == 1
