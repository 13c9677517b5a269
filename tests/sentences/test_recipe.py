"""Which of sentence-transformers' files are read and written as they mean, and which are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from support.sentences import edit_json, same_batch
from support.texts import SIX
from torch import nn

from minibert import SentenceEncoder
from minibert.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    MinibertError,
    TokenizerError,
    TruncationWarning,
)
from minibert.sentences.recipe import Recipe, check_recipe
from minibert.vectors.pooling import POOLING

RECIPES: dict[str, list[Callable[[], nn.Module]]] = {
    **{mode: [lambda mode=mode: Pooling(24, mode)] for mode in POOLING},
    "two poolings": [lambda: Pooling(24, ("cls", "mean"))],
    "two in a different order": [lambda: Pooling(24, ("lasttoken", "max", "cls"))],
    "normalised": [lambda: Pooling(24, "cls"), Normalize],
    "as LaBSE": [lambda: Pooling(24, "cls"), lambda: Dense(24, 24), Normalize],
    "two dense, no bias": [
        lambda: Pooling(24, ("mean", "max")),
        lambda: Dense(48, 12, bias=False, activation_function=nn.Identity()),
        lambda: Dense(12, 30, activation_function=nn.GELU()),
    ],
    **{
        kind.__name__: [lambda: Pooling(24, "mean"), lambda kind=kind: Dense(24, 5, activation_function=kind())]
        for kind in (nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Tanh)
    },
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_of_sentence_transformers(small: Path, tmp_path: Path, recipe: str) -> None:
    """Written by them and read by us; then written by us and read by them."""
    torch.manual_seed(1)
    modules = [Transformer(str(small)), *(make() for make in RECIPES[recipe])]
    theirs = SentenceTransformer(modules=modules, device="cpu", similarity_fn_name="dot").eval()
    theirs.save(str(tmp_path / "theirs"))
    ours = SentenceEncoder.from_pretrained(tmp_path / "theirs")
    assert ours.dimension == theirs.get_embedding_dimension()
    # Read back: in memory, their tensors are aligned differently from those read from a file.
    same_batch(ours, SentenceTransformer(str(tmp_path / "theirs"), device="cpu"))
    ours.save_pretrained(tmp_path / "ours")
    again = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    same_batch(ours, again)
    same_batch(SentenceEncoder.from_pretrained(tmp_path / "ours"), again)
    assert again.similarity_fn_name == "dot"
    left, right = ours.encode(SIX[:2]), ours.encode(SIX[2:])
    torch.testing.assert_close(ours.similarity(left, right), again.similarity(left, right))


def test_settings_of_the_transformer(small: Path, tmp_path: Path) -> None:
    """A maximum length, and lower case for a cased vocabulary."""
    SentenceTransformer(modules=[Transformer(str(small)), Pooling(24)], device="cpu").save(str(tmp_path))
    file = tmp_path / "sentence_bert_config.json"
    file.write_text(json.dumps({"max_seq_length": 7, "do_lower_case": True}))
    ours, theirs = SentenceEncoder.from_pretrained(tmp_path), SentenceTransformer(str(tmp_path), device="cpu")
    assert ours.max_seq_length == theirs.max_seq_length == 7
    same_batch(ours, theirs, ["THE Fish dreamed", *SIX])
    ours.max_seq_length = 9
    with pytest.warns(TruncationWarning, match="5 of 5 texts are longer than 9 tokens"):
        ours.encode(SIX[:5])
    ours.save_pretrained(tmp_path / "ours")
    again = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    assert again.max_seq_length == 9
    same_batch(ours, again, ["THE Fish dreamed", *SIX])


def test_an_old_checkpoint_with_its_bert_in_a_folder(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "0_BERT")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 24}')
    steps = [("0_BERT", "sentence_transformers.models.BERT"), ("1_Pooling", "sentence_transformers.models.Pooling")]
    modules = [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (path, kind) in enumerate(steps)]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    ours, plain = SentenceEncoder.from_pretrained(tmp_path), SentenceEncoder.from_pretrained(small)
    assert torch.equal(ours.encode(SIX), plain.encode(SIX))


def write_steps(folder: Path, *kinds: str, path: str | None = None) -> None:
    """Writes a `modules.json` with these steps; `path` is the folder of the third."""
    modules = [
        {"path": ["", "1_Pooling", path or "2_Dense"][number], "type": f"sentence_transformers.models.{kind}"}
        for number, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))


DENSE = "2_Dense/config.json"
# What is wrong → how to make it so, the error, and its message.
MISTAKES: dict[str, tuple[Callable[[Path], object], type[MinibertError], str]] = {
    "an unknown step": (
        lambda folder: write_steps(folder, "Transformer", "Pooling", "LSTM"),
        ConfigError,
        "has the steps Transformer, Pooling, LSTM: minibert supports Transformer, Pooling",
    ),
    "no pooling": (
        lambda folder: write_steps(folder, "Transformer"),
        ConfigError,
        "has the steps Transformer: minibert supports",
    ),
    "a path out of the folder": (
        lambda folder: write_steps(folder, "Transformer", "Pooling", "Dense", path="../elsewhere"),
        ConfigError,
        "the path of a step must be a folder beside this file, got '../elsewhere'",
    ),
    "no steps": (lambda folder: (folder / "modules.json").write_text("[]"), ConfigError, "lists no steps"),
    "an object, not a list": (
        lambda folder: (folder / "modules.json").write_text("{}"),
        ConfigError,
        "a JSON list of objects",
    ),
    "a step without a type": (
        lambda folder: (folder / "modules.json").write_text("[{}]"),
        ConfigError,
        "a step must have a type and a path, got {}",
    ),
    "no pooling file": (
        lambda folder: shutil.rmtree(folder / "1_Pooling"),
        CheckpointNotFoundError,
        "1_Pooling/config.json does not exist",
    ),
    "an unknown pooling": (
        lambda folder: edit_json(folder / "1_Pooling/config.json", pooling_mode="median"),
        ConfigError,
        "pooling must be one of cls, max, mean, .* got 'median'",
    ),
    "a number for a pooling": (
        lambda folder: edit_json(folder / "1_Pooling/config.json", pooling_mode=[1]),
        ConfigError,
        "pooling must be one or more of",
    ),
    "an unknown activation": (
        lambda folder: edit_json(folder / DENSE, activation_function="torch.nn.modules.activation.Mish"),
        ConfigError,
        "2_Dense/config.json: activation_function must be one of Identity, Tanh, .* got 'Mish'",
    ),
    "an activation of another package": (
        lambda folder: edit_json(folder / DENSE, activation_function="os.Tanh"),
        ConfigError,
        "activation_function must be one of .* got 'os.Tanh'",
    ),
    "a residual connection": (
        lambda folder: edit_json(folder / DENSE, use_residual=True),
        ConfigError,
        "use_residual is True, and only",
    ),
    "a value that cannot be hashed": (
        lambda folder: edit_json(folder / DENSE, use_residual={}),
        ConfigError,
        "use_residual is {}, and only False is supported",
    ),
    "an activation without a package": (
        lambda folder: edit_json(folder / DENSE, activation_function="Tanh"),
        ConfigError,
        "activation_function must be one of",
    ),
    "sizes that are not those of the weights": (
        lambda folder: edit_json(folder / DENSE, in_features=25),
        CheckpointError,
        r"must hold \{'linear.weight': \(5, 25\), 'linear.bias': \(5,\)\} by .*config\.json, got",
    ),
    "no weights": (
        lambda folder: (folder / "2_Dense" / "model.safetensors").unlink(),
        CheckpointNotFoundError,
        "2_Dense has no weights: neither model.safetensors nor pytorch_model.bin",
    ),
    "damaged weights": (
        lambda folder: (folder / "2_Dense" / "model.safetensors").write_bytes(b"junk"),
        CheckpointError,
        "is damaged or not a safetensors file",
    ),
    "a step that does not fit its input": (
        lambda folder: edit_json(folder / "1_Pooling/config.json", pooling_mode=["mean", "cls"]),
        ConfigError,
        "a Dense step takes vectors of 24 numbers, got 48",
    ),
    "an invalid length": (
        lambda folder: edit_json(folder / "sentence_bert_config.json", max_seq_length="long"),
        ConfigError,
        "max_seq_length must be an integer of at least 3, got 'long'",
    ),
    "invalid prompts": (
        lambda folder: edit_json(folder / "config_sentence_transformers.json", prompts={"query": 3}),
        ConfigError,
        "prompts must be texts by name, got",
    ),
    "an unknown default prompt": (
        lambda folder: edit_json(folder / "config_sentence_transformers.json", default_prompt_name="q"),
        ConfigError,
        r"default_prompt_name must be a name in prompts, \['query', 'document'\], got 'q'",
    ),
    "an unknown score": (
        lambda folder: edit_json(folder / "config_sentence_transformers.json", similarity_fn_name="angle"),
        ConfigError,
        "similarity_fn_name must be one of cosine, dot, euclidean, manhattan, got 'angle'",
    ),
    "the checkpoint's own code": (
        lambda folder: (folder / "modules.json").write_text('[{"path": "", "type": "custom_st.Transformer"}]'),
        ConfigError,
        "the step custom_st.Transformer is the checkpoint's own code, which minibert never runs",
    ),
    "an adapter": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        ConfigError,
        "has an adapter, adapter_config.json: merge it into the weights first",
    ),
    "a different output of Dense": (
        lambda folder: edit_json(folder / DENSE, module_output_name="other"),
        ConfigError,
        "module_output_name is 'other', and only 'sentence_embedding' is supported",
    ),
    "an unknown setting": (
        lambda folder: edit_json(folder / "1_Pooling/config.json", pooling_mode_attention=True),
        ConfigError,
        r"1_Pooling/config.json: the setting pooling_mode_attention \(True\) is not supported",
    ),
    "settings for the tokenizer": (
        lambda folder: edit_json(folder / "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 5}}),
        ConfigError,
        "processing_kwargs is .* and only {} is supported",
    ),
    "truncated vectors": (
        lambda folder: edit_json(folder / "config_sentence_transformers.json", truncate_dim=4),
        ConfigError,
        "truncate_dim is 4, and only None is supported",
    ),
    "a different kind of encoder": (
        lambda folder: edit_json(folder / "config_sentence_transformers.json", model_type="SparseEncoder"),
        ConfigError,
        "model_type is 'SparseEncoder', and only 'SentenceTransformer' is supported",
    ),
    "different special tokens": (
        lambda folder: edit_json(
            folder / "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=False, cls_token="[MASK]"
        ),
        TokenizerError,
        r"cls_token in the tokenizer's settings must be '\[CLS\]', got '\[MASK\]'",
    ),
    "a weighted mean without the prompt": (
        lambda folder: edit_json(folder / "1_Pooling/config.json", pooling_mode="weightedmean", include_prompt=False),
        ConfigError,
        "a weighted mean without the prompt's tokens .* is not supported",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_folders_that_are_refused(small: Path, tmp_path: Path, mistake: str) -> None:
    modules = [Transformer(str(small)), Pooling(24), Dense(24, 5)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path))
    SentenceEncoder.from_pretrained(tmp_path)
    damage, error, message = MISTAKES[mistake]
    damage(tmp_path)
    with pytest.raises(error, match=message):
        SentenceEncoder.from_pretrained(tmp_path)


def test_a_final_step_of_an_unknown_kind() -> None:
    with pytest.raises(ConfigError, match="final_steps must be Dense and Normalize steps, got"):
        check_recipe(Recipe(final_steps=(nn.Tanh(),)))


def test_a_normalize_of_something_else(small: Path, tmp_path: Path) -> None:
    SentenceTransformer(modules=[Transformer(str(small)), Pooling(24), Normalize()], device="cpu").save(str(tmp_path))
    SentenceEncoder.from_pretrained(tmp_path)
    edit_json(tmp_path / "2_Normalize/config.json", module_input_name="token_embeddings")
    with pytest.raises(ConfigError, match="module_input_name is 'token_embeddings', and only 'sentence_embedding'"):
        SentenceEncoder.from_pretrained(tmp_path)


def test_a_length_above_that_of_the_tokenizer(small: Path, tmp_path: Path) -> None:
    """The encoder's own settings win, and the model's positions over both."""
    SentenceTransformer(modules=[Transformer(str(small)), Pooling(24)], device="cpu").save(str(tmp_path))
    edit_json(tmp_path / "tokenizer_config.json", model_max_length=8)
    (tmp_path / "sentence_roberta_config.json").write_text('{"max_seq_length": 12}')
    (tmp_path / "sentence_bert_config.json").unlink()
    ours, theirs = SentenceEncoder.from_pretrained(tmp_path), SentenceTransformer(str(tmp_path), device="cpu")
    assert ours.max_seq_length == theirs.max_seq_length == 12
    expected = theirs.encode(SIX, convert_to_tensor=True)
    with pytest.warns(TruncationWarning):
        torch.testing.assert_close(ours.encode(SIX), expected, atol=3e-6, rtol=1e-5)
    (tmp_path / "sentence_roberta_config.json").write_text('{"max_seq_length": 5000}')
    assert SentenceEncoder.from_pretrained(tmp_path).max_seq_length == 512
