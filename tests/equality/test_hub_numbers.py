"""The published numbers of checkpoints that only the hub has. Not run by CI: `make test-hub`, with a network."""

from pathlib import Path

import pytest
import torch
from support.speeches import sentences
from support.texts import SIX

from minibert import BertForMaskedLM, BertModel, BertTokenizer, cosine_distance, cosine_similarity, mean_pool
from minibert.checkpoints import store
from minibert.interpret import anisotropy, expansion_rates, mixing_ratio

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


def rates_by_the_papers_code(model: BertModel) -> torch.Tensor:
    """Expansion rates with the output's bias in the last column, as the code of Kobayashi et al. 2021 has it."""
    rates = []
    for layer in model.encoder.layers:
        value, output = layer.attention.value, layer.attention.output
        product = output.weight @ value.weight
        to_last = value.weight.T @ output.bias  # where the output's bias is a column, it meets Wᵛ and bᵛ
        corner = value.bias @ output.bias + 1
        whole = torch.stack([each.square().sum() for each in (product, output.weight @ value.bias, to_last, corner)])
        rates.append((whole.sum() / (len(output.bias) + 1)).sqrt())
    return torch.stack(rates)


@torch.no_grad()
@pytest.mark.parametrize(
    "name, published",
    [
        ("google-bert/bert-base-uncased", ".901 .740 .632 .679 .911 .989 .919 .905 .948 .913 .932 1.051"),
        ("prajjwal1/bert-mini", ".782 .652 1.033 2.484"),
        ("prajjwal1/bert-tiny", "1.626 2.090"),
    ],
)
def test_expansion_rates(name: str, published: str) -> None:
    """What the notebook of Kobayashi et al. 2021 prints, for section 4.4; the map itself differs a little."""
    model = BertModel.from_pretrained(store.resolve(name))
    expected = torch.tensor([float(rate) for rate in published.split()])
    torch.testing.assert_close(rates_by_the_papers_code(model), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(expansion_rates(model), expected, rtol=0, atol=3e-2)


@torch.no_grad()
def test_most_of_what_attention_mixes_is_lost_beside_the_residual_connection(uncased: Path) -> None:
    """Mixing ratios of table 1 (Kobayashi et al. 2021): means over 992 passages of Wikipedia, here over six sentences.

    The texts differ, and with them the second digit.
    """
    published = {"attention": 0.9641, "norm": 0.8528, "norm+residual": 0.2225, "norm+residual+ln": 0.1875}
    model, inputs = BertModel.from_pretrained(uncased), BertTokenizer.from_pretrained(uncased)(SIX)
    real = inputs["attention_mask"].bool()
    for how, expected in published.items():
        assert abs(mixing_ratio(model, inputs, how)[:, real].mean().item() - expected) < 0.1, how


def test_bert_base_cased_anisotropy_by_layer() -> None:
    """The curve of Ethayarajh 2019, figure 1, as his repository has it, of tokens without [CLS] and [SEP].

    His sentences are those of a benchmark of similarity, ours are of speeches: so it is the shape that is compared.
    """
    name = "google-bert/bert-base-cased"
    found = anisotropy(BertModel.from_pretrained(name), BertTokenizer.from_pretrained(name), sentences(every=1)).values
    published = torch.tensor([0.168, 0.219, 0.245, 0.327, 0.377, 0.42, 0.398, 0.399, 0.484, 0.561, 0.675, 0.477])
    ours = found[1:].float()
    assert torch.corrcoef(torch.stack([ours, published]))[0, 1] > 0.9
    assert (ours - published).abs().max() < 0.15
    assert ours.argmax() == published.argmax() == 10
