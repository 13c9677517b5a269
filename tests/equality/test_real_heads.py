"""Real checkpoints with heads: BERTs for chemical reactions, from old pickles, in three naming schemes."""

from pathlib import Path

import pytest
import torch
import transformers
from support.reactions import REACTION, encode
from torch import nn

import minibert
from minibert import BertForMaskedLM, BertForSequenceClassification
from minibert.checkpoints import weights


def copy_parameters(model: nn.Module) -> None:
    """Puts the numbers at addresses that are aligned alike: the two loaders read old pickles to different ones."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "folder,name",
    [
        ("bert_pretrained", "BertForPreTraining"),
        ("bert_pretrained", "BertForMaskedLM"),
        ("bert_pretrained", "BertForNextSentencePrediction"),
        ("bert_pretrained", "BertModel"),
        ("bert_ft", "BertModel"),
        ("bert_ft_10k_25s", "BertForSequenceClassification"),
        ("bert_ft_10k_25s", "BertModel"),
    ],
)
@torch.no_grad()
def test_equal_to_transformers(reactions: Path, folder: str, name: str, attention: str) -> None:
    ours = getattr(minibert, name).from_pretrained(reactions / folder, attention=attention)
    theirs = getattr(transformers, name).from_pretrained(reactions / folder, attn_implementation=attention)
    copy_parameters(ours)
    copy_parameters(theirs)
    ids = encode(reactions / folder, REACTION)
    batch = torch.cat([ids, ids.roll(3), ids.flip(1)])
    mask = torch.ones_like(batch)
    mask[1, 60:] = 0
    for inputs in ((ids, torch.ones_like(ids)), (batch, mask)):
        a, b = ours(*inputs, output_hidden_states=True), theirs(*inputs, output_hidden_states=True)
        for x, y in zip(a.hidden_states, b.hidden_states, strict=True):
            assert torch.equal(x, y)
        for field in set(a._fields) - {"hidden_states", "attentions", "loss"}:
            assert torch.equal(getattr(a, field), getattr(b, field)), field


def test_the_report_accounts_for_every_tensor(reactions: Path) -> None:
    expected = {
        ("bert_pretrained", "BertForPreTraining"): {"used": 206, "tied": 1},
        ("bert_pretrained", "BertModel"): {"renamed": 199, "ignored": 7, "tied": 1},
        ("bert_ft", "BertModel"): {"used": 199},
        ("bert_ft_10k_25s", "BertForSequenceClassification"): {"used": 201},
        ("bert_ft_10k_25s", "BertModel"): {"renamed": 199, "ignored": 2},
    }
    for (folder, name), counts in expected.items():
        model = getattr(minibert, name).from_pretrained(reactions / folder)
        report = model.load_report
        assert {status: len(report.with_status(status)) for status in counts} == counts
        assert sorted(story.name for story in report.tensors) == sorted(weights.read(reactions / folder)[1])
        assert {story.parameter for story in report.tensors if story.parameter} == set(dict(model.named_parameters()))


def test_masked_tokens_of_a_reaction_are_recovered(reactions: Path) -> None:
    """Each of 103 tokens masked on its own: the published figure is 98 right."""
    ids = encode(reactions / "bert_pretrained", REACTION)
    count = ids.shape[1] - 2
    masked = ids.repeat(count, 1)
    places = torch.arange(count)
    vocabulary = (reactions / "bert_pretrained" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    masked[places, places + 1] = vocabulary.index("[MASK]")
    with torch.no_grad():
        logits = BertForMaskedLM.from_pretrained(reactions / "bert_pretrained")(masked).logits
    guesses = logits[places, places + 1].argmax(dim=-1)
    assert count == 103
    assert (guesses == ids[0, 1:-1]).sum() == 98


def test_the_classifier_knows_fifty_classes(reactions: Path) -> None:
    """Its config names two labels and counts fifty; the count is right, and the reaction falls into one class."""
    model = BertForSequenceClassification.from_pretrained(reactions / "bert_ft_10k_25s")
    assert model.config.num_labels == len(model.config.id2label) == 50
    with torch.no_grad():
        chances = model(encode(reactions / "bert_ft_10k_25s", REACTION)).logits.softmax(dim=-1)
    assert chances.shape == (1, 50)
    assert chances.max() > 0.9
