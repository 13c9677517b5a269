"""Vectors sum to what they are the parts of, and each method is its formula, written out position by position."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.attribution import CONFIGURATIONS, INPUTS, off, random_case, real_case
from support.models import hooks, random_model
from torch import Tensor

from minibert import BertForMaskedLM, BertModel, BertTokenizer
from minibert.errors import InputError
from minibert.heads import bert_in
from minibert.interpret import contributions, expansion_rates, mixing_ratio
from minibert.interpret.mixing import METHODS
from minibert.interpret.whole_words import word_groups, word_label
from minibert.trace.recording import edit, record

SUMMING = ["attention", "rollout", "globenc", "alti"]  # rows sum to 1


def real_positions(given: dict[str, Tensor]) -> Tensor:
    return given.get("attention_mask", torch.ones_like(given["input_ids"])).bool()


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_parts_add_up(configuration: str, inputs: str, how: str) -> None:
    """Whatever the model and the text; padding gives and takes exactly nothing."""
    model, given = random_case(configuration, inputs)
    maps = contributions(model, given, how=how)
    layers, real = model.config.num_hidden_layers, real_positions(given)
    assert maps.values.shape == (layers, *given["input_ids"].shape, given["input_ids"].shape[1])
    assert maps.error < 1e-11
    assert (maps.values >= 0).all()
    assert (maps.values[:, ~real] == 0).all()
    assert (maps.values.transpose(2, 3)[:, ~real] == 0).all()
    if how in SUMMING:
        torch.testing.assert_close(maps.values.sum(-1)[:, real], torch.ones_like(maps.values[..., 0][:, real]))
    last = contributions(model, given, how=how, layer=-1)
    assert last.layers == [layers]
    assert torch.equal(last.values, maps.values[-1:])


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("inputs", INPUTS)
def test_vectors_sum_to_every_hidden_state(configuration: str, inputs: str) -> None:
    model, given = random_case(configuration, inputs)
    states = model(**given, output_hidden_states=True).hidden_states[1:]
    vectors = contributions(model, given, how="decompx").vectors
    real = real_positions(given)
    for layer, state in enumerate(states):
        assert off(vectors[layer].sum(1)[real], state[real]) < 1e-12
    values = contributions(model, given, how="decompx").values
    for row, receiver, giver in ((0, 0, 0), (real.shape[0] - 1, 0, -1), (0, -1, 0)):
        if real[row, receiver] and real[row, giver]:
            expected = vectors[:, row, giver if giver >= 0 else real.shape[1] + giver, receiver].norm(dim=-1)
            torch.testing.assert_close(values[:, row, receiver, giver], expected)


@pytest.mark.parametrize("name", ["MiniLM", "rxnfp", "BERT-tiny"])
def test_real_checkpoints(name: str, checkpoint: Path, reactions: Path, data: Callable[[str], Path]) -> None:
    model, inputs = real_case(name, checkpoint, reactions, data("bert-tiny"))
    bert = bert_in(model)
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        model = model.to(dtype)
        states = bert(**inputs, output_hidden_states=True).hidden_states[1:]
        found = contributions(model, inputs, how="decompx")
        for layer, state in enumerate(states):
            real = inputs["attention_mask"].bool()
            assert off(found.vectors[layer].sum(1)[real], state[real]) < bound
        norms = contributions(model, inputs, how="norm")
        with record(bert, "*.attention.output") as outputs:
            bert(**inputs)
        assert norms.error < bound * max(value.abs().max().item() for value in outputs.values())


def test_vectors_are_those_of_the_network_with_everything_else_frozen() -> None:
    """A second witness: the model itself, run on one embedding alone, its weights, scales and gates held as they were.

    What is left is affine. What a source gives is the run on it minus the run on nothing, and that is the biases.
    """
    model, given = random_case("small", "padded, with a pair")
    with record(model, ["*", "*.scale"]) as was:
        model(**given)
    expanded: dict[str, Tensor] = {}

    def kept(value: Tensor, name: str) -> Tensor:
        expanded[name] = value
        return value

    def gated(value: Tensor, name: str) -> Tensor:
        before = name.replace("activation", "expand")
        return expanded[before] * was[name] / was[before]

    frozen = {
        "*.scale": lambda value, name: was[name],
        "*.attention.probabilities": lambda value, name: was[name],
        "*.feed_forward.expand": kept,
        "*.feed_forward.activation": gated,
    }
    source = torch.zeros(11, dtype=torch.bool)
    with edit(model, frozen), edit(model, "embeddings.sum", lambda value: was["embeddings.sum"] * source[:, None]):
        nothing = model(**given).last_hidden_state
        alone = []
        for position in range(11):
            source[:] = False
            source[position] = True
            alone.append(model(**given).last_hidden_state - nothing)
    vectors = contributions(model, given, how="decompx", layer=-1).vectors[0]
    real = real_positions(given)
    for position in range(11):
        torch.testing.assert_close(vectors[:, position][real], alone[position][real], atol=1e-10, rtol=0)
    torch.testing.assert_close(vectors[:, -1][real], nothing[real], atol=1e-10, rtol=0)


def test_each_method_by_its_formula() -> None:
    """Position by position and head by head, from the definitions."""
    model, _ = random_case("small", "one token")
    given = {"input_ids": torch.tensor([[3, 8, 5, 9]])}
    with record(model) as t:
        model(**given)
    states = [t[f"hidden_states[{number}]"][0] for number in range(4)]
    expected: dict[str, list[Tensor]] = {name: [] for name in METHODS if name != "decompx"}
    for number, layer in enumerate(model.encoder.layers):
        x, attention = states[number], layer.attention
        weights = t[f"encoder.layers.{number}.attention.probabilities"][0]  # (H, S, T)
        after = t[f"encoder.layers.{number}.attention_norm"][0]

        def f(vector: Tensor, head: int, attention=attention) -> Tensor:
            """Kobayashi et al. 2020, equation 4: what a head makes of a vector."""
            value = (attention.value(vector)).view(4, 6)[head]
            return attention.output.weight[:, 6 * head : 6 * head + 6] @ value

        def ln(vector: Tensor, norm: torch.nn.LayerNorm, total: Tensor) -> Tensor:
            return (vector - vector.mean()) / (total.var(correction=0) + norm.eps).sqrt() * norm.weight

        maps = {name: torch.zeros(4, 4, dtype=torch.float64) for name in expected}
        for i in range(4):
            before_first = t[f"encoder.layers.{number}.attention_sum"][0, i]
            before_second = t[f"encoder.layers.{number}.feed_forward_sum"][0, i]
            for j in range(4):
                mixed = sum(weights[head, i, j] * f(x[j], head) for head in range(4))
                kept = mixed + (x[i] if i == j else 0)
                first = ln(kept, layer.attention_norm, before_first)
                second = ln(first, layer.feed_forward_norm, before_second)
                maps["attention"][i, j] = weights[:, i, j].mean()
                maps["norm"][i, j] = mixed.norm()
                maps["norm+residual"][i, j] = kept.norm()
                maps["norm+residual+ln"][i, j] = first.norm()
                maps["rollout"][i, j] = 0.5 * weights[:, i, j].mean() + 0.5 * (i == j)
                maps["globenc"][i, j] = second.norm()
                near = after[i].abs().sum() - (after[i] - first).abs().sum()  # Ferrando et al. 2022, equations 9, 10
                maps["alti"][i, j] = max(near.item(), 0)
        for name, values in maps.items():
            if name == "alti":
                values = values / values.sum(-1, keepdim=True)
            if name in ("rollout", "globenc", "alti") and number:
                values = values @ expected[name][-1]
            expected[name].append(values)
    expected["globenc"] = [product / product.sum(-1, keepdim=True) for product in expected["globenc"]]
    for name, maps_of in expected.items():
        found = contributions(model, given, how=name).values[:, 0]
        torch.testing.assert_close(found, torch.stack(maps_of), atol=1e-11, rtol=0)


@pytest.mark.parametrize("how", METHODS)
def test_what_is_not_a_number_is_not_lost(how: str) -> None:
    """`max` of Python forgets a NaN that is not first: the error of a broken model must not be small."""
    given = {"input_ids": torch.tensor([[3, 8, 5]])}
    model = random_model()
    model.encoder.layers[1].attention.value.bias.data[0] = float("nan")
    assert math.isnan(contributions(model, given, how=how).error) or how in ("attention", "rollout")
    model.embeddings.word_embeddings.weight.data[3] = float("nan")
    assert math.isnan(contributions(model, given, how=how).error)


@pytest.mark.parametrize("how", METHODS)
def test_a_text_of_nothing_but_padding_gives_and_takes_nothing(how: str) -> None:
    given = {"input_ids": torch.tensor([[3, 8, 5], [3, 8, 5]]), "attention_mask": torch.tensor([[1, 1, 0], [0, 0, 0]])}
    model = random_model().double()
    maps = contributions(model, given, how=how)
    assert maps.error < 1e-11
    assert (maps.values[:, 1] == 0).all()
    assert maps.strongest(row=1) == []
    alone = {name: tensor[1:] for name, tensor in given.items()}
    assert contributions(model, alone, how=how).error == 0


@pytest.mark.parametrize("how", METHODS)
def test_what_padding_has_become_does_not_reach_the_others(how: str) -> None:
    given = {"input_ids": torch.tensor([[3, 8, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    model = random_model().double()
    expected = contributions(model, given, how=how)

    def padding_becomes(number: float) -> Callable[[Tensor], Tensor]:
        return lambda hidden: torch.where(torch.tensor([[[False], [False], [True]]]), number, hidden)

    # Only inside the first layer: in the next ones the model itself would multiply it by 0.
    with edit(
        model, {"encoder.layers.0.attention.output": padding_becomes(torch.inf), "hidden_states[1]": padding_becomes(1)}
    ):
        found = contributions(model, given, how=how)
    if how == "decompx":  # the vectors of padding itself cannot be carried on
        assert torch.equal(found.values[0], expected.values[0])
        return
    assert (found.values[:, :, 2] == 0).all()
    torch.testing.assert_close(found.values, expected.values)


@pytest.mark.parametrize("how", METHODS)
def test_a_network_of_zeros(how: str) -> None:
    model = random_model()
    for parameter in model.parameters():
        parameter.data.zero_()
    given = {"input_ids": torch.tensor([[3, 8, 5]])}
    maps = contributions(model, given, how=how)
    assert not maps.values.isnan().any()
    if how in ("alti", "globenc"):  # there is nothing to share out, and the error says so
        assert maps.error == 1
    for each in ("norm", "norm+residual", "norm+residual+ln"):
        assert (mixing_ratio(model, given, each) == 0).all()


@pytest.mark.parametrize("how", METHODS)
def test_in_any_mode_of_gradients_and_layer_by_layer(how: str) -> None:
    model, given = random_case("small", "padded, with a pair")
    maps = contributions(model, given, how=how)
    with torch.inference_mode():
        assert torch.equal(contributions(model, given, how=how).values, maps.values)
    with torch.enable_grad():
        free = contributions(model.requires_grad_(), given, how=how)
    assert not free.values.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    for layer in (1, 2, 3):
        one = contributions(model, given, how=how, layer=layer)
        assert one.layers == [layer]
        assert torch.equal(one.values[0], maps.values[layer - 1])
        assert torch.equal(one.values[0], contributions(model, given, how=how, layer=layer - 4).values[0])
        assert one.strongest(layer) == one.strongest() == maps.strongest(layer)
        assert f"layer {layer}" in str(one)
    assert hooks(model) == 0


def test_nothing_remains_after_an_error() -> None:
    model, given = random_case("small", "one token")

    def fail(_: Tensor) -> Tensor:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), edit(model, "hidden_states[2]", fail):
        contributions(model, given, how="decompx")
    assert hooks(model) == 0


# --- words -----------------------------------------------------------------------------------------------------------


def test_words(tokenizer: BertTokenizer, checkpoint: Path) -> None:
    """To a word the sum, from a word the mean: rows keep their sums."""
    inputs = tokenizer(["tokenization of unbelievable words", "a fly"], ["a second tokenization", "flies"])
    groups = word_groups(inputs, 0)
    labels = [word_label(inputs, 0, positions) for positions in groups]
    assert labels == (
        ["[CLS]", "tokenization", "of", "unbelievable", "words", "[SEP]", "a", "second", "tokenization", "[SEP]"]
    )
    assert [position for positions in groups for position in positions] == list(range(sum(map(len, groups))))
    model = BertModel.from_pretrained(checkpoint)
    tokens = contributions(model, inputs, how="attention")
    words = contributions(model, inputs, how="attention", words=True)
    assert words.labels[0] == labels
    assert len(words.labels[1]) == 6
    first, second = groups[1], groups[8]
    expected = tokens.values[:, 0][:, first][:, :, second].sum(-1).mean(-1)
    torch.testing.assert_close(words.values[:, 0, 1, 8], expected)
    torch.testing.assert_close(words.values[:, 0].sum(-1), torch.ones(6, len(labels)))
    assert (words.values[:, 1, 6:] == 0).all()
    assert words.mask.sum(dim=1).tolist() == [10, 6]
    assert words.mask[1].tolist() == [True] * 6 + [False] * 4
    assert [label for label, _, _ in words.strongest(row=1)] == words.labels[1]
    shorter_first = contributions(model, inputs.rows([1, 0]), how="attention", words=True)
    assert [line.split()[0] for line in str(shorter_first).splitlines()[2:-1]] == words.labels[1]
    assert "tokenization" in shorter_first.plot(row=1)._repr_svg_()
    assert "flies" in shorter_first.plot(row=0)._repr_svg_()
    rollout = contributions(model, inputs, how="rollout", words=True).values
    torch.testing.assert_close(rollout[:, 0].sum(-1), torch.ones(6, len(labels)))


# --- in a number -----------------------------------------------------------------------------------------------------


def test_mixing_ratios() -> None:
    """1 − the share of itself; of a single token nothing comes from others, but for the weights."""
    model, given = random_case("small", "padded, with a pair")
    real = real_positions(given)
    for how in ("attention", "norm", "norm+residual", "norm+residual+ln"):
        ratio = mixing_ratio(model, given, how)
        assert ratio.shape == (3, 3, 11)
        assert (ratio[:, ~real] == 0).all()
        assert ((ratio[:, real] > 0) & (ratio[:, real] < 1)).all()
        alone = mixing_ratio(model, {"input_ids": torch.tensor([[3]])}, how)
        torch.testing.assert_close(alone, torch.zeros_like(alone), atol=1e-12, rtol=0)
    weights = contributions(model, given, "attention").values
    expected = weights.sum(-1) - weights.diagonal(dim1=2, dim2=3)
    torch.testing.assert_close(mixing_ratio(model, given, "attention"), expected)


def test_mixing_ratios_by_the_formula() -> None:
    model, _ = random_case("small", "one token")
    given = {"input_ids": torch.tensor([[3, 8, 5]])}
    with record(model, ["*.probabilities", "*.value", "hidden_states[0]"]) as t:
        model(**given)
    weights, value = t["encoder.layers.0.attention.probabilities"][0], t["encoder.layers.0.attention.value"][0]
    columns = model.encoder.layers[0].attention.output.weight.view(24, 4, 6)
    vectors = torch.stack(
        [
            torch.stack([sum(weights[h, i, j] * columns[:, h] @ value[h, j] for h in range(4)) for j in range(3)])
            for i in range(3)
        ]
    )
    for i in range(3):
        others = (vectors[i].sum(0) - vectors[i, i]).norm()
        itself = (vectors[i, i] + t["hidden_states[0]"][0, i]).norm()
        found = mixing_ratio(model, given, "norm+residual")[0, 0, i]
        torch.testing.assert_close(found, others / (others + itself))


def test_expansion_rates(data: Callable[[str], Path]) -> None:
    """The published rates of BERT-tiny are 1.626 and 2.090. This one was trained further since, and expands less."""
    tiny = BertForMaskedLM.from_pretrained(data("bert-tiny"))
    rates = expansion_rates(tiny)
    torch.testing.assert_close(rates, torch.tensor([1.308, 1.829]), atol=5e-3, rtol=0)
    for rate, layer in zip(rates, tiny.bert.encoder.layers, strict=True):
        value, output = layer.attention.value, layer.attention.output
        product = output.weight @ value.weight
        bias = output.weight @ value.bias + output.bias
        expected = ((product.square().sum() + bias.square().sum() + 1) / 129).sqrt()
        torch.testing.assert_close(rate, expected)


# --- what is printed, and what is refused ----------------------------------------------------------------------------


def test_what_is_printed(tokenizer: BertTokenizer, checkpoint: Path) -> None:
    inputs = tokenizer(["There was a fly", "a fly"])
    maps = contributions(BertModel.from_pretrained(checkpoint), inputs, how="decompx")
    lines = str(maps).splitlines()
    assert lines[0] == "decompx, layer 6"
    assert [line.split()[0] for line in lines[2:-1]] == inputs.tokens(0)
    assert "off by" in lines[-1]
    assert [label for label, _, _ in maps.strongest(row=1)] == ["[CLS]", "a", "fly", "[SEP]"]
    drawn = maps.plot(layer=3, row=1)._repr_svg_()
    assert "fly" in drawn
    assert "[PAD]" not in drawn
    assert "layer 3" in drawn


def test_a_layer_is_counted_as_in_the_question() -> None:
    given = {"input_ids": torch.tensor([[1, 2, 3]])}
    both = contributions(random_model(), given)
    assert both.strongest(3) == both.strongest(-1)
    second = contributions(random_model(), given, layer=2)
    for layer in (1, 0, -2, "2", True):
        with pytest.raises(InputError, match="layer must be one of 2, or counted from the end, got"):
            second.strongest(layer)
    with pytest.raises(InputError, match="layer must be one of 1, 2, 3, or counted from the end, got 0"):
        both.plot(layer=0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"how": "decompX"}, "how must be one of .*: did you mean decompx"),
        ({"layer": 4}, "layer must be from 1 to 3, or from -1 to -3, got 4"),
        ({"layer": 0}, "layer must be from 1 to 3"),
        ({"words": True}, "words need inputs that a BertTokenizer made"),
        ({"words": "yes"}, "words must be one of True, False"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        contributions(random_model(), {"input_ids": torch.tensor([[1, 2, 3]])}, **options)
    with pytest.raises(InputError, match="how must be one of attention, norm"):
        mixing_ratio(random_model(), {"input_ids": torch.tensor([[1, 2, 3]])}, "alti")
