"""Every head compared with its counterpart in transformers: outputs and losses bit for bit, gradients in float64."""

import dataclasses

import pytest
import torch
import transformers
from support.heads import CASES, CHOICES, CONFIG, INPUTS, MASK, WORDS, B, S, ids, twins

import minibert
from minibert.checkpoints import weights
from minibert.checkpoints.names import checkpoint_name
from minibert.errors import ConfigError, InputError
from minibert.heads import HEADS, bert_in


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_outputs_and_losses_are_equal(case: str, attention: str, dtype: torch.dtype) -> None:
    ours, theirs, inputs = twins(case, attention, dtype)
    maps = attention == "eager"
    a = ours(**inputs, output_hidden_states=True, output_attentions=maps)
    b = theirs(**inputs, output_hidden_states=True, output_attentions=maps)
    assert a.loss is not None
    assert a.loss.isfinite()
    for name in a._fields:
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, tuple):
            assert all(torch.equal(one, other) for one, other in zip(x, y, strict=True)), name
        elif x is not None:
            assert torch.equal(x, y), name
    labels = {"labels", "next_sentence_label", "start_positions", "end_positions"}
    assert ours(**{name: value for name, value in inputs.items() if name not in labels}).loss is None


@pytest.mark.parametrize("case", CASES)
def test_gradients_agree(case: str) -> None:
    """In float64, for every parameter; the backward pass sums in a different order, so not to the last bit."""
    ours, theirs, inputs = twins(case, "eager", torch.float64)
    ours(**inputs).loss.backward()
    theirs(**inputs).loss.backward()
    their_gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert len(their_gradients) == len(list(ours.parameters()))
    for name, parameter in ours.named_parameters():
        expected = their_gradients[checkpoint_name(name)]
        if parameter.grad is None:  # a segment or pooler that this loss does not depend on
            assert expected is None, name
        else:
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_dropout_draws_the_same_random_numbers(case: str) -> None:
    ours, theirs, inputs = twins(case, "eager")
    losses = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(1)
        losses.append(model(**inputs).loss)
    assert torch.equal(*losses)


def test_the_decoder_is_the_embedding_table(tmp_path) -> None:
    """One tensor, in memory and in the file, before training and after it."""
    model = minibert.BertForMaskedLM(CONFIG)
    logits = model(INPUTS["input_ids"], labels=WORDS)
    logits.loss.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    model.save_pretrained(tmp_path)
    assert "cls.predictions.decoder.weight" not in dict(weights.read(tmp_path)[1])
    again = minibert.BertForMaskedLM.from_pretrained(tmp_path)
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path)
    assert theirs.cls.predictions.decoder.weight is theirs.bert.embeddings.word_embeddings.weight
    with torch.no_grad():
        assert torch.equal(again(INPUTS["input_ids"]).logits, theirs(INPUTS["input_ids"]).logits)
        again.bert.embeddings.word_embeddings.weight[7] *= 2
        changed = (again(INPUTS["input_ids"]).logits != theirs(INPUTS["input_ids"]).logits)[0, :, 7]
    assert changed.all()
    with pytest.raises(ConfigError, match="tie_word_embeddings must be True, got False"):
        minibert.BertForMaskedLM(dataclasses.replace(CONFIG, tie_word_embeddings=False))


@pytest.mark.parametrize(
    "name,inputs,message",
    [
        ("BertForMaskedLM", {**INPUTS, "labels": WORDS[:2]}, r"labels must be \(3, 7\), one for each position, got"),
        (
            "BertForMaskedLM",
            {**INPUTS, "labels": WORDS + 50},
            r"labels must be integers from 0 to 49, or -100 .*, got -?\d+",
        ),
        (
            "BertForTokenClassification",
            {**INPUTS, "labels": ids(B, S).float()},
            "labels must be integers, torch.int64, got torch.float32",
        ),
        ("BertForSequenceClassification", {**INPUTS, "labels": torch.ones(2)}, r"labels must be \(3, 3\) like the"),
        (
            "BertForSequenceClassification",
            {**INPUTS, "labels": torch.ones(3, 3)[:, :2]},
            r"labels must be \(3, 3\) like the",
        ),
        (
            "BertForSequenceClassification",
            {**INPUTS, "labels": torch.full((3, 3), 7.0)},
            "must be 1 for each class that applies",
        ),
        (
            "BertForTokenClassification",
            {**INPUTS, "labels": [1, 2]},
            r"labels must be a tensor, got list: torch\.as_tensor",
        ),
        (
            "BertForQuestionAnswering",
            {**INPUTS, "start_positions": [1], "end_positions": [2]},
            "start_positions must be a",
        ),
        (
            "BertForMultipleChoice",
            {**CHOICES, "attention_mask": MASK},
            r"attention_mask must be \(2, 4, 7\) like input_ids, got \(3, 7\)",
        ),
        (
            "BertForMultipleChoice",
            {"input_ids": None},
            "input_ids must be a tensor, got NoneType",
        ),
        (
            "BertForMultipleChoice",
            INPUTS,
            r"input_ids must be \(batch, choices, sequence\) and not empty, got \(3, 7\)",
        ),
    ],
)
def test_bad_labels(name: str, inputs: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(minibert, name)(CONFIG)(**inputs)


def test_labels_of_various_dtypes() -> None:
    """Integers of any size for a class, and integers or bools for several classes."""
    model = minibert.BertForSequenceClassification(CONFIG).eval()
    classes = torch.tensor([2, 0, 1])
    expected = model(**INPUTS, labels=classes).loss
    assert torch.equal(model(**INPUTS, labels=classes.int()).loss, expected)
    several = dataclasses.replace(CONFIG, problem_type="multi_label_classification")
    model = minibert.BertForSequenceClassification(several).eval()
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
    assert torch.equal(model(**INPUTS, labels=labels).loss, model(**INPUTS, labels=labels.bool()).loss)


def test_a_model_whose_layers_share_their_parameters_can_be_saved(tmp_path) -> None:
    model = minibert.BertModel(CONFIG)
    model.encoder.layers[1] = model.encoder.layers[0]
    model.save_pretrained(tmp_path)
    again = minibert.BertModel.from_pretrained(tmp_path)
    for one, other in zip(*(layer.parameters() for layer in again.encoder.layers), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("config", [None, {"hidden_size": 4}, "bert-base-uncased", 768, minibert.BertConfig])
@pytest.mark.parametrize("kind", [minibert.BertModel, *HEADS.values()])
def test_a_config_of_another_type(kind, config: object) -> None:
    with pytest.raises(ConfigError, match=r"config must be a BertConfig, got .*: BertConfig\.from_dict takes a dict"):
        kind(config)


def test_other_arguments_of_constructors() -> None:
    with pytest.raises(ConfigError, match="add_pooling_layer must be one of True, False, got 'no'"):
        minibert.BertModel(CONFIG, add_pooling_layer="no")
    with pytest.raises(ConfigError, match=r"attention must be one of eager, sdpa, got \['eager'\]"):
        minibert.BertModel(CONFIG, ["eager"])
    with pytest.raises(
        ConfigError, match=r"vocab_size must be an integer from 1 to 10,000,000, got \{'hidden_size': 4\}"
    ):
        minibert.BertConfig({"hidden_size": 4})


def test_the_bert_inside_a_model() -> None:
    """Wherever it is, and only if it is the only one."""
    model = minibert.BertForMaskedLM(CONFIG)
    assert bert_in(model) is bert_in(model.bert) is bert_in(torch.nn.Sequential(model)) is model.bert
    for other in (torch.nn.Linear(2, 2), torch.nn.ModuleList([model, minibert.BertModel(CONFIG)]), model.forward):
        with pytest.raises(InputError, match=f"exactly one BertModel, and {type(other).__name__} has [02]"):
            bert_in(other)
