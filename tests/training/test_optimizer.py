"""The schedule and the groups of parameters, beside those of transformers."""

import itertools
import math

import pytest
import torch
import transformers
from support.heads import CASES, twins
from torch import nn

from minibert import BertConfig, BertModel
from minibert.training import learning_rate, parameter_groups
from minibert.training.optimizer import adamw


def transformers_rates(peak: float, warmup: int, steps: int) -> list[float]:
    """The rate with which each step is taken, of a run as transformers makes it."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, steps)
    rates = []
    for _ in range(steps):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("peak", [1e-4, 6e-4, 0.3])
@pytest.mark.parametrize("warmup, steps", [(0, 1), (0, 7), (1, 1), (1, 10), (3, 30), (10, 10), (100, 1000), (333, 999)])
def test_the_rate_is_that_of_transformers_at_every_step(peak: float, warmup: int, steps: int) -> None:
    ours = [learning_rate(step, peak=peak, warmup=warmup, steps=steps) for step in range(steps)]
    assert ours == transformers_rates(peak, warmup, steps)


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    rates = [learning_rate(step, peak=1.0, warmup=10, steps=30) for step in range(31)]
    assert rates[0] == 0
    assert rates[10] == 1
    assert rates[30] == 0
    assert all(before < after for before, after in itertools.pairwise(rates[:11]))
    assert all(before > after for before, after in itertools.pairwise(rates[10:]))
    assert learning_rate(40, peak=1.0, warmup=10, steps=30) == 0


@pytest.mark.parametrize("case", CASES)
def test_the_groups_are_those_of_transformers(case: str) -> None:
    """Of the same values: each parameter of a pair of twins has a different one."""
    ours, theirs, _ = twins(case, "eager")
    decaying = transformers.Trainer.get_decay_parameter_names(None, theirs)
    expected = dict(theirs.named_parameters())
    groups = parameter_groups(ours, 0.3)
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    found = [sorted(map(fingerprint, group["params"])) for group in groups]
    assert found == [
        sorted(fingerprint(each) for name, each in expected.items() if name in decaying),
        sorted(fingerprint(each) for name, each in expected.items() if name not in decaying),
    ]


def fingerprint(parameter: nn.Parameter) -> tuple[float, ...]:
    return tuple(parameter.detach().flatten().tolist())


def test_a_step_changes_the_same_weights_by_the_same_amount_as_transformers_groups() -> None:
    ours, theirs, inputs = twins("masked words", "eager")
    theirs.train(False).requires_grad_(True)
    decaying = transformers.Trainer.get_decay_parameter_names(None, theirs)
    names = dict(theirs.named_parameters())
    groups = [
        {"params": [each for name, each in names.items() if name in decaying], "weight_decay": 0.1},
        {"params": [each for name, each in names.items() if name not in decaying], "weight_decay": 0.0},
    ]
    their_optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98), eps=1e-6, fused=True)
    our_optimizer = adamw(ours.requires_grad_(True), weight_decay=0.1, betas=(0.9, 0.98), epsilon=1e-6)
    for group in our_optimizer.param_groups:
        group["lr"] = 0.01
    for model, optimizer in ((ours, our_optimizer), (theirs, their_optimizer)):
        model(**inputs).loss.backward()
        optimizer.step()
    changed = [sorted(map(fingerprint, model.parameters())) for model in (ours, theirs)]
    assert changed[0] == changed[1]


def test_every_parameter_is_in_one_group_and_frozen_ones_in_none() -> None:
    model = BertModel(BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=2, num_attention_heads=2))
    model.embeddings.requires_grad_(False)
    listed = [id(each) for group in parameter_groups(model) for each in group["params"]]
    assert sorted(listed) == sorted(id(each) for each in model.parameters() if each.requires_grad)
    assert len(listed) == len(set(listed))


def test_a_module_of_ones_own_is_sorted_as_well() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Embedding(4, 3))
    with_decay, without = (group["params"] for group in parameter_groups(model))
    assert [tuple(each.shape) for each in with_decay] == [(3, 2), (4, 3)]
    assert [tuple(each.shape) for each in without] == [(3,), (3,), (3,)]
    assert math.isclose(parameter_groups(model)[0]["weight_decay"], 0.01)
