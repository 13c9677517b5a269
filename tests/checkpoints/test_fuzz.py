"""A checkpoint is untrusted input: whatever is in it gives a model or one of our errors, soon and for little memory."""

import json
import shutil
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.examples import examples

from minibert import BertConfig, BertForPreTraining, BertModel, BertTokenizer
from minibert.checkpoints import layout
from minibert.config import CHOICES, FIELDS, SUPPORTED
from minibert.errors import MinibertError

TINY = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=6,
    max_position_embeddings=8,
)
many = examples(150, deadline=5000)  # milliseconds for one case

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([0, 1, 2, 10**30]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
choices = st.sampled_from([value for allowed in CHOICES.values() for value in allowed] + ["gelu", "relu", "bert"])
names = st.sampled_from([*FIELDS, *SUPPORTED, "torch_dtype", "architectures", "label2id"])
configs = st.dictionaries(names, json_values | choices, max_size=6)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    BertForPreTraining(TINY).save_pretrained(folder)
    tensors = load_file(folder / layout.SAFETENSORS)
    torch.save(tensors, folder / "zipped.bin")
    torch.save(tensors, folder / "old.bin", _use_new_zipfile_serialization=False)
    return folder


def peak_memory() -> int:
    """The most memory that this process has had since the last reset, in KiB, as Linux counts it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


@pytest.fixture(scope="module", autouse=True)
def little_memory() -> Iterator[None]:
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is used now
    before = peak_memory()
    yield
    assert peak_memory() - before < 300_000  # for thousands of cases


@pytest.fixture(scope="module")
def folder(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all cases: each replaces the file that it is about."""
    folder = tmp_path_factory.mktemp("fuzzed") / "checkpoint"
    shutil.copytree(original, folder)
    return folder


def load(folder: Path, kind: type[Any] = BertModel) -> bool:
    """Loads what is there, and uses it if it loads; True if it did."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = kind.from_pretrained(folder)
    except MinibertError:
        return False
    hidden = model(torch.tensor([[0, 0]])).last_hidden_state
    assert hidden.shape == (1, 2, model.config.hidden_size)
    return True


def damage(data: st.DataObject, content: bytes, start: int = 0) -> bytes:
    """Changes, inserts or deletes some bytes, or cuts off the end."""
    position = data.draw(st.integers(start, len(content) - 1))
    kind = data.draw(st.sampled_from(["change", "insert", "delete", "truncate"]))
    some = data.draw(st.binary(min_size=1, max_size=8))
    if kind == "change":
        return content[:position] + some + content[position + len(some) :]
    if kind == "insert":
        return content[:position] + some + content[position:]
    if kind == "delete":
        return content[:position] + content[position + len(some) :]
    return content[:position]


@many
@given(fields=configs)
def test_configs(folder: Path, original: Path, fields: dict[str, Any]) -> None:
    whole = json.loads((original / "config.json").read_text())
    for content in (fields, {**whole, **fields}):
        (folder / "config.json").write_text(json.dumps(content))
        load(folder)
    shutil.copy(original / "config.json", folder)


@many
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_configs_of_anything(folder: Path, original: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    load(folder)
    shutil.copy(original / "config.json", folder)


@many
@given(data=st.data())
def test_safetensors(folder: Path, original: Path, data: st.DataObject) -> None:
    content = (original / layout.SAFETENSORS).read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    at_the_front = damage(data, content[:header]) + content[header:]
    (folder / layout.SAFETENSORS).write_bytes(data.draw(st.sampled_from([at_the_front, damage(data, content)])))
    load(folder)
    shutil.copy(original / layout.SAFETENSORS, folder)


@many
@given(
    fields=st.dictionaries(
        st.sampled_from(["BertModel", "__metadata__", "pooler.dense.weight", "x"]),
        json_values
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "I64", "F8_E4M3", "Z9"]),
                "shape": st.lists(st.integers(0, 2**62), max_size=3),
                "data_offsets": st.lists(st.integers(0, 2**62), min_size=2, max_size=2),
            }
        ),
    ),
    body=st.binary(max_size=64),
)
def test_safetensors_headers(folder: Path, original: Path, fields: dict[str, Any], body: bytes) -> None:
    header = json.dumps(fields).encode()
    (folder / layout.SAFETENSORS).write_bytes(struct.pack("<Q", len(header)) + header + body)
    assert not load(folder)
    shutil.copy(original / layout.SAFETENSORS, folder)


@pytest.mark.parametrize("name", ["zipped.bin", "old.bin"])
@many
@given(data=st.data())
def test_pickles(folder: Path, original: Path, name: str, data: st.DataObject) -> None:
    (folder / layout.SAFETENSORS).unlink(missing_ok=True)
    (folder / layout.PICKLE).write_bytes(damage(data, (original / name).read_bytes()))
    load(folder)
    (folder / layout.PICKLE).unlink()
    shutil.copy(original / layout.SAFETENSORS, folder)


@many
@given(content=json_values | st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(max_size=5), json_values)}))
def test_indices(folder: Path, original: Path, content: Any) -> None:
    (folder / layout.SAFETENSORS).unlink(missing_ok=True)
    (folder / f"{layout.SAFETENSORS}.index.json").write_text(json.dumps(content))
    assert not load(folder)
    (folder / f"{layout.SAFETENSORS}.index.json").unlink()
    shutil.copy(original / layout.SAFETENSORS, folder)


SETTINGS = ["do_lower_case", "strip_accents", "never_split", "pad_token", "model_max_length"]
SPECIAL = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"


@many
@given(
    before=st.binary(max_size=30) | st.text(max_size=30).map(str.encode),
    after=st.text(max_size=60).map(str.encode),
    config=json_values
    | st.dictionaries(st.sampled_from([*SETTINGS, "added_tokens_decoder", "additional_special_tokens"]), json_values),
    text=st.text(max_size=20),
)
def test_vocabularies(folder: Path, before: bytes, after: bytes, config: Any, text: str) -> None:
    (folder / "vocab.txt").write_bytes(before + b"\n" + SPECIAL.encode() + after)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    try:
        tokenizer = BertTokenizer.from_pretrained(folder)
        tokenizer.decode(tokenizer(text, truncation=True)["input_ids"][0])
    except MinibertError:
        pass


@many
@given(data=st.data())
def test_tokenizer_files(folder: Path, checkpoint: Path, data: st.DataObject) -> None:
    whole = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    whole["model"]["vocab"] = dict(list(whole["model"]["vocab"].items())[:110])
    content = json.dumps(whole).encode()
    (folder / "tokenizer.json").write_bytes(damage(data, content))
    try:
        tokenizer = BertTokenizer.from_pretrained(folder)
        tokenizer.decode(tokenizer("[unused1] and others")["input_ids"][0])
    except MinibertError:
        pass
    (folder / "tokenizer.json").unlink()
