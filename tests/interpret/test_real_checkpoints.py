"""What the other files show on random models is so on each real checkpoint as well."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.attribution import off, real_case
from torch import Tensor

from minibert.heads import bert_in
from minibert.interpret import patch, survey
from minibert.trace.edits import mean_of
from minibert.trace.recording import edit, record


@pytest.fixture(params=["MiniLM", "rxnfp", "BERT-tiny"])
def case(request: pytest.FixtureRequest, checkpoint: Path, reactions: Path, data: Callable[[str], Path]) -> Any:
    """A model in float64, and texts for it."""
    model, inputs = real_case(request.param, checkpoint, reactions, data("bert-tiny"))
    return bert_in(model).double().requires_grad_(False), inputs


def metric(out: Any) -> Tensor:
    return out.last_hidden_state[:, 1].square().sum(-1)


def test_heads_sum_to_the_output_of_attention(case: Any) -> None:
    model, inputs = case
    with record(model, ["*.head_outputs", "*.attention.output"]) as trace:
        model(**inputs)
    for layer, module in enumerate(model.encoder.layers):
        name = f"encoder.layers.{layer}.attention."
        total = trace[name + "head_outputs"].sum(1) + module.attention.output.bias
        assert off(total, trace[name + "output"]) < 1e-12


def test_identity_edits_and_patches_change_nothing(case: Any) -> None:
    model, inputs = case
    plain = model(**inputs).last_hidden_state
    with edit(model, ["*.attention.context", "*.feed_forward.activation", "*norm"], lambda value: value + 0):
        assert torch.equal(model(**inputs).last_hidden_state, plain)
    one = inputs.rows([0])
    effects = patch(model, one, one, metric, at="head")
    assert (effects.values == 0).all()


def test_the_whole_last_layer_is_the_clean_run(case: Any) -> None:
    model, inputs = case
    clean = inputs.rows([0])
    corrupted = inputs.rows([0])
    corrupted["input_ids"] = corrupted["input_ids"].clone()
    corrupted["input_ids"][0, 1] = (corrupted["input_ids"][0, 1] + 1) % 500
    effects = patch(model, clean, corrupted, metric, positions=False)
    assert effects.values[-1] == torch.tensor(effects.clean - effects.corrupted, dtype=torch.float64)


def test_a_survey_is_that_of_each_text(case: Any) -> None:
    model, inputs = case
    texts = ["a = (b) 1.", "[MASK] = 2", "(c) = (d) . 3 + 4"]
    together = survey(model, inputs.tokenizer, texts, ["entropy", "distance", "sep"], names="last_hidden_state")
    apart = survey(
        model, inputs.tokenizer, texts, ["entropy", "distance", "sep"], names="last_hidden_state", batch_tokens=1
    )
    for name, values in together.heads.items():
        torch.testing.assert_close(values, apart.heads[name], atol=1e-10, rtol=0)
    means = mean_of(model, [inputs.tokenizer(text) for text in texts], "last_hidden_state")
    for name, mean in means.items():
        torch.testing.assert_close(together.means[name], mean, atol=1e-10, rtol=0)
