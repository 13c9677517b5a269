"""The published numbers of checkpoints that only the hub has. Not run by CI: `make test-hub`, with a network."""

from pathlib import Path

import pytest
import torch
from support.texts import SIX

from minibert import BertForMaskedLM, BertModel, BertTokenizer, cosine_distance, cosine_similarity, mean_pool
from minibert.checkpoints import store

pytestmark = pytest.mark.hub


@pytest.fixture(scope="module")
def uncased() -> Path:
    return store.resolve("google-bert/bert-base-uncased")


@torch.no_grad()
def test_bert_base_uncased_hidden_states(uncased: Path) -> None:
    ids = torch.tensor([[0, 345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2]])
    mask = torch.tensor([[0] + [1] * 10])
    hidden = BertModel.from_pretrained(uncased)(ids, mask).last_hidden_state[:, 1:4, 1:4]
    published = torch.tensor([[[0.4249, 0.1008, 0.7531], [0.3771, 0.1188, 0.7467], [0.4152, 0.1098, 0.7108]]])
    torch.testing.assert_close(hidden, published, rtol=0, atol=1e-4)


@torch.no_grad()
def test_bert_base_uncased_fills_the_mask(uncased: Path) -> None:
    tokenizer = BertTokenizer.from_pretrained(uncased)
    inputs = tokenizer("Hello I'm a [MASK] model.")
    place = inputs.tokens().index("[MASK]")
    chances = BertForMaskedLM.from_pretrained(uncased)(**inputs).logits[0, place].softmax(dim=-1)
    best = chances.topk(5)
    assert tokenizer.convert_ids_to_tokens(best.indices) == ["fashion", "role", "new", "super", "fine"]
    published = torch.tensor([0.10731, 0.08774, 0.05338, 0.04667, 0.02710])
    torch.testing.assert_close(best.values, published, rtol=0, atol=1e-5)


@torch.no_grad()
def test_bert_base_uncased_sentences(uncased: Path) -> None:
    """Four sentences about banks: cosines of pooler outputs, and of means with [CLS] and [SEP]."""
    sentences = [
        "He is sitting near the river bank",
        "He is sitting in the bank to get some cash",
        "The elephant is sitting near the bank of the river",
        "The bank is closed so he cannot get any money today",
    ]
    inputs = BertTokenizer.from_pretrained(uncased)(sentences)
    out = BertModel.from_pretrained(uncased)(**inputs)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    for vectors, published in (
        (out.pooler_output, [0.756986, 0.932169, 0.947001, 0.895952, 0.893017, 0.9728]),
        (
            mean_pool(out.last_hidden_state, inputs["attention_mask"]),
            [0.753337, 0.829573, 0.716291, 0.674486, 0.857112, 0.686655],
        ),
    ):
        cosines = cosine_similarity(vectors)
        assert [cosines[pair].item() for pair in pairs] == pytest.approx(published, abs=1e-5)


@torch.no_grad()
def test_bert_base_nli_mean_tokens() -> None:
    name = "sentence-transformers/bert-base-nli-mean-tokens"
    inputs = BertTokenizer.from_pretrained(name)(SIX)
    vectors = mean_pool(BertModel.from_pretrained(name)(**inputs).last_hidden_state, inputs["attention_mask"])
    published = [0.3308892, 0.7219259, 0.17475471, 0.44709635, 0.5548363]
    assert cosine_similarity(vectors[0], vectors[1:])[0].tolist() == pytest.approx(published, abs=1e-5)


@torch.no_grad()
def test_bert_base_cased_off_by_one() -> None:
    """A published distance between "fly" and "fly" is one between "a" and "a": the index lacked [CLS]."""
    name = "google-bert/bert-base-cased"
    tokenizer, model = BertTokenizer.from_pretrained(name), BertModel.from_pretrained(name)
    vectors = []
    for sentence in ("There was a fly drinking from my soup", "There is a fly swimming in my juice"):
        hidden = model(**tokenizer(sentence)).last_hidden_state
        vectors.append(hidden[0, tokenizer.tokenize(sentence).index("fly")])
    assert cosine_distance(*vectors).item() == pytest.approx(0.06798791885375977, abs=1e-6)
