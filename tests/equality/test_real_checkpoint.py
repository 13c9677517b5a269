"""all-MiniLM-L6-v2, the real weights: every hidden state, attention map and pooler output, bit for bit."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
from support.checkpoint_files import accounts_for_all
from support.texts import SIX

from minibert import BertModel, BertTokenizer, mean_pool
from minibert.checkpoints import weights
from minibert.checkpoints.names import checkpoint_name

BATCHES: dict[str, dict] = {
    "single": {"text": SIX[0]},
    "padded": {"text": SIX},
    "padded left": {"text": SIX, "padding_side": "left"},
    "pairs": {"text": SIX[:3], "text_pair": SIX[3:]},
    "as long as it goes": {"text": ["fly " * 600, SIX[1]], "truncation": True},
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_equal_to_transformers(checkpoint: Path, tokenizer: BertTokenizer, attention: str) -> None:
    ours = BertModel.from_pretrained(checkpoint, attention=attention)
    theirs = transformers.BertModel.from_pretrained(checkpoint, attn_implementation=attention)
    maps = attention == "eager"  # transformers has none under sdpa
    for batch, arguments in BATCHES.items():
        inputs = tokenizer(**arguments)
        a = ours(**inputs, output_hidden_states=True, output_attentions=maps)
        b = theirs(**inputs, output_hidden_states=True, output_attentions=maps)
        assert len(a.hidden_states) == 7
        for layer, (x, y) in enumerate(zip(a.hidden_states, b.hidden_states, strict=True)):
            assert torch.equal(x, y), f"{batch}: hidden state {layer}"
        if maps:
            assert len(a.attentions) == 6
            for layer, (x, y) in enumerate(zip(a.attentions, b.attentions, strict=True)):
                assert torch.equal(x, y), f"{batch}: attention map {layer}"
        assert torch.equal(a.last_hidden_state, a.hidden_states[-1])
        assert torch.equal(a.last_hidden_state, b.last_hidden_state), batch
        assert torch.equal(a.pooler_output, b.pooler_output), f"{batch}: pooler"


def test_the_report_accounts_for_every_tensor(checkpoint: Path) -> None:
    model = BertModel.from_pretrained(checkpoint)
    accounts_for_all(model, weights.read(checkpoint)[1])
    counts = Counter(story.status for story in model.load_report.tensors)
    assert counts == {"used": 103, "ignored": 1}


def test_hello_world(checkpoint: Path, tokenizer: BertTokenizer) -> None:
    """The published vector: the first five values of the normalised mean, within one unit of the last printed digit.

    (In float64 the first is -0.0344773, so what was published had not been rounded to the nearest.)
    """
    inputs = tokenizer("hello world")
    with torch.no_grad():
        vector = mean_pool(BertModel.from_pretrained(checkpoint)(**inputs).last_hidden_state, inputs["attention_mask"])
    published = torch.tensor([-0.034478, 0.031023, 0.006735, 0.026109, -0.039362])
    torch.testing.assert_close((vector / vector.norm())[0, :5], published, rtol=0, atol=1e-6)


def test_published_tokens(tokenizer: BertTokenizer) -> None:
    ids = tokenizer("Hello, how are you?")["input_ids"]
    assert ids.tolist() == [[101, 7592, 1010, 2129, 2024, 2017, 1029, 102]]
    assert tokenizer(SIX)["attention_mask"].sum(dim=1).tolist() == [15, 22, 15, 16, 12, 14]


def test_without_the_mask_padding_counts(checkpoint: Path, tokenizer: BertTokenizer) -> None:
    """The mask is never guessed: leaving it out is another computation, not the same one."""
    model, inputs = BertModel.from_pretrained(checkpoint), tokenizer(SIX)
    with torch.no_grad():
        masked = model(**inputs).last_hidden_state
        unmasked = model(inputs["input_ids"]).last_hidden_state
    assert (masked - unmasked).abs().max() > 0.1


def test_saved_and_loaded_by_both(checkpoint: Path, tokenizer: BertTokenizer, tmp_path: Path) -> None:
    original = BertModel.from_pretrained(checkpoint)
    original.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    ours = BertModel.from_pretrained(tmp_path)
    theirs, report = transformers.BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert ours.config == dataclasses.replace(original.config, dtype="float32")
    their_tensors = theirs.state_dict()
    for name, parameter in original.named_parameters():
        assert torch.equal(parameter, ours.get_parameter(name))
        assert torch.equal(parameter, their_tensors[checkpoint_name(name)])
    inputs = tokenizer(SIX)
    with torch.no_grad():
        a, b = ours(**inputs), theirs(**inputs)
    assert torch.equal(a.last_hidden_state, b.last_hidden_state)
    assert torch.equal(a.pooler_output, b.pooler_output)


def test_the_mode_is_evaluation_and_the_file_is_safe_from_training(checkpoint: Path, tmp_path: Path) -> None:
    """The parameters are the mapped file; a training step must reach them and not it."""
    source = BertModel.from_pretrained(checkpoint)
    source.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    model = BertModel.from_pretrained(tmp_path)
    assert not any(module.training for module in model.modules())
    model.train()
    model(torch.tensor([[101, 7592, 102]])).pooler_output.sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert not torch.equal(model.pooler.dense.weight, source.pooler.dense.weight)
    model.save_pretrained(tmp_path)  # over the file that is mapped
    assert torch.equal(BertModel.from_pretrained(tmp_path).pooler.dense.weight, model.pooler.dense.weight)
    source.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
