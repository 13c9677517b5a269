"""`verify --training`: a few steps of training beside transformers', for every kind of checkpoint."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support.models import SMALL
from torch import Tensor

import minibert
from minibert import BertConfig, BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, BertModel
from minibert.checkpoints.loading import Pretrained
from minibert.cli import main
from minibert.errors import ConfigError, InputError
from minibert.model import EncoderLayer
from minibert.trace import verify
from minibert.trace.training_pair import TrainingPair
from minibert.trace.training_steps import train_steps, training_batch


def save(folder: Path, kind: str = "BertModel", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Writes a small checkpoint of random weights."""
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, **{"initializer_range": 0.3, "num_labels": None, "id2label": (), **changes})
    getattr(minibert, kind)(config).to(dtype).save_pretrained(folder)
    return folder


def differences(pair: TrainingPair) -> list[str]:
    """The names of the values that are not equal."""
    return [name for name, values in pair.values().items() if not torch.equal(*values)]


@pytest.mark.parametrize(
    "name, attention, kind",
    [
        ("bert_pretrained", "eager", BertForPreTraining),
        ("bert_ft", "sdpa", BertForMaskedLM),  # it has no head, and gets a new one
        ("bert_ft_10k_25s", "sdpa", BertForSequenceClassification),
    ],
)
def test_real_checkpoints(name: str, attention: str, kind: type[Pretrained], reactions: Path) -> None:
    pair = TrainingPair.load(reactions / name, attention)
    assert type(pair.ours) is kind
    assert differences(pair) == []


@pytest.mark.parametrize(
    "kind, changes",
    [
        ("BertForPreTraining", {}),
        ("BertForMaskedLM", {}),
        ("BertForNextSentencePrediction", {}),
        ("BertForSequenceClassification", {"num_labels": 3}),
        ("BertForSequenceClassification", {"num_labels": 1}),
        ("BertForSequenceClassification", {"num_labels": 3, "problem_type": "regression"}),
        ("BertForSequenceClassification", {"num_labels": 3, "problem_type": "multi_label_classification"}),
        ("BertForTokenClassification", {"num_labels": 3}),
        ("BertForQuestionAnswering", {}),
        ("BertForMultipleChoice", {}),
        ("BertForMaskedLM", {"max_position_embeddings": 1}),  # a loss needs at least one label, in a single token too
        ("BertForTokenClassification", {"classifier_dropout": 0.4, "max_position_embeddings": 1, "type_vocab_size": 1}),
    ],
)
def test_every_head(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = save(tmp_path, kind, **changes)
    for attention in ("eager", "sdpa"):
        pair = TrainingPair.load(folder, attention)
        assert type(pair.ours).__name__ == kind
        assert differences(pair) == []


@pytest.mark.parametrize("kind", ["BertModel", "BertForSequenceClassification"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision(dtype: torch.dtype, kind: str, tmp_path: Path) -> None:
    """Half precision is trained in float32, where the optimiser's ε is not 0."""
    pair = TrainingPair.load(save(tmp_path, kind, dtype, problem_type="regression"), "sdpa")
    values = pair.values()
    assert all(torch.equal(*pair) for pair in values.values())
    assert {ours.dtype for ours, _ in values.values()} == {torch.promote_types(dtype, torch.float32)}


def test_the_certificate_has_all_of_it(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["verify", str(save(tmp_path)), "--training"])
    assert done.exit_code == 0, done.output
    assert "5 random batches for BertForMaskedLM" in done.output
    values = {line.split("  ")[0] for line in done.output.splitlines() if "equal  equal" in line}
    assert {f"step {number}: loss" for number in range(1, 6)} < values
    for name, _ in BertForMaskedLM(SMALL).named_parameters():
        together = name.replace("layers.0.", "layers.*.").replace("layers.1.", "layers.*.")
        assert {f"step 1: gradient of {together}", f"after step 5: {together}"} < values


@pytest.mark.parametrize("config", [{}, {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}])
def test_dropout_is_on(config: dict[str, Any], tmp_path: Path) -> None:
    """Also where the config has none: a mistake that dropout alone shows is seen."""
    pair = TrainingPair.load(save(tmp_path, **config), "eager")
    assert pair.ours.config.hidden_dropout_prob == pair.theirs.config.hidden_dropout_prob == 0.1
    for layer in pair.ours.bert.encoder.layers:
        layer.attention.dropout = 0.0
    ours, theirs = pair.values()["step 1: loss"]
    assert not torch.equal(ours, theirs)


def dropout_after_the_sum(self: EncoderLayer, hidden: Tensor, *arguments: Any) -> tuple[Tensor, Tensor | None]:
    attended, probabilities = self.attention(hidden, *arguments)
    hidden = self.attention_norm(self.dropout(hidden + attended))
    return self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden))), probabilities


def test_a_bug_that_only_training_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path)
    monkeypatch.setattr(EncoderLayer, "forward", dropout_after_the_sum)
    assert verify(folder, gradients=True).equal
    found = verify(folder, training=True)
    assert found.first == "step 1: loss"
    verdicts = {line.value: line.verdict for line in found.lines if line.value.startswith(("step", "after"))}
    # The gradient of a key's bias is 0: the softmax does not see what all scores of a query have in common.
    roundings = {value for value, verdict in verdicts.items() if verdict == "rounding"}
    assert all("attention.key.bias" in value for value in roundings)
    assert {verdict for value, verdict in verdicts.items() if value not in roundings} == {"bug"}
    done = CliRunner().invoke(main, ["verify", str(folder), "--training", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.output)["first"] == "step 1: loss"


def rounded_otherwise(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_rounding_is_told_from_a_bug(spread: float, tmp_path: Path) -> None:
    """Five steps of an optimiser that divides by the size of a gradient make it larger, and it remains rounding."""
    for attention in ("eager", "sdpa"):
        pair = TrainingPair.load(save(tmp_path, initializer_range=spread), attention)
        for layer in pair.ours.bert.encoder.layers:
            layer.feed_forward.activation = rounded_otherwise
        assert any(not torch.equal(*values) for values in pair.values().values())
        assert pair.bugs() == set()


def test_a_caller_is_left_as_it_was(tmp_path: Path) -> None:
    folder = save(tmp_path)
    state = torch.get_rng_state()
    with torch.no_grad():
        assert verify(folder, training=True).equal
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert verify(folder, training=True).equal
    assert torch.equal(torch.get_rng_state(), state)


def test_training_gives_a_model_its_parameters_back() -> None:
    model: Pretrained = BertForSequenceClassification(SMALL).eval()
    model.bert.pooler.train()
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict().items()}
    batches = [training_batch(model, seed) for seed in range(3)]
    with torch.no_grad():
        trained = train_steps(model, dict(model.named_parameters()), batches)
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert not torch.equal(parameter, trained.parameters[name])
        assert parameter.grad is None
    assert [name for name, module in model.named_modules() if module.training] == ["bert.pooler", "bert.pooler.dense"]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="training must be one of True, False, got 5"):
        verify(tmp_path, training=5)
    config = BertConfig(**dataclasses.asdict(SMALL) | {"position_embedding_type": "relative_key"})
    BertModel(config).save_pretrained(tmp_path / "relative")
    with pytest.raises(ConfigError, match="relative_key positions, which transformers 5 silently ignores"):
        verify(tmp_path / "relative", training=True)
    BertModel(dataclasses.replace(SMALL, pruned_heads={0: [1]})).save_pretrained(tmp_path / "pruned")
    with pytest.raises(ConfigError, match="pruned heads, which transformers 5 cannot load"):
        verify(tmp_path / "pruned", training=True)
