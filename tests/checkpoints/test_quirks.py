"""The configs and tensors of the public checkpoints, row by row, in files of their shape: equal to transformers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.checkpoint_files import IDS, MASK, accounts_for_all, gamma_and_beta, no_prefix
from torch import Tensor

import minibert
from minibert import BertForSequenceClassification, BertForTokenClassification
from minibert.checkpoints import layout

Tensors = dict[str, Tensor]
POOLER_FIELDS = {
    "directionality": "bidi",
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36}


def without_pooler(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if "pooler" not in name}


def bare_without_pooler(tensors: Tensors) -> Tensors:
    return no_prefix(without_pooler(tensors))


def bare_in_half(tensors: Tensors) -> Tensors:
    return {name: tensor.half() for name, tensor in no_prefix(tensors).items()}


# The class, fields of the config that the file has, those that it lacks, and how the tensors are stored.
ROWS: dict[str, tuple[str, dict, tuple[str, ...], Callable[[Tensors], Tensors]]] = {
    "bert-base-uncased": ("BertForPreTraining", {}, (), gamma_and_beta),
    "multilingual": ("BertForPreTraining", {**POOLER_FIELDS, "vocab_size": 119_547}, (), dict),
    "chinese": ("BertForPreTraining", {**POOLER_FIELDS, "vocab_size": 21_128}, (), dict),
    "bert_uncased_L-2_H-128_A-2": (
        "BertForPreTraining",
        {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512},
        ("model_type", "layer_norm_eps", "pad_token_id", "id2label", "label2id", "tie_word_embeddings"),
        dict,
    ),
    "bge and gte": ("BertModel", {"torch_dtype": "float16", "id2label": {"0": "LABEL_0"}}, ("dtype",), bare_in_half),
    "arctic-embed": ("BertModel", {}, (), bare_without_pooler),
    "LaBSE": ("BertModel", {"vocab_size": 501_153, "directionality": "bidi"}, (), no_prefix),
    "ms-marco-MiniLM": (
        "BertForSequenceClassification",
        {"id2label": {"0": "LABEL_0"}, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        (),
        dict,
    ),
    "SciBERT": ("BertModel", {"vocab_size": 31_090}, ("model_type", "layer_norm_eps", "pad_token_id"), dict),
    "BioBERT": ("BertModel", {"vocab_size": 31_116}, ("model_type", "layer_norm_eps", "pad_token_id"), dict),
    "e5": ("BertModel", {}, (), no_prefix),
    "FinBERT": (
        "BertForSequenceClassification",
        {"vocab_size": 30_873, "id2label": {"0": "positive", "1": "negative", "2": "neutral"}},
        ("layer_norm_eps", "pad_token_id"),
        dict,
    ),
    "bert-base-NER": (
        "BertForTokenClassification",
        {"vocab_size": 28_996, "id2label": {str(number): f"TAG-{number}" for number in range(9)}, "num_labels": 9},
        (),
        without_pooler,
    ),
}


@pytest.mark.parametrize("row", ROWS)
@torch.no_grad()
def test_equal_to_transformers(row: str, tmp_path: Path) -> None:
    name, has, lacks, stored = ROWS[row]
    known = {field: value for field, value in has.items() if field not in ("torch_dtype", "num_labels")}
    torch.manual_seed(0)
    theirs = getattr(transformers, name)(transformers.BertConfig(**{**SIZES, **known})).eval()
    for key, parameter in theirs.named_parameters():
        parameter.data = (1 if key.endswith("LayerNorm.weight") else 0) + 0.3 * torch.randn(parameter.shape)
    theirs.save_pretrained(tmp_path)
    fields = {**json.loads((tmp_path / "config.json").read_text()), **has}
    (tmp_path / "config.json").write_text(json.dumps({key: fields[key] for key in fields if key not in lacks}))
    tensors = stored(load_file(tmp_path / layout.SAFETENSORS))
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / layout.SAFETENSORS)

    ours = getattr(minibert, name).from_pretrained(tmp_path)
    accounts_for_all(ours, tensors)
    theirs = theirs.to(next(ours.parameters()).dtype)
    for parameter in (*ours.parameters(), *theirs.parameters()):
        parameter.data = parameter.data.clone()
    a, b = ours(IDS, MASK), theirs(IDS, MASK)
    for field in a._fields:
        if getattr(a, field) is not None:
            assert torch.equal(getattr(a, field), getattr(b, field)), field


def test_labels_come_with_the_checkpoint(tmp_path: Path) -> None:
    for row, kind in (("FinBERT", BertForSequenceClassification), ("bert-base-NER", BertForTokenClassification)):
        test_equal_to_transformers(row, tmp_path)
        labels = kind.from_pretrained(tmp_path).config.id2label
        assert labels == tuple(ROWS[row][1]["id2label"].values())
