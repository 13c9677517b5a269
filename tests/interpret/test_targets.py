"""A target is the number that it says, and what has none is refused by name."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.models import random_model

from minibert import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizer,
)
from minibert.errors import InputError, TokenizerError
from minibert.interpret.runs import as_inputs, bert_of, position_of, rows_of, tokens_of
from minibert.interpret.targets import (
    class_logit,
    cosine_with,
    logit_difference,
    measure,
    text_similarity,
    token_log_probability,
    token_logit,
)
from minibert.trace.compare import example_inputs


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForPreTraining])
def test_of_a_token(kind) -> None:
    model = random_model(kind=kind)
    inputs = example_inputs(model.bert)
    out = model(**inputs)
    logits = out[1][:, 2]  # (B, V)
    assert torch.equal(measure(model, inputs, token_logit(7, 2)), logits[:, 7])
    assert torch.equal(measure(model, inputs, token_logit(7, -9)), logits[:, 7])
    assert torch.equal(measure(model, inputs, logit_difference(7, 3, 2)), logits[:, 7] - logits[:, 3])
    assert torch.equal(measure(model, inputs, token_log_probability(7, 2)), logits.log_softmax(-1)[:, 7])


def test_of_a_token_by_name_at_the_mask(tokenizer: BertTokenizer) -> None:
    model = random_model(kind=BertForMaskedLM, vocab_size=len(tokenizer), max_position_embeddings=16)
    inputs = tokenizer(["He sat by the [MASK].", "[MASK] flows"])
    expected = model(**inputs).logits[torch.tensor([0, 1]), torch.tensor([5, 1])]
    river = tokenizer.convert_tokens_to_ids("river")
    assert torch.equal(measure(model, inputs, token_logit("river")), expected[:, river])
    with pytest.raises(TokenizerError, match="'riverbankk' is not in the vocabulary"):
        measure(model, inputs, token_logit("riverbankk"))
    with pytest.raises(InputError, match="the rows have 0"):
        position_of(None, tokenizer("no mask here"))


def test_padding_has_no_target(tokenizer: BertTokenizer) -> None:
    model = random_model(kind=BertForMaskedLM, vocab_size=len(tokenizer), max_position_embeddings=16)
    for position, row in ((-1, 1), (4, 1)):
        with pytest.raises(InputError, match=f"got {position}, which is padding in row {row}"):
            measure(model, tokenizer(["the river bank", "a fly"]), token_logit("river", position))


def test_a_token_that_only_the_tokenizer_knows(tokenizer: BertTokenizer) -> None:
    with pytest.raises(InputError, match="token must be a token or an id from 0 to 1,999, got"):
        measure(random_model(kind=BertForMaskedLM, vocab_size=2000), tokenizer("[MASK]"), token_logit("zebra"))


def test_of_a_class() -> None:
    model = random_model(kind=BertForSequenceClassification, id2label=("bad", "good", "so so"))
    inputs = example_inputs(model.bert)
    expected = model(**inputs).logits[:, 1]
    assert torch.equal(measure(model, inputs, class_logit("good")), expected)
    assert torch.equal(measure(model, inputs, class_logit(1)), expected)
    tagger = random_model(kind=BertForTokenClassification)
    assert torch.equal(measure(tagger, inputs, class_logit(1, 4)), tagger(**inputs).logits[:, 4, 1])


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_of_mean_vectors(kind) -> None:
    """Padding does not count, nor does it matter whether the BERT has a head."""
    model = random_model(kind=kind)
    inputs = example_inputs(bert_of(model))
    inputs = rows_of(inputs, [0, 1, 2, 1])
    mask = inputs["attention_mask"][..., None]
    means = (bert_of(model)(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
    vector = torch.arange(24.0)
    torch.testing.assert_close(measure(model, inputs, cosine_with(vector)), F.cosine_similarity(means, vector[None]))
    pairs = F.cosine_similarity(means[::2], means[1::2])
    torch.testing.assert_close(measure(model, inputs, text_similarity()), pairs[[0, 0, 1, 1]])


def test_of_a_function() -> None:
    model = random_model()
    inputs = example_inputs(model)
    expected = model(**inputs).last_hidden_state[:, 0, 0]
    assert torch.equal(measure(model, inputs, lambda out: out.last_hidden_state[:, 0, 0]), expected)
    assert torch.equal(measure(model, inputs, lambda out, given: out[0][: len(given["input_ids"]), 0, 0]), expected)
    one = rows_of(inputs, [0])
    assert measure(model, one, lambda out: out.last_hidden_state.sum()).shape == (1,)


def test_rows_are_those_of_the_inputs(tokenizer: BertTokenizer) -> None:
    inputs = tokenizer(["a fly", "the river bank"])
    assert tokens_of(rows_of(inputs, [1, 0, 1])) == [tokens_of(inputs)[row] for row in (1, 0, 1)]
    assert tokens_of(inputs)[0] == ["[CLS]", "a", "fly", "[SEP]", "[PAD]"]
    masked = rows_of(inputs, [0])
    masked["input_ids"][0, 2] = tokenizer.convert_tokens_to_ids("[MASK]")
    assert tokens_of(masked)[0] == ["[CLS]", "a", "[MASK]", "[SEP]", "[PAD]"]
    plain = {"input_ids": torch.tensor([[5, 6], [7, 8]]), "position_ids": torch.tensor([[1, 0]])}
    chosen = rows_of(plain, [1, 1, 0])
    assert chosen["input_ids"].tolist() == [[7, 8], [7, 8], [5, 6]]
    assert chosen["position_ids"].shape == (3, 2)
    assert tokens_of(chosen)[2] == ["5", "6"]


IDS = {"input_ids": torch.tensor([[1, 2, 3]])}


@pytest.mark.parametrize(
    "kind, target, message",
    [
        (BertModel, token_logit(3, 0), "a token's logit needs a model that predicts tokens, .*, got BertModel"),
        (BertForSequenceClassification, token_logit(3, 0), "predicts tokens"),
        (BertForMaskedLM, token_logit(50, 0), "token must be a token or an id from 0 to 49, got 50"),
        (BertForMaskedLM, token_logit("river", 0), "the id of 'river' is known to a tokenizer"),
        (BertForMaskedLM, token_logit(3, 3), "position must be an integer from 0 to 2, got 3"),
        (BertForMaskedLM, token_logit(3), "position must be given for inputs that no tokenizer made"),
        (BertForMaskedLM, class_logit(1), "class_logit needs a model with a classifier"),
        (BertForSequenceClassification, class_logit(2), "label must be a class from 0 to 1"),
        (BertForSequenceClassification, class_logit("LABEL_2"), "did you mean LABEL_1 or LABEL_0"),
        (BertForSequenceClassification, class_logit(1, 2), "position must be left out for the class of a text, got 2"),
        (BertForTokenClassification, class_logit(0), "needs the position of a token"),
        (BertModel, cosine_with(torch.ones(23)), r"vector must be a tensor \(24,\), got \(23,\)"),
        (BertModel, text_similarity(), "give an even number, got 1"),
        (BertModel, "the logit", "a target is a function of the output"),
        (BertModel, lambda out: out.last_hidden_state, r"one real number for each row, \(1,\), got \(1, 3, 24\)"),
        (BertModel, lambda out: 3.0, "got 3.0"),
    ],
)
def test_what_has_no_such_number_is_refused(kind, target, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(random_model(kind=kind), IDS, target)


def test_a_model_in_training_mode_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"call model\.eval\(\)"):
        bert_of(random_model().train())
    model = random_model()
    model.encoder.layers[1].dropout.train()
    with pytest.raises(InputError, match=r"call model\.eval\(\)"):
        bert_of(model)
    with pytest.raises(InputError, match=r"pass tokenizer\(text\)"):
        as_inputs("a text")
