"""The table of parameters agrees with the model, for every head."""

from pathlib import Path

import pytest
from support.models import random_model

from minibert import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    SentenceEncoder,
)
from minibert.checkpoints.loading import Pretrained
from minibert.interpret import prune_heads
from minibert.trace import count_parameters

MODELS = [
    BertModel,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("positions", ["absolute", "relative_key"])
def test_every_parameter_counts_once(kind: type[Pretrained], positions: str) -> None:
    model = random_model(kind=kind, position_embedding_type=positions)
    counts = count_parameters(model)
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())
    assert counts.total == sum(part.copies * part.count for part in counts.parts)
    some = prune_heads(model, {0: [1], 2: [0, 3]})
    counts = count_parameters(some)
    assert counts.total == sum(part.copies * part.count for part in counts.parts) < count_parameters(model).total
    layers = [part for part in counts.parts if part.name.startswith("encoder")]
    assert [layer.name for layer in layers] == ["encoder, layer 0", "encoder, layer 1", "encoder, layer 2"]
    assert layers[2].modules[0].shapes[0] == (12, 24)
    alike = count_parameters(prune_heads(model, {0: [1], 1: [0], 2: [3]}))
    assert "encoder: 3 layers, each" in str(alike)
    for part in counts.parts:
        assert part.count == sum(module.count for module in part.modules), part.name


def test_the_parts() -> None:
    """And their sizes as the paper's figures make them: D·D + D for a projection, and so on."""
    counts = count_parameters(random_model(kind=BertForMaskedLM))
    assert [(part.name, part.copies) for part in counts.parts] == [("embeddings", 1), ("encoder", 3), ("masked_lm", 1)]
    embeddings, layer, head = ({module.name: module for module in part.modules} for part in counts.parts)
    assert embeddings["word_embeddings"].shapes == ((50, 24),)
    assert layer["attention.query"].shapes == ((24, 24), (24,))
    assert layer["attention.query"].count == 24 * 24 + 24
    assert layer["feed_forward.expand"].shapes == ((40, 24), (40,))
    assert list(head) == ["bias", "dense", "norm"]


def test_a_sentence_encoder(small: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(small)
    assert count_parameters(encoder) == count_parameters(encoder.model)


def test_the_table() -> None:
    text = str(count_parameters(random_model(kind=BertForTokenClassification)))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "part shapes parameters"
    assert "encoder: 3 layers, each 4,480" in lines
    assert "attention.query 24 × 24 + 24 600" in lines
    assert "weight, bias 2 × 24 + 2 50" in lines
    assert lines[-1] == "total 27,074"
