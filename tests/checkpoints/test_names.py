import subprocess
import sys

import pytest
import transformers

from minibert import BertConfig, BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification, BertModel
from minibert.checkpoints import names
from minibert.checkpoints.loading import Pretrained
from minibert.checkpoints.names import NAMES, canonical_name, checkpoint_name, naming_scheme, parameter_name

TINY = BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=12, num_attention_heads=2, intermediate_size=6)


def test_the_table_is_a_bijection() -> None:
    ours, theirs = zip(*NAMES, strict=True)
    assert len(set(ours)) == len(set(theirs)) == len(NAMES)


@pytest.mark.parametrize(
    "kind", [BertModel, BertForPreTraining, BertForSequenceClassification, BertForQuestionAnswering]
)
def test_every_parameter_has_the_name_that_transformers_gives_it(kind: type[Pretrained]) -> None:
    """Layers with two digits included."""
    parameters = [name for name, _ in kind(TINY).named_parameters()]
    reference = getattr(transformers, kind.__name__)(transformers.BertConfig(**TINY.to_dict()))
    tensors = [name for name, _ in reference.named_parameters()]
    assert sorted(map(checkpoint_name, parameters)) == sorted(tensors)
    assert sorted(map(parameter_name, tensors)) == sorted(parameters)
    for name in parameters:
        assert parameter_name(checkpoint_name(name)) == name


@pytest.mark.parametrize(
    "translate, name",
    [
        (checkpoint_name, "decoder.weight"),
        (parameter_name, "encoder.layer.x.attention.self.query.weight"),
        (parameter_name, "encoder.layers.0.attention.query.weight"),
        (parameter_name, "weight"),
        (parameter_name, ""),
    ],
)
def test_a_name_outside_the_table(translate, name: str) -> None:
    with pytest.raises(KeyError):
        translate(name)


@pytest.mark.parametrize(
    "name, canonical, scheme",
    [
        ("encoder.layer.1.output.dense.bias", "encoder.layer.1.output.dense.bias", ""),
        ("bert.pooler.dense.weight", "pooler.dense.weight", "the base model's name inside a model with a head"),
        ("embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight", "TensorFlow's name"),
        ("bert.embeddings.LayerNorm.beta", "embeddings.LayerNorm.bias", "TensorFlow's name"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias", "the decoder's bias under its other name"),
        ("cls.predictions.decoder.weight", "embeddings.word_embeddings.weight", "the decoder is the embedding table"),
        ("gamma", "gamma", ""),
        ("embeddings.LayerNorm.gammas", "embeddings.LayerNorm.gammas", ""),
    ],
)
def test_naming_schemes(name: str, canonical: str, scheme: str) -> None:
    assert (canonical_name(name), naming_scheme(name)) == (canonical, scheme)


def test_the_table_stands_alone() -> None:
    """It can be read, and run, without PyTorch and without the rest of minibert."""
    code = "import runpy, sys; sys.modules |= {'torch': None, 'minibert': None}; runpy.run_path(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, names.__file__], check=True)
