"""At the last layer the lens is the model, bit by bit; tuned, it is nearer to the end at every layer before."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from support.attribution import INPUTS
from support.models import random_model
from support.reactions import REACTION, encode

from minibert import BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, BertModel, BertTokenizer
from minibert.checkpoints import store
from minibert.errors import InputError, StoreError, TextError, TokenizerError
from minibert.interpret import TunedLens, logit_lens, nearest_words, untrained
from minibert.trace.compare import example_inputs


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForPreTraining])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_last_layer_is_the_model(kind, attention: str) -> None:
    model = random_model(attention, kind)
    inputs = example_inputs(model.bert)
    output = model(**inputs, output_hidden_states=True)
    lens = logit_lens(model, inputs)
    assert torch.equal(lens.logits(-1), output[1])
    assert lens.error == 0
    for layer, state in enumerate(output.hidden_states):
        assert torch.equal(lens.logits(layer), model.masked_lm(state, model.bert.embeddings.word_embeddings.weight))


@pytest.mark.parametrize("name", ["rxnfp", "BERT-tiny"])
def test_real_checkpoints(name: str, reactions: Path, data: Callable[[str], Path]) -> None:
    folder = reactions / "bert_pretrained" if name == "rxnfp" else data("bert-tiny")
    model = BertForMaskedLM.from_pretrained(folder)
    inputs = BertTokenizer.from_pretrained(folder)("a river (and) = [MASK] 12.")
    assert torch.equal(logit_lens(model, inputs).logits(-1), model(**inputs).logits)


def test_ranks_of_the_right_symbol(reactions: Path) -> None:
    """Over the layers of a pretrained model, the right symbol becomes the most probable one, if not every time.

    In a model of random weights it does not.
    """
    folder = reactions / "bert_pretrained"
    model = BertForMaskedLM.from_pretrained(folder)
    ids = encode(folder, REACTION)
    positions = torch.arange(1, 40, 6)
    rows = torch.arange(len(positions))
    masked = ids.repeat(len(positions), 1)
    masked[rows, positions] = encode(folder, "[MASK]")[0, 1]

    def median_ranks(model) -> list[int]:
        lens = logit_lens(model, {"input_ids": masked})
        ranks = [lens.rank(int(ids[0, position]))[:, row, position] for row, position in enumerate(positions)]
        return torch.stack(ranks).median(dim=0).values.tolist()  # (N, L + 1) → (L + 1)

    trained, random = median_ranks(model), median_ranks(untrained(model))
    assert len(trained) == len(random) == 13
    assert trained[-1] == 0 < trained[0]
    assert random[-1] > 50


def test_ranks_and_tops_by_sorting() -> None:
    model = random_model(kind=BertForMaskedLM)
    inputs = example_inputs(model.bert)
    lens = logit_lens(model, inputs)
    top = lens.top(4)
    assert top.ids.shape == (4, 3, 11, 4)
    for layer in range(4):
        order = lens.logits(layer).argsort(dim=-1, descending=True)
        assert torch.equal(top.ids[layer], order[..., :4])
        assert torch.equal(lens.rank(7)[layer], (order == 7).int().argmax(-1))
        probabilities = lens.logits(layer).softmax(-1)
        torch.testing.assert_close(top.probabilities[layer], probabilities.gather(-1, order[..., :4]))
        torch.testing.assert_close(lens.probability(7)[layer], probabilities[..., 7])
    assert top.tokens[1][2][3] == [str(each) for each in top.ids[1, 2, 3].tolist()]


def test_the_divergence_counts_no_padding() -> None:
    """As PyTorch computes it, text by text."""
    model = random_model(kind=BertForMaskedLM)
    inputs = example_inputs(model.bert)
    lens = logit_lens(model, inputs)
    final, real = lens.logits(-1).log_softmax(-1), inputs["attention_mask"].bool()
    for layer, found in enumerate(lens.kl()):
        other = lens.logits(layer).log_softmax(-1)
        expected = F.kl_div(other[real], final[real], log_target=True, reduction="batchmean")
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert lens.kl()[-1] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_divergence_in_few_digits(dtype: torch.dtype) -> None:
    """A sum over the vocabulary in few digits can be below 0, which no divergence is."""
    model = random_model(kind=BertForMaskedLM, vocab_size=20_000)
    for parameter in model.parameters():
        parameter.data = (parameter.data / 2).to(dtype)
    inputs = example_inputs(model.bert)
    expected = logit_lens(copy.deepcopy(model).double(), inputs).kl()
    torch.testing.assert_close(logit_lens(model, inputs).kl().double(), expected, rtol=0.1, atol=1e-4)


# --- the tuned lens --------------------------------------------------------------------------------------------------


def speeches(texts: int) -> list[str]:
    files = sorted((store.store_folder() / "speeches").glob("*.txt"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").split("\n") if 40 < len(line) < 200]
    return lines[:: len(lines) // texts][:texts]


def test_a_tuned_lens_is_nearer_to_the_end(data: Callable[[str], Path]) -> None:
    """On texts that it was not fitted on, at each layer before the last; a new one is the plain lens."""
    model = BertForMaskedLM.from_pretrained(data("bert-tiny"))
    tokenizer = BertTokenizer.from_pretrained(data("bert-tiny"))
    texts = speeches(28)
    inputs = tokenizer(texts[20:])
    plain = logit_lens(model, inputs)
    new = logit_lens(model, inputs, TunedLens(2, 128))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(plain, new, strict=True))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = TunedLens.fit(model, tokenizer, texts[:20], steps=8, learning_rate=3e-3, batch_tokens=128)
    lens = logit_lens(model, inputs, tuned)
    assert (lens.kl()[:-1] < 0.9 * plain.kl()[:-1]).all()
    assert torch.equal(lens.logits(-1), plain.logits(-1))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


ESTERS = ["CC(=O)O.OCC>>CC(=O)OCC", "CCC(=O)O.OC>>CCC(=O)OC", "CC(=O)O.OCCC>>CC(=O)OCCC", "CC(=O)Cl.OC>>CC(=O)OC"]
OTHERS = ["CCCC(=O)O.OCC>>CCCC(=O)OCC", "CC(C)O.CC(=O)Cl>>CC(C)OC(C)=O"]


def test_a_tuned_lens_of_a_real_head(reactions: Path) -> None:
    """At each of twelve layers, on reactions that it was not fitted on."""
    folder = reactions / "bert_pretrained"
    model, tokenizer = BertForPreTraining.from_pretrained(folder), BertTokenizer.from_pretrained(folder)
    tuned = TunedLens.fit(model, tokenizer, ESTERS, steps=12, learning_rate=3e-3)
    inputs = tokenizer(OTHERS)
    plain, lens = logit_lens(model, inputs).kl(), logit_lens(model, inputs, tuned)
    assert (lens.kl()[:-1] < 0.9 * plain[:-1]).all()
    assert torch.equal(lens.logits(-1), model(**inputs).prediction_logits)


def random_lens() -> TunedLens:
    lens = TunedLens(3, 24).double()
    for parameter in lens.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64) * 0.1
    return lens


def test_each_layer_has_its_own_map() -> None:
    """h + A·h + b, but for the last; and what is fitted is what is then read."""
    model = random_model(kind=BertForMaskedLM).double()
    inputs, lens = example_inputs(model.bert), random_lens()
    states = model(**inputs, output_hidden_states=True).hidden_states
    found = logit_lens(model, inputs, lens)
    for layer, (each, state) in enumerate(zip(lens.maps, states, strict=False)):
        translated = state + torch.einsum("de,bse->bsd", each.weight, state) + each.bias
        expected = model.masked_lm(translated, model.bert.embeddings.word_embeddings.weight)
        torch.testing.assert_close(found.logits(layer), expected, atol=1e-12, rtol=0)
    assert torch.equal(found.logits(-1), model(**inputs).logits)
    torch.testing.assert_close(found.kl()[:-1], torch.stack(list(lens.losses(model, inputs))), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["padded, with a pair", "padded on the left"])
def test_padding_never_counts_in_the_fit(name: str) -> None:
    """Whatever stands there, the divergences that are made small are the same, and those of the texts on their own."""
    model = random_model(kind=BertForMaskedLM).double()
    inputs = INPUTS[name](example_inputs(model.bert))
    real = inputs["attention_mask"].bool()
    assert not real.all()
    lens = random_lens()
    found = torch.stack(list(lens.losses(model, inputs)))
    other = {**inputs, "input_ids": inputs["input_ids"].where(real, 49)}
    torch.testing.assert_close(torch.stack(list(lens.losses(model, other))), found, atol=0, rtol=1e-12)
    if name == "padded, with a pair":  # alone, a text that is padded on the left has other positions
        total = torch.zeros(3, dtype=torch.float64)
        for row, length in enumerate(real.sum(dim=1).tolist()):
            alone = {key: tensor[row : row + 1, :length] for key, tensor in inputs.items()}
            total += length * torch.stack(list(lens.losses(model, alone)))
        torch.testing.assert_close(total / real.sum(), found, atol=0, rtol=1e-10)


def small() -> tuple[BertForMaskedLM, BertTokenizer]:
    tokenizer = BertTokenizer.from_pretrained(store.DEFAULT)
    return random_model(kind=BertForMaskedLM, vocab_size=len(tokenizer), max_position_embeddings=64), tokenizer


def test_a_tuned_lens_is_the_same_each_time_and_can_be_kept(tmp_path: Path) -> None:
    model, tokenizer = small()
    texts = ["There was a fly", "drinking from my soup", "a longer text of several more words"]
    first = TunedLens.fit(model, tokenizer, texts, steps=2)
    again = TunedLens.fit(model, tokenizer, texts, steps=2)
    other = TunedLens.fit(model, tokenizer, texts, steps=2, seed=1)
    first.save(tmp_path / "lens.safetensors")
    loaded = TunedLens.load(tmp_path / "lens.safetensors")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert torch.equal(tensor, loaded.state_dict()[name])
        assert not torch.equal(tensor, other.state_dict()[name])
    assert list(tmp_path.iterdir()) == [tmp_path / "lens.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_tuned_lens_of_another_type(dtype: torch.dtype) -> None:
    """A new lens is the plain one for a model of any type, and a fitted one has numbers."""
    model, tokenizer = small()
    model.to(dtype)
    inputs = tokenizer(["a fly in my soup", "a river"])
    plain, new = logit_lens(model, inputs), logit_lens(model, inputs, TunedLens(3, 24))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(plain, new, strict=True))
    tuned = TunedLens.fit(model, tokenizer, ["a fly in my soup", "a river"], steps=20)
    assert all(parameter.isfinite().all() for parameter in tuned.parameters())
    lens = logit_lens(model, inputs, tuned)
    assert lens.logits(0).dtype == dtype
    assert (lens.kl()[:-1] < plain.kl()[:-1]).all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_is_fitted_where_gradients_are_switched_off(mode) -> None:
    """For a caller who computes none, and to a model that was made there; nothing else is changed."""
    model, tokenizer = small()
    expected = TunedLens.fit(model, tokenizer, ["There was a fly"], steps=2).state_dict()
    with mode():
        made, _ = small()
        inside = TunedLens.fit(made, tokenizer, ["There was a fly"], steps=2)
    state = torch.get_rng_state()
    outside = TunedLens.fit(made, tokenizer, ["There was a fly"], steps=2)
    assert torch.equal(state, torch.get_rng_state())
    for lens in (inside, outside):
        assert all(torch.equal(expected[name], tensor) for name, tensor in lens.state_dict().items())
        assert all(parameter.grad is None for parameter in lens.parameters())
    assert all(parameter.is_inference() == (mode is torch.inference_mode) for parameter in made.parameters())


def test_texts_longer_than_the_model_takes_are_cut() -> None:
    model, tokenizer = small()
    lens = TunedLens.fit(model, tokenizer, ["a fly " * 100], steps=1)
    assert all(tensor.any() for tensor in lens.state_dict().values())


def test_a_damaged_lens_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before memory is taken for what the file only claims; a good one replaces it."""
    file = tmp_path / "lens.safetensors"
    save_file({"maps.0.weight": torch.zeros(3, 3), "maps.0.bias": torch.zeros(10**4)}, file)
    with monkeypatch.context() as patched:
        patched.setattr(TunedLens, "__init__", lambda *_: pytest.fail("memory was taken"))
        with pytest.raises(InputError, match="must be a tuned lens"):
            TunedLens.load(file)
    for bias in (torch.zeros(()), torch.zeros(3, dtype=torch.int64)):
        save_file({"maps.0.weight": torch.zeros(3, 3, dtype=bias.dtype), "maps.0.bias": bias}, file)
        with pytest.raises(InputError, match="must be a tuned lens as TunedLens"):
            TunedLens.load(file)
    TunedLens(1, 3).save(file)
    assert len(TunedLens.load(file).maps) == 1


# --- without a head --------------------------------------------------------------------------------------------------


def test_nearest_words(checkpoint: Path, tokenizer: BertTokenizer) -> None:
    """Of a word's own embedding the word itself, and by brute force of any vector; brackets alone are words."""
    model = BertModel.from_pretrained(checkpoint)
    table = model.embeddings.word_embeddings.weight
    number = tokenizer.convert_tokens_to_ids("river")
    (token, cosine), second, _third = nearest_words(table[number], model, tokenizer, 3)
    assert token == "river"
    assert cosine == pytest.approx(1, abs=1e-5)
    assert second[1] < cosine
    hidden = model(**tokenizer("the river bank"), output_hidden_states=True).hidden_states[1]  # (1, 5, D)
    found = nearest_words(hidden, model, tokenizer, 4, special=True)
    cosines = F.cosine_similarity(hidden[0, 2][None], table, dim=-1).topk(4)
    assert [token for token, _ in found[0][2]] == tokenizer.convert_ids_to_tokens(cosines.indices)
    assert nearest_words(table[tokenizer.convert_tokens_to_ids("[")], model, tokenizer, 1)[0][0] == "["
    unused = table[tokenizer.convert_tokens_to_ids("[unused7]")]
    assert nearest_words(unused, model, tokenizer, 1, special=True)[0][0].startswith("[unused")
    assert all(not token.startswith("[unused") for token, _ in nearest_words(unused, model, tokenizer, 20))


def test_nearest_words_of_zeros_in_float16(tokenizer: BertTokenizer) -> None:
    """The embedding of padding is often 0: near to nothing, and not before all others as NaN would be."""
    model = random_model(vocab_size=len(tokenizer)).half()
    table = model.embeddings.word_embeddings.weight
    table[tokenizer.pad_token_id] = 0
    ((token, cosine),) = nearest_words(table[3000], model, tokenizer, 1, special=True)
    assert token == tokenizer.convert_ids_to_tokens(3000)
    assert cosine == pytest.approx(1, abs=1e-3)
    assert nearest_words(torch.zeros(24), model, tokenizer, 1)[0][1] == 0


# --- what is printed, and what is refused ----------------------------------------------------------------------------


def test_padding_of_nan_has_no_say() -> None:
    """Whatever padding becomes, tokens have their order."""
    model = random_model(kind=BertForMaskedLM)
    inputs = example_inputs(model.bert)
    padding = inputs["attention_mask"] == 0
    expected = logit_lens(model, inputs)
    states = tuple(state.masked_fill(padding[..., None], torch.nan) for state in expected.hidden_states)
    found = dataclasses.replace(expected, hidden_states=states)
    assert torch.equal(found.top(3).ids[:, ~padding], expected.top(3).ids[:, ~padding])
    assert torch.equal(found.kl(), expected.kl())


def test_what_is_printed() -> None:
    model, tokenizer = small()
    inputs = tokenizer(["a [MASK] in soup", "a fly"])
    lens = logit_lens(model, inputs)
    lines = str(lens).splitlines()
    assert lines[0].split() == ["layer", *inputs.tokens(0)]
    assert len(lines) == 5
    assert lens.table(row=1).splitlines()[0].split() == ["layer", "[CLS]", "a", "fly", "[SEP]"]
    one = inputs.rows([0])
    lines = logit_lens(model, one).at(k=2).splitlines()
    top = logit_lens(model, one).top(2)
    assert lines[1].split() == [
        "0",
        *(
            cell
            for token, probability in zip(top.tokens[0][0][2], top.probabilities[0, 0, 2].tolist(), strict=True)
            for cell in (token, f"{probability:.3f}")
        ),
    ]
    assert logit_lens(model, inputs).at(row=0, k=2).splitlines()[1].split()[0] == "0"  # row 1 has no [MASK]
    assert "[PAD]" not in lens.plot(row=1)._repr_svg_()


IDS = {"input_ids": torch.tensor([[1, 2, 3]])}


def broken(model: BertForMaskedLM) -> BertForMaskedLM:
    """The model with NaN in its second layer."""
    model.bert.encoder.layers[1].attention.query.bias.data.fill_(torch.nan)
    return model


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda model, _: logit_lens(model.bert, IDS),
            InputError,
            "which BertModel does not have: load",
        ),
        (
            lambda model, _: logit_lens(random_model(kind=BertForSequenceClassification), IDS),
            InputError,
            "or ask nearest_words",
        ),
        (lambda model, _: logit_lens(model, IDS).logits(4), InputError, "layer must be a hidden state from 0 to 3"),
        (lambda model, _: logit_lens(model, IDS).top(0), InputError, "k must be an integer from 1 to"),
        (lambda model, _: logit_lens(model, IDS).rank("river"), InputError, "is known to a tokenizer"),
        (lambda model, _: logit_lens(model, IDS, TunedLens(2, 24)), InputError, "3 layers of 24, got one for 2 layers"),
        (lambda model, _: logit_lens(model, IDS, "tuned"), InputError, "lens must be a TunedLens or None, got 'tuned'"),
        (lambda model, _: logit_lens(model, IDS).plot(row=1), InputError, "row must be an integer from -1 to 0, got 1"),
        (lambda model, _: logit_lens(model, IDS).at(0, row=1), InputError, "row must be an integer from -1 to 0"),
        (lambda model, t: logit_lens(model, t("a")).rank("riverbankk"), TokenizerError, "not in the vocabulary"),
        (lambda model, t: TunedLens.fit(model, t, ["a"], masked=1), InputError, "masked must be a share"),
        (lambda model, t: TunedLens.fit(model, t, ["a"], steps=0), InputError, "steps must be a positive integer"),
        (lambda model, t: TunedLens.fit(model, t, ["a"], masked="x"), InputError, "masked must be a share"),
        (lambda model, t: TunedLens.fit(model, t, ["a"], learning_rate=-1), InputError, "must be a positive number"),
        (lambda model, t: TunedLens.fit(model, t, "a text"), InputError, "texts must be a list of texts"),
        (lambda model, t: TunedLens.fit(model, t, []), TextError, "must not be an empty list"),
        (lambda model, t: TunedLens.fit(broken(model), t, ["a"]), InputError, "the divergence of layer 0 must be fin"),
        (lambda model, t: TunedLens(0, 24), InputError, "layers must be a positive integer"),
        (lambda model, t: TunedLens(2, 24).save("nowhere/lens"), StoreError, "cannot write nowhere/lens"),
        (lambda model, _: logit_lens(broken(model), IDS).rank(7), InputError, "order, got NaN after layer 2"),
        (lambda model, _: logit_lens(broken(model), IDS).top(7), InputError, "order, got NaN after layer 2"),
        (lambda model, t: nearest_words(torch.full((24,), torch.nan), model, t), InputError, "finite numbers, got NaN"),
        (lambda model, t: TunedLens.load("nowhere"), InputError, "must be a tuned lens as TunedLens.save writes it"),
        (lambda model, t: nearest_words(torch.ones(23), model, t), InputError, r"hidden must be vectors \(…, 24\)"),
        (lambda model, t: nearest_words(torch.ones(2, 0, 24), model, t), InputError, "hidden must not be empty"),
        (
            lambda model, t: nearest_words(torch.ones(24), random_model(), t),
            InputError,
            "must be the model's, of 50 words",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        call(*small())
