"""An argument may be a number or a string of any library, and whatever else it is, the message names it."""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from minibert import BertConfig, SentenceEncoder, embed_word
from minibert.checks import as_integer, check_integer, check_one_of
from minibert.errors import ConfigError, InputError
from minibert.sentences import embed, read_vectors
from minibert.vectors import combine_layers, embed_words, semantic_search
from minibert.vectors.similarity import similarity

INTEGERS = [np.int8, np.int64, np.uint32, torch.tensor, np.array]


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_of_other_libraries_become_pythons_own(kind: Callable[[int], Any]) -> None:
    value = check_integer("top_k", kind(2), 1, 3)
    assert (value, type(value)) == (2, int)
    with pytest.raises(InputError, match="top_k must be an integer from 3 to 4, got "):
        check_integer("top_k", kind(2), 3, 4)


@pytest.mark.parametrize(
    "value", [True, np.True_, 2.0, np.float64(2), "2", None, [2], np.array([2, 3]), torch.tensor([2.0, 3.0])]
)
def test_what_is_not_an_integer(value: object) -> None:
    assert as_integer(value) is None
    with pytest.raises(InputError, match="top_k must be a positive integer, got "):
        check_integer("top_k", value, 1)


def test_strings_of_other_libraries_become_pythons_own() -> None:
    assert type(check_one_of("score", np.str_("dot"), ["cosine", "dot"])) is str
    assert check_one_of("truncation", np.True_, [True, False]) is True


@pytest.mark.parametrize("value", [np.array(["dot", "cosine"]), ["dot"], {}, torch.tensor([1, 2]), None, 3])
def test_what_is_not_among_the_known_values(value: object) -> None:
    with pytest.raises(InputError, match="score must be one of cosine, dot, got "):
        check_one_of("score", value, ["cosine", "dot"])


@pytest.mark.parametrize("number", [np.int64, torch.tensor])
def test_arguments_of_other_libraries_change_no_result(
    small: Path, tmp_path: Path, number: Callable[[int], Any]
) -> None:
    """Through every module that takes an integer or a name; what is written to a file is as of Python's own."""
    one, two, string = number(1), number(2), np.str_
    ours = SentenceEncoder.from_pretrained(str(small), layer=1, pooling="max")
    theirs = SentenceEncoder.from_pretrained(string(small), layer=one, pooling=string("max"))
    theirs.max_seq_length = number(512)
    assert theirs.fingerprint() == ours.fingerprint()
    texts = ["a fly", "a river bank"]
    vectors = ours.encode(texts)
    assert torch.equal(theirs.encode([string(text) for text in texts], batch_tokens=two), vectors)
    assert semantic_search(vectors, vectors, two, string("dot"), one) == semantic_search(vectors, vectors, 2, "dot", 1)
    assert torch.equal(similarity(vectors, score=string("dot")), similarity(vectors, score="dot"))
    assert ours.search(string("a fly"), texts, top_k=one) == ours.search("a fly", texts, top_k=1)
    for encoder, name in ((ours, "a.safetensors"), (theirs, "b.safetensors")):
        embed(encoder, texts, tmp_path / name, batch_tokens=number(2) if encoder is theirs else 2)
    assert read_vectors(tmp_path / "a.safetensors")[1] == read_vectors(tmp_path / "b.safetensors")[1]
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_word_arguments_of_numpy_change_no_result(small: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(small)
    model, tokenizer = encoder.model, encoder.tokenizer
    sentence, one = "a bank by the river bank", np.int64(1)
    expected = embed_word(model, tokenizer, sentence, "bank", 1, layer=1)
    found = embed_word(model, tokenizer, np.str_(sentence), np.str_("bank"), one, layer=one)
    assert torch.equal(found.vector, expected.vector)
    (again,) = embed_words(model, tokenizer, [sentence], [np.str_("bank")], [one], layer=[one])
    assert torch.equal(again.vector, expected.vector)
    states = (torch.zeros(1, 2), torch.ones(1, 2))
    assert torch.equal(combine_layers(states, np.array([0, 1])), combine_layers(states, [0, 1]))
    ids = tokenizer(sentence, max_length=np.int64(4), padding=np.str_("max_length"), truncation=np.True_)["input_ids"]
    assert torch.equal(ids, tokenizer(sentence, max_length=4, padding="max_length", truncation=True)["input_ids"])


def test_settings_of_numpy_are_saved_as_pythons_own(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 6}
    ours = BertConfig(**sizes, vocab_size=20, hidden_act="relu", num_labels=3)
    theirs = BertConfig(
        **{name: np.int32(size) for name, size in sizes.items()},
        vocab_size=np.int64(20),
        hidden_act=np.str_("relu"),
        num_labels=np.int16(3),
    )
    assert repr(theirs) == repr(ours)
    assert json.dumps(dataclasses.asdict(theirs)) == json.dumps(dataclasses.asdict(ours))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.sampled_from([np.int64(1), np.array([1, 2]), np.array("mean"), torch.tensor(3), torch.ones(2), object(), int]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(anything)
@examples(50)
def test_any_argument_is_taken_or_refused_by_name(value: Any) -> None:
    for check in (lambda: check_integer("it", value, 1), lambda: check_one_of("it", value, ["mean", True, None, 3])):
        with contextlib.suppress(InputError):
            assert type(check()) in (int, str, bool, type(None))
    for field in ("num_hidden_layers", "problem_type", "tie_word_embeddings"):
        with contextlib.suppress(ConfigError):
            json.dumps(dataclasses.asdict(BertConfig(**{field: value})))
