import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from minibert import BertConfig, BertModel
from minibert.errors import CheckpointNotFoundError, ConfigError


def test_defaults_are_those_of_bert_base() -> None:
    theirs = transformers.BertConfig()
    fields = BertConfig().to_dict()
    assert fields.pop("position_embedding_type") == "absolute"  # a field that transformers 5 no longer has
    for field, value in fields.items():
        assert getattr(theirs, field) == value, field


def test_missing_fields_take_the_defaults_and_unknown_ones_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"hidden_size": 128, "num_attention_heads": 2, "pooler_fc_size": 768}))
    assert BertConfig.from_json_file(file) == BertConfig(hidden_size=128, num_attention_heads=2)


def test_written_and_read_again() -> None:
    config = BertConfig(vocab_size=9, hidden_act="relu", pad_token_id=None)
    assert BertConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_labels() -> None:
    assert BertConfig().id2label == ("LABEL_0", "LABEL_1")
    assert BertConfig(num_labels=3).id2label == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert BertConfig(id2label=("PER", "LOC", "O")).num_labels == 3
    assert BertConfig(id2label={1: "B", 0: "A"}).id2label == ("A", "B")
    assert BertConfig.from_dict({"id2label": {"1": "B", "0": "A"}}).id2label == ("A", "B")
    assert BertConfig.from_dict({"id2label": None}).num_labels == 2
    # In old files the count may be newer than the names; transformers goes by the count, too.
    old = {"num_labels": 4, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    assert BertConfig.from_dict(old).num_labels == transformers.BertConfig(**old).num_labels == 4
    with pytest.raises(ConfigError, match="num_labels must be 2, the number of names in id2label, got 4"):
        BertConfig(num_labels=4, id2label=("A", "B"))


def test_changes_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"id2label": {"0": "A", "1": "B"}}))
    assert BertConfig.from_json_file(file, num_labels=5, hidden_dropout_prob=0).num_labels == 5
    assert BertConfig.from_json_file(file, id2label=("x", "y", "z")).num_labels == 3
    file.write_text(json.dumps({"id2label": {"0": 7, "1": 8}, "num_labels": 2}))
    assert BertConfig.from_json_file(file).id2label == ("7", "8")
    assert BertConfig.from_json_file(file, id2label=("x", "y", "z")).id2label == ("x", "y", "z")
    with pytest.raises(
        ConfigError, match=r"must be one of vocab_size, hidden_size, .*, got \'num_lables\': did you mean num_labels\?"
    ):
        BertConfig.from_json_file(file, num_lables=5)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"hidden_size": 30, "num_attention_heads": 3, "type_vocab_size": 4},
        {"position_embedding_type": "relative_key_query"},
    ],
)
def test_parameter_count(sizes: dict[str, Any]) -> None:
    config = BertConfig(vocab_size=40, num_hidden_layers=2, **sizes)
    assert config.parameter_count == sum(parameter.numel() for parameter in BertModel(config).parameters())


def test_summary() -> None:
    assert BertConfig().summary().splitlines() == [
        "BERT: 12 layers, hidden size 768, 12 heads of size 64, feed-forward size 3072 (gelu)",
        "30,522 tokens in the vocabulary, at most 512 in a sequence, 2 segments",
    ]


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"model_type": "roberta"}, "model_type must be 'bert', got 'roberta': minibert does not compute that network"),
        ({"is_decoder": True}, "is_decoder must be False, got True"),
        ({"add_cross_attention": True}, "add_cross_attention must be False, got True"),
        (
            {"position_embedding_type": "rotary"},
            "position_embedding_type must be one of absolute, relative_key, relative_key_query, got 'rotary'",
        ),
        ({"problem_type": "ranking"}, "problem_type must be one of None, regression, "),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be one of True, False, got 'yes'"),
        ({"classifier_dropout": 2}, "classifier_dropout must be a number from 0 to 1, got 2"),
        ({"num_labels": 0}, "num_labels must be an integer from 1 to 100,000, got 0"),
        ({"id2label": {"0": "A", "2": "C"}}, "id2label must name the classes 0, 1, 2, … without a gap"),
        ({"id2label": {"zero": "A"}}, "id2label must name the classes"),
        ({"id2label": [1.5, None]}, "id2label must name the classes"),
        (
            {"pruned_heads": {"12": [1]}},
            "pruned_heads must be a mapping from layers below 12 to lists of heads below 12",
        ),
        ({"pruned_heads": {"0": [12]}}, "got {'0': [12]}"),
        ({"pruned_heads": [3]}, "got [3]"),
        ({"pruned_heads": {"0": [1.0]}}, "got {'0': [1.0]}"),
        ({"pruned_heads": {"0": "1"}}, "got {'0': '1'}"),
        ({"pruned_heads": {"0": [-1]}}, "got {'0': [-1]}"),
        ({"pruned_heads": {"1": list(range(12))}}, "pruned_heads must leave each layer a head, got none in layer 1"),
        ({"num_attention_heads": 5}, "hidden_size must be divisible by num_attention_heads, got 768 and 5"),
        ({"hidden_size": 0}, "hidden_size must be an integer from 1 to 65,536, got 0"),
        ({"hidden_size": 768.0}, "hidden_size must be an integer from 1 to 65,536, got 768.0"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be an integer"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be an integer from 1 to 1,000"),
        ({"hidden_size": 65_536, "num_attention_heads": 1}, "parameters, over the limit of 10,000,000,000"),
        ({"pad_token_id": 30_522}, "pad_token_id must be an integer from 0 to 30,521, got 30522"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob must be a number from 0 to 1, got 1.5"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps must be a finite non-negative number, got 'small'"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be a finite non-negative number, got nan"),
        ({"hidden_act": 3}, "hidden_act must be the name of an activation, got 3"),
    ],
)
def test_a_config_of_a_different_network_is_refused_by_name(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(fields))
    with pytest.raises(ConfigError) as error:
        BertConfig.from_json_file(file)
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "content,message",
    [
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe", "must be UTF-8 text"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[1]", "holds a JSON list, not an object"),
    ],
)
def test_a_file_that_is_not_a_json_object(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        BertConfig.from_json_file(file)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"config\.json does not exist"):
        BertConfig.from_json_file(tmp_path / "config.json")


def test_unknown_activations_and_attentions() -> None:
    tiny = {"vocab_size": 9, "hidden_size": 4, "num_attention_heads": 2, "num_hidden_layers": 1}
    with pytest.raises(ConfigError, match=r"hidden_act must be one of gelu, .*, got \'gleu\': did you mean gelu\?"):
        BertModel(BertConfig(**tiny, hidden_act="gleu"))
    with pytest.raises(ConfigError, match="attention must be one of eager, sdpa, got 'flash'"):
        BertModel(BertConfig(**tiny), attention="flash")


@pytest.mark.parametrize("layer", [0.7, math.inf, True, None])
def test_a_layer_is_an_integer(layer: Any) -> None:
    with pytest.raises(ConfigError, match="pruned_heads must be a mapping from layers below 12"):
        BertConfig(pruned_heads={layer: [1]})


def test_pruned_heads_in_any_form() -> None:
    """A tuple in order; null means none, one layer may be there twice, and NumPy's integers become Python's."""
    assert BertConfig.from_dict({"pruned_heads": None}).pruned_heads == BertConfig(pruned_heads=[]).pruned_heads == ()
    config = BertConfig(pruned_heads={"3": [5, 2, 5], 0: np.array([1]), 3: [0], 4: []})
    assert config.pruned_heads == ((0, (1,)), (3, (0, 2, 5)))
    assert BertConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(config) != hash(BertConfig())
