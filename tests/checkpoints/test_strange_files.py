"""Files as people have them: behind wrappers, half downloaded, of other formats, hostile. None is misread."""

import collections
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.checkpoint_files import IDS, accounts_for_all, rewrite
from support.examples import examples
from torch import Tensor, nn

from minibert import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel, SentenceEncoder
from minibert.checkpoints import layout, weights
from minibert.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    EmbedError,
    IgnoredSettingWarning,
    MinibertError,
    NewParametersWarning,
    StoreError,
)
from minibert.heads import model_class
from minibert.sentences.corpus import embed

SIZES = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    BertModel(BertConfig(**SIZES, initializer_range=0.5)).save_pretrained(tmp_path)
    return tmp_path


def outputs(model: BertModel) -> Tensor:
    return model(IDS).last_hidden_state


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["module.", "module.bert.", "_orig_mod.", "model.encoder.bert.", "0.auto_model.", "net."]
)
def test_names_behind_the_prefix_of_a_wrapper(folder: Path, prefix: str) -> None:
    expected = outputs(BertModel.from_pretrained(folder))
    rewrite(folder, lambda tensors: {f"{prefix}{name}": tensor for name, tensor in tensors.items()})
    model = BertModel.from_pretrained(folder)
    assert torch.equal(outputs(model), expected)
    assert repr(prefix.removesuffix("bert.")) in str(model.load_report)
    accounts_for_all(model, load_file(folder / layout.SAFETENSORS))
    assert model.load_report.source == str(folder / layout.SAFETENSORS)


@pytest.mark.parametrize("prefix", ["module.", "net.model."])
def test_a_wrapped_model_keeps_its_head(tmp_path: Path, prefix: str) -> None:
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(tmp_path)
    expected = BertForMaskedLM.from_pretrained(tmp_path)(IDS).logits
    rewrite(tmp_path, lambda tensors: {f"{prefix}{name}": tensor for name, tensor in tensors.items()})
    assert model_class(tmp_path) is BertForMaskedLM
    assert torch.equal(BertForMaskedLM.from_pretrained(tmp_path)(IDS).logits, expected)


def test_a_name_inside_and_outside_a_wrapper(folder: Path) -> None:
    """Two tensors for one parameter: a copy if they are equal, and otherwise nobody can say which is meant."""
    tensors = {f"module.{name}": tensor for name, tensor in load_file(folder / layout.SAFETENSORS).items()}
    tensors["pooler.dense.bias"] = tensors["module.pooler.dense.bias"]
    rewrite(folder, lambda _: tensors)
    accounts_for_all(BertModel.from_pretrained(folder), tensors)
    tensors["pooler.dense.bias"] = torch.ones(8)
    rewrite(folder, lambda _: tensors)
    with pytest.raises(CheckpointError, match=r"pooler\.dense\.bias are one parameter, but differ"):
        BertModel.from_pretrained(folder)


@pytest.mark.parametrize("prefix", ["roberta.", "module.roberta.", "electra.", "mpnet."])
def test_names_of_another_architecture(folder: Path, prefix: str) -> None:
    rewrite(folder, lambda tensors: {f"{prefix}{name}": tensor for name, tensor in tensors.items()})
    message = rf"no tensor has the name of one of a BERT\. The file has {prefix}.*needs embeddings\.word_embeddings"
    with pytest.raises(CheckpointError, match=message):
        BertModel.from_pretrained(folder)


def test_two_models_in_one_file(folder: Path) -> None:
    rewrite(
        folder, lambda tensors: {f"{side}.{name}": t for name, t in tensors.items() for side in ("student", "teacher")}
    )
    with pytest.raises(CheckpointError, match=r"The file has student\.\S+, student"):
        BertModel.from_pretrained(folder)


def test_an_adapter_that_was_not_merged(folder: Path) -> None:
    def with_adapter(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name = "encoder.layer.0.attention.self.query."
        tensors[f"{name}base_layer.weight"] = tensors.pop(f"{name}weight")
        tensors[f"{name}lora_A.default.weight"] = torch.zeros(2, 8)
        return tensors

    rewrite(folder, with_adapter)
    with pytest.raises(CheckpointError, match=r"is of an adapter: merge it first, with PEFT's merge_and_unload\(\)"):
        BertModel.from_pretrained(folder)


def test_a_tensor_of_a_wrong_shape_is_not_missing_as_well(folder: Path) -> None:
    rewrite(folder, lambda tensors: {**tensors, "pooler.dense.bias": torch.zeros(9)})
    with pytest.raises(CheckpointError) as error:
        BertModel.from_pretrained(folder)
    assert str(error.value).endswith("pooler.dense.bias must have shape (8,) by the config, got (9,)")


def test_the_decoder_is_the_copy_of_the_embeddings_and_not_the_other_way_round(folder: Path) -> None:
    table = load_file(folder / layout.SAFETENSORS)["embeddings.word_embeddings.weight"]
    rewrite(folder, lambda tensors: {"cls.predictions.decoder.weight": table, **tensors})
    with pytest.warns(NewParametersWarning):
        report = BertForMaskedLM.from_pretrained(folder).load_report
    status = {entry.name: entry.status for entry in report.tensors}
    assert status["embeddings.word_embeddings.weight"] == "renamed"  # the base model's name without its prefix
    assert status["cls.predictions.decoder.weight"] == "tied"
    status = {entry.name: entry.status for entry in BertModel.from_pretrained(folder).load_report.tensors}
    assert status["embeddings.word_embeddings.weight"] == "used"
    assert status["cls.predictions.decoder.weight"] == "tied"


def test_saving_what_is_not_in_the_table(folder: Path) -> None:
    model = BertForSequenceClassification(BertConfig(**SIZES))
    model.classifier = nn.Sequential(nn.Linear(8, 2))
    model.extra = nn.Linear(8, 8)
    model.save_pretrained(folder)
    names = set(load_file(folder / layout.SAFETENSORS))
    assert {"classifier.0.weight", "extra.bias", "bert.pooler.dense.weight"} <= names
    again = BertModel.from_pretrained(folder)
    assert torch.equal(again.pooler.dense.weight, model.bert.pooler.dense.weight)


def replace_query(model: BertModel, module: nn.Module) -> None:
    model.encoder.layers[0].attention.query = module


def replace_table(model: BertModel, table: Tensor) -> None:
    model.embeddings.word_embeddings.weight = nn.Parameter(table)


class Second(nn.Module):
    """A part whose name in a checkpoint is that of another parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.predictions = nn.Linear(8, 40)


NOT_SAVED: dict[str, tuple[Any, str]] = {
    "an adapter": (
        lambda model: replace_query(model.bert, nn.Sequential(nn.Linear(8, 8))),
        r"bert\.encoder\.layers\.0\.attention\.query\.0\.weight is not a parameter of a BERT.*merge the adapter",
    ),
    "a part of the embeddings": (
        lambda model: model.bert.embeddings.register_parameter("scale", nn.Parameter(torch.ones(1))),
        r"bert\.embeddings\.scale is not a parameter of a BERT",
    ),
    "a sparse table": (
        lambda model: replace_table(model.bert, torch.zeros(40, 8).to_sparse()),
        r"word_embeddings\.weight must be a dense tensor with values, got torch\.sparse_coo on cpu: save",
    ),
    "a model without values": (lambda model: model.to("meta"), "must be a dense tensor with values, got .* on meta"),
    "a name that is taken": (
        lambda model: setattr(model, "cls", Second()),
        r"cls\.predictions\.bias would be saved as cls\.predictions\.bias, as another parameter is: rename it",
    ),
}


@pytest.mark.parametrize("change,message", NOT_SAVED.values(), ids=NOT_SAVED)
def test_what_could_not_be_loaded_again_is_not_saved(folder: Path, change: Any, message: str) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    model = BertForMaskedLM(BertConfig(**SIZES))
    change(model)
    with pytest.raises(CheckpointError, match=message):
        model.save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_home_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    BertModel.from_pretrained(folder).save_pretrained("~/x")
    assert (tmp_path / "home/x/config.json").is_file()
    assert not Path("~").exists()
    assert BertConfig.from_json_file("~/x/config.json").hidden_size == 8
    for file in ("~nobody-of-this-name/x", 5):
        with pytest.raises(ConfigError, match=r"file must be the path of a config\.json, got"):
            BertConfig.from_json_file(file)
    with pytest.raises(StoreError, match="folder must be the path of a folder, got 5"):
        BertModel.from_pretrained(folder).save_pretrained(5)


# --- files that are something else -----------------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ELSE = {
    "Git LFS": (POINTER, "is a Git LFS pointer, not the file itself: run 'git lfs pull'"),
    "web page": (b"<!DOCTYPE html><html><body>Not found</body></html>", "is a web page, not the file itself"),
    "empty": (b"", "it is empty"),
    "text": (b"hello " * 40, "is damaged"),
    "zeros": (bytes(70_000), "is damaged"),
}


@pytest.mark.parametrize("name", [layout.SAFETENSORS, layout.PICKLE])
@pytest.mark.parametrize("content,message", ELSE.values(), ids=ELSE)
def test_weights_that_are_something_else(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / layout.SAFETENSORS).unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        BertModel.from_pretrained(folder)
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["bert_model.ckpt.index", "tf_model.h5", "flax_model.msgpack", "model.onnx", "model.gguf", "model.pt"]
)
def test_formats_that_are_not_read(folder: Path, name: str) -> None:
    (folder / layout.SAFETENSORS).rename(folder / name)
    with pytest.raises(CheckpointNotFoundError, match=f"{name} is in a format that minibert does not read"):
        BertModel.from_pretrained(folder)


def test_the_old_name_of_a_config(folder: Path) -> None:
    (folder / layout.CONFIG).rename(folder / layout.OLD_CONFIG)
    assert model_class(folder).from_pretrained(folder).config.hidden_size == 8
    edit(folder, layout.OLD_CONFIG, hidden_size=0)
    with pytest.raises(ConfigError, match=r"bert_config\.json: hidden_size must be"):
        BertModel.from_pretrained(folder)


def edit(folder: Path, name: str, **fields: Any) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize("special", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", [layout.CONFIG, layout.SAFETENSORS])
def test_files_that_never_end(folder: Path, special: str, name: str) -> None:
    file = folder / name
    file.unlink()
    {"pipe": lambda: os.mkfifo(file), "device": lambda: file.symlink_to("/dev/zero"), "folder": file.mkdir}[special]()
    with pytest.raises(MinibertError):
        BertModel.from_pretrained(folder)


class Takes:
    """A pickle of a few bytes that takes gigabytes, by a function that PyTorch's loader for weights runs."""

    def __reduce__(self) -> Any:
        return bytearray, (2_000_000_000,)


def nested(depth: int) -> Any:
    key: Any = ("k",) * 20
    for _ in range(depth):
        key = (key,) * 20
    return key


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content,message",
    [
        (Takes(), r"is refused: builtins\.bytearray|is refused: __builtin__\.bytearray"),
        ({"x": collections.Counter("a")}, r"is refused: collections\.Counter"),
        ({nested(5): torch.zeros(1)}, "must hold tensors by name"),
    ],
)
def test_pickles_that_ask_for_more_than_they_hold(folder: Path, content: Any, message: str, zipped: bool) -> None:
    (folder / layout.SAFETENSORS).unlink()
    torch.save(content, folder / layout.PICKLE, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=message) as error:
        BertModel.from_pretrained(folder)
    assert len(str(error.value)) < 1000


def test_a_compressed_archive_behind_zeros(folder: Path) -> None:
    """Python takes it for a zip file, PyTorch does not."""
    (folder / layout.SAFETENSORS).unlink()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("archive/data.pkl", pickle.dumps({"x": "y" * 10_000_000}))
    (folder / layout.PICKLE).write_bytes(bytes(65_536) + archive.getvalue())
    with pytest.raises(CheckpointError, match="is damaged"):
        BertModel.from_pretrained(folder)


def test_a_tensor_is_read_from_the_shard_that_the_index_gives_it_to(folder: Path) -> None:
    expected = outputs(BertModel.from_pretrained(folder))
    tensors = load_file(folder / layout.SAFETENSORS)
    (folder / layout.SAFETENSORS).unlink()
    names = sorted(tensors)
    weight_map = {name: f"model-0000{1 + (position > 8)}-of-00002.safetensors" for position, name in enumerate(names)}
    for shard in set(weight_map.values()):
        # Each file holds all names; those that the index gives to the other are zeros.
        content = {
            name: tensors[name] if weight_map[name] == shard else torch.zeros_like(tensors[name]) for name in names
        }
        save_file(content, folder / shard)
    (folder / f"{layout.SAFETENSORS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(outputs(BertModel.from_pretrained(folder)), expected)


def test_a_tensor_in_two_shards_that_the_index_does_not_name(folder: Path) -> None:
    tensors = load_file(folder / layout.SAFETENSORS)
    (folder / layout.SAFETENSORS).unlink()
    bias = tensors.pop("pooler.dense.bias")
    save_file({**tensors, "pooler.dense.bias": bias}, folder / "model-1.safetensors")
    save_file({"other": bias, "pooler.dense.bias": bias + 1}, folder / "model-2.safetensors")
    weight_map = {**dict.fromkeys(tensors, "model-1.safetensors"), "other": "model-2.safetensors"}
    (folder / f"{layout.SAFETENSORS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"has pooler\.dense\.bias in two files, and model\.safetensors\.index"):
        BertModel.from_pretrained(folder)


LONG = "x" * 100_000


@pytest.mark.parametrize("name", [LONG, f"encoder.{LONG}", f"module.{LONG}"])
def test_a_message_does_not_grow_with_a_name(folder: Path, name: str) -> None:
    tensors = load_file(folder / layout.SAFETENSORS)
    for content in ({**tensors, name: torch.zeros(1)}, {name: torch.zeros(1)}):
        save_file(content, folder / layout.SAFETENSORS)
        message = ""
        try:
            BertModel.from_pretrained(folder)
        except CheckpointError as error:
            message = str(error)
        assert len(message) < 2000


@pytest.mark.parametrize("shard", [LONG, f"{LONG}.safetensors", f"{'y' * 300}.safetensors", "model.safetensors"])
def test_an_index_with_long_names(folder: Path, shard: str) -> None:
    (folder / layout.SAFETENSORS).rename(folder / "model-1.safetensors")
    (folder / f"{layout.SAFETENSORS}.index.json").write_text(json.dumps({"weight_map": {LONG: shard}}))
    with pytest.raises(MinibertError) as error:
        BertModel.from_pretrained(folder)
    assert len(str(error.value)) < 1000


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["layer_norm_eps", "initializer_range"])
@pytest.mark.parametrize("value", ["1" + "0" * 400, "1e400", "-1", "NaN", "true", '"1"'])
def test_numbers_that_are_none(folder: Path, field: str, value: str) -> None:
    text = (folder / layout.CONFIG).read_text()
    old = f'"{field}": {json.loads(text)[field]}'
    (folder / layout.CONFIG).write_text(text.replace(old, f'"{field}": {value}'))
    with pytest.raises(ConfigError, match=f"{field} must be a finite non-negative number"):
        BertModel.from_pretrained(folder)


def test_an_argument_at_fault_is_not_the_files(folder: Path) -> None:
    assert BertModel.from_pretrained(folder, dtype=torch.float16).embeddings.norm.weight.dtype == torch.float16
    with pytest.raises(ConfigError, match=r"^dtype must be one of"):
        BertModel.from_pretrained(folder, dtype=torch.int8)
    assert BertModel.from_pretrained(folder, dtype=None).embeddings.norm.weight.dtype == torch.float32
    with pytest.raises(ConfigError, match=r"^attention must be one of eager, sdpa, got 'flash'"):
        BertModel.from_pretrained(folder, attention="flash")
    with pytest.raises(ConfigError, match=r"^hidden_act must be one of"):
        BertModel.from_pretrained(folder, hidden_act="gelo")
    with pytest.raises(ConfigError, match=r"^num_labels must be"):
        BertForSequenceClassification.from_pretrained(folder, num_labels=0)
    edit(folder, layout.CONFIG, hidden_size=0)
    with pytest.raises(ConfigError, match=r"config\.json: hidden_size must be"):
        BertModel.from_pretrained(folder, dtype="float32")


@pytest.mark.parametrize("field", ["output_hidden_states", "output_attentions"])
def test_a_setting_that_is_an_argument_here(folder: Path, field: str) -> None:
    edit(folder, layout.CONFIG, **{field: True})
    with pytest.warns(
        IgnoredSettingWarning, match=f"the config sets {field}, which has no effect here: pass {field}=True"
    ):
        BertModel.from_pretrained(folder)


# --- anything at all -------------------------------------------------------------------------------------------------

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
DTYPES += [torch.complex64, torch.float8_e4m3fn, torch.int8]
SHAPES = st.lists(st.integers(0, 9), max_size=3)
WRAPPERS = st.sampled_from(["", "", "bert.", "module.", "a.b.", "roberta.", "."])


@examples(60)
@given(
    changes=st.dictionaries(st.integers(0, 24), st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=3),
    renamed=st.dictionaries(st.integers(0, 24), st.text("abc._0LN", max_size=9), max_size=2),
    prefix=WRAPPERS,
)
def test_any_tensors(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[int, Any], renamed: dict[int, str], prefix: str
) -> None:
    """They load and every number is that of the file, or an error names what does not fit."""
    folder = tmp_path_factory.getbasetemp() / "any"
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SIZES))
    model.save_pretrained(folder)
    tensors = load_file(folder / layout.SAFETENSORS)
    names = sorted(tensors)
    for position, (dtype, shape) in changes.items():
        tensors[names[position % len(names)]] = torch.zeros(shape).to(dtype)
    for position, name in renamed.items():
        tensors[name] = tensors.pop(names[position % len(names)], torch.zeros(2))
    tensors = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / layout.SAFETENSORS)
    problem = ""
    try:
        loaded = BertModel.from_pretrained(folder)
    except MinibertError as error:
        problem = str(error)
    assert len(problem) < 2000
    if not problem:
        for name, parameter in loaded.named_parameters():
            assert parameter.shape == model.get_parameter(name).shape
            (entry,) = [entry for entry in loaded.load_report.tensors if entry.parameter == name]
            assert torch.equal(parameter, tensors[entry.name].to(parameter.dtype))


@examples(100)
@given(position=st.integers(0, 400), value=st.integers(0, 255), zipped=st.booleans())
def test_any_damaged_pickle(tmp_path_factory: pytest.TempPathFactory, position: int, value: int, zipped: bool) -> None:
    file = tmp_path_factory.getbasetemp() / layout.PICKLE
    torch.save({"x": torch.arange(4.0)}, file, _use_new_zipfile_serialization=zipped)
    content = bytearray(file.read_bytes())
    content[position % len(content)] = value
    file.write_bytes(content)
    try:
        tensors = weights.read_file(file)
    except MinibertError:
        return
    assert all(isinstance(tensor, Tensor) for tensor in tensors.values())


DENSE = [((0, 8), torch.float32), ((4,), torch.float32), ((8, 4), torch.float32), ((4, 8), torch.uint8)]
DENSE += [((4, 8), torch.bool), ((4, 8), torch.complex64), ((4, 8), torch.float8_e4m3fn)]


@pytest.mark.parametrize("shape,dtype", DENSE)
def test_dense_weights_that_are_none(
    checkpoint: Path, tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    encoder = SentenceEncoder.from_pretrained(checkpoint)
    encoder.save_pretrained(tmp_path)
    steps = json.loads((tmp_path / "modules.json").read_text())[:2]
    kind = "sentence_transformers.models.Dense"
    (tmp_path / "modules.json").write_text(
        json.dumps([*steps, {"idx": 2, "name": "2", "path": "2_Dense/", "type": kind}])
    )
    (tmp_path / "2_Dense").mkdir()
    sizes = {"in_features": 8, "out_features": shape[0], "bias": False}
    (tmp_path / "2_Dense/config.json").write_text(json.dumps(sizes))
    save_file({"linear.weight": torch.zeros(shape).to(dtype)}, tmp_path / "2_Dense/model.safetensors")
    with pytest.raises(CheckpointError, match=r"2_Dense/model\.safetensors(: linear\.weight)? must hold "):
        SentenceEncoder.from_pretrained(tmp_path)


def test_settings_that_change_no_vector(checkpoint: Path, tmp_path: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(checkpoint)
    encoder.save_pretrained(tmp_path)
    assert set(json.loads((tmp_path / "config_sentence_transformers.json").read_text())["__version__"]) == {
        "minibert",
        "pytorch",
    }
    edit(tmp_path, "config_sentence_transformers.json", requirements=["torch"])
    edit(tmp_path, "sentence_bert_config.json", unpad_inputs=True)
    text = (tmp_path / "modules.json").read_text()
    (tmp_path / "modules.json").write_text(text.replace("1_Pooling", "1_Pooling/"))
    again = SentenceEncoder.from_pretrained(tmp_path)
    assert torch.equal(again.encode("a fly"), encoder.encode("a fly"))


def test_headers_that_lie(folder: Path) -> None:
    """A safetensors header that promises more bytes than there are, or holds a name of a million characters."""
    for header in (
        {"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}},
        {"x" * 1_000_000: {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
    ):
        content = json.dumps(header).encode()
        (folder / layout.SAFETENSORS).write_bytes(struct.pack("<Q", len(content)) + content + bytes(4))
        with pytest.raises(CheckpointError, match="is damaged or not a safetensors file") as error:
            BertModel.from_pretrained(folder)
        assert len(str(error.value)) < 1000


def test_embed_takes_a_home_folder(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    embed(SentenceEncoder.from_pretrained(checkpoint), ["a fly"], "~/x.npy")
    assert (tmp_path / "x.npy").is_file()
    with pytest.raises(EmbedError, match="file must be the path of a file, got '~nobody-of"):
        embed(SentenceEncoder.from_pretrained(checkpoint), ["a fly"], "~nobody-of-this-name/x.npy")
