"""Every named value of a head is that of transformers, bit by bit, and so is the gradient there."""

from typing import Any

import pytest
import torch
from support.heads import CASES, twins
from torch import Tensor, nn

from minibert.trace.recording import record
from minibert.trace.values import HEAD_VALUES, MASKED_LM

# The module of transformers that reads or returns each value.
THEIRS = {
    "masked_lm.dense": ("cls.predictions.transform.dense", "output"),
    "masked_lm.activation": ("cls.predictions.transform.LayerNorm", "input"),
    "masked_lm.norm": ("cls.predictions.transform.LayerNorm", "output"),
    "logits": ("cls.predictions", "output"),
    "next_sentence": ("cls.seq_relationship", "output"),
    "classifier": ("classifier", "output"),
    "qa_outputs": ("qa_outputs", "output"),
}


def listen(model: nn.Module, name: str, kept: dict[str, Tensor]) -> Any:
    path, side = THEIRS[name]

    def keep(value: Tensor) -> None:
        kept[name] = value

    module = model.get_submodule(path)
    if side == "input":
        return module.register_forward_pre_hook(lambda _, given: keep(given[0]))
    return module.register_forward_hook(lambda _, given, returned: keep(returned))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str, attention: str) -> None:
    ours, theirs, inputs = twins(case, attention)
    names = HEAD_VALUES[type(ours)]
    reference: dict[str, Tensor] = {}
    for name in names:
        listen(theirs, name, reference)
    with record(ours, list(names)) as found:
        loss = ours(**inputs)[0]
    their_loss = theirs(**inputs)[0]
    gradients = torch.autograd.grad(loss, list(found.values()))
    expected = torch.autograd.grad(their_loss, [reference[name] for name in found])
    for name, ours_at, theirs_at in zip(found, gradients, expected, strict=True):
        assert torch.equal(found[name], reference[name]), name
        assert torch.equal(ours_at, theirs_at), name


def test_every_name_has_a_counterpart() -> None:
    assert {name for names in HEAD_VALUES.values() for name in names} == set(THEIRS)
    assert set(MASKED_LM) <= set(THEIRS)
