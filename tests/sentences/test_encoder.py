"""`SentenceEncoder` against sentence-transformers: to the last bit in equal batches, to 1e-6 in any other."""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from support.examples import examples
from support.texts import SIX
from torch import nn

from minibert import BertTokenizer, SentenceEncoder, mean_pool
from minibert.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    InputError,
    MinibertError,
    PoolingError,
    StoreError,
    TextError,
    TextTypeError,
    TokenizerError,
    TruncationWarning,
)
from minibert.sentences.recipe import Recipe

MIXED = [" ".join(SIX[: number % 6 + 1])[number % 11 : 12 * number] for number in range(3, 60, 2)]


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> SentenceTransformer:
    return SentenceTransformer(str(checkpoint), device="cpu")


def same_batch(ours: SentenceEncoder, theirs: SentenceTransformer, texts: list[str] = SIX, prompt: str = "") -> None:
    """Both, on one batch."""
    features = theirs.preprocess(texts, prompt=prompt or None)
    with torch.inference_mode():
        expected = theirs(dict(features))["sentence_embedding"]
        inputs = ours.tokenizer([prompt + text for text in texts], truncation=True, max_length=ours.max_seq_length)
        for name, tensor in inputs.items():
            assert torch.equal(tensor, features[name]), name
        length = 0 if ours.recipe.include_prompt else features.get("prompt_length", 0)
        assert torch.equal(ours(**inputs, prompt_length=length), expected)


def test_equal_to_sentence_transformers(encoder, theirs) -> None:
    same_batch(encoder, theirs)
    same_batch(encoder, theirs, MIXED)
    same_batch(encoder, theirs, [SIX[0] * 40, "short"])  # cut at 256 tokens


def test_the_six_sentences(encoder, theirs) -> None:
    """Masked mean, normalised, and their cosines to the first, in one call each; then by hand."""
    vectors, expected = encoder.encode(SIX), theirs.encode(SIX, convert_to_tensor=True)
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)
    readable = SentenceEncoder(encoder.model, encoder.tokenizer, encoder.recipe, fast=False).eval()
    assert torch.equal(readable.encode(SIX), expected)
    row = encoder.similarity(vectors[0], vectors[1:])
    torch.testing.assert_close(row, torch.tensor([[0.2206, 0.4764, 0.0548, 0.3407, 0.2274]]), atol=1e-4, rtol=0)
    inputs = encoder.tokenizer(SIX)
    hidden = encoder.model(**inputs).last_hidden_state
    by_hand = nn.functional.normalize(mean_pool(hidden, inputs["attention_mask"]))
    torch.testing.assert_close(vectors, by_hand, atol=1e-6, rtol=0)


def test_published_numbers(encoder) -> None:
    published = torch.tensor([-0.034478, 0.031023, 0.006735, 0.026109, -0.039362])
    torch.testing.assert_close(encoder.encode("hello world")[:5], published, atol=1e-6, rtol=0)


@examples(6)
@given(order=st.permutations(range(len(MIXED))), batch_tokens=st.integers(1, 3000))
def test_any_batching_is_within_a_millionth(encoder, theirs, order: list[int], batch_tokens: int) -> None:
    if not hasattr(test_any_batching_is_within_a_millionth, "expected"):
        test_any_batching_is_within_a_millionth.expected = theirs.encode(MIXED, convert_to_tensor=True)
    expected = test_any_batching_is_within_a_millionth.expected
    vectors = encoder.encode([MIXED[number] for number in order], batch_tokens=batch_tokens)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, expected[order], atol=1e-6, rtol=0)


def test_forms_of_texts(encoder) -> None:
    vectors = encoder.encode(SIX)
    assert vectors.shape == (6, 384)
    assert not vectors.is_inference()  # a classifier can be trained on them
    assert encoder.encode(SIX[0]).shape == (384,)
    assert encoder.encode([]).shape == (0, 384)
    for texts in (tuple(SIX), iter(SIX), dict.fromkeys(SIX)):
        assert torch.equal(encoder.encode(texts), vectors)


def test_a_stream_is_read_window_by_window(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibert.sentences.encoder.WINDOW", 7)
    encoder = SentenceEncoder.from_pretrained(small)
    taken = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield f"line {number} " + "and so on " * (number % 5)

    sizes = []
    for vectors in encoder.encode_stream(lines()):
        sizes.append(len(vectors))
        assert taken <= sum(sizes) + 1
    assert sizes == [7, 7, 7, 7, 7, 5]
    torch.testing.assert_close(encoder.encode(lines()), torch.cat([encoder.encode(line)[None] for line in lines()]))
    with pytest.raises(TextError, match="text 9 has nothing to encode: ''"):
        encoder.encode(["a"] * 9 + [""])
    with pytest.raises(TextTypeError, match="text 8 must be a string, not list"):
        encoder.encode(["a"] * 8 + [["a"]])


def test_long_texts_are_cut_and_counted(encoder) -> None:
    with pytest.warns(TruncationWarning, match="2 of 3 texts are longer than 256 tokens and were cut") as caught:
        vectors = encoder.encode(["so " * 254 + "far", "so " * 300, "so"])
    assert caught[0].filename == __file__
    with pytest.warns(TruncationWarning):
        assert torch.equal(vectors[0], encoder.encode("so " * 255))
    assert encoder.encode("so " * 254).shape == (384,)


def test_progress(encoder, capsys: pytest.CaptureFixture) -> None:
    encoder.encode(SIX)
    assert capsys.readouterr() == ("", "")  # no terminal
    encoder.encode(SIX, show_progress_bar=True)
    assert "6/6" in capsys.readouterr().err
    encoder.encode(iter(SIX), show_progress_bar=True)
    assert "6 texts" in capsys.readouterr().err


MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
RECIPES: dict[str, list[Callable[[], nn.Module]]] = {
    **{mode: [lambda mode=mode: Pooling(24, mode)] for mode in MODES},
    "two poolings": [lambda: Pooling(24, ("cls", "mean"))],
    "two in another order": [lambda: Pooling(24, ("lasttoken", "max", "cls"))],
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
    # Read back: what they hold in memory has other addresses than what is read from a file.
    same_batch(ours, SentenceTransformer(str(tmp_path / "theirs"), device="cpu"))
    ours.save_pretrained(tmp_path / "ours")
    again = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    same_batch(ours, again)
    same_batch(SentenceEncoder.from_pretrained(tmp_path / "ours"), again)
    assert again.similarity_fn_name == "dot"
    left, right = ours.encode(SIX[:2]), ours.encode(SIX[2:])
    torch.testing.assert_close(ours.similarity(left, right), again.similarity(left, right))


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "weightedmean"])
def test_prompts(small: Path, tmp_path: Path, include_prompt: bool, mode: str) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    modules = [Transformer(str(small)), Pooling(24, mode, include_prompt=include_prompt)]
    theirs = SentenceTransformer(modules=modules, device="cpu", prompts=prompts, default_prompt_name="passage")
    theirs.save(str(tmp_path))
    theirs, ours = SentenceTransformer(str(tmp_path), device="cpu"), SentenceEncoder.from_pretrained(tmp_path)
    same_batch(ours, theirs, prompt="a prompt of some length: ")
    for options in ({}, {"prompt_name": "query"}, {"prompt": "to whom it concerns, "}, {"prompt": ""}):
        expected = theirs.encode(SIX, convert_to_tensor=True, **options)
        torch.testing.assert_close(ours.encode(SIX, **options), expected, atol=3e-6, rtol=1e-5)
    ours.save_pretrained(tmp_path / "ours")
    saved = dataclasses.replace(ours.recipe, max_seq_length=512)
    assert SentenceEncoder.from_pretrained(tmp_path / "ours").recipe == saved
    # A search puts each side's prompt before it.
    vectors = ours.encode(SIX, prompt_name="passage")
    scores = ours.similarity(ours.encode("the fish", prompt_name="query"), vectors)[0]
    expected = [(number, pytest.approx(scores[number].item())) for number in scores.argsort(descending=True).tolist()]
    assert ours.search("the fish", SIX, top_k=6) == expected
    assert ours.search("the fish", vectors, top_k=6) == expected


def test_settings_of_the_transformer(small: Path, tmp_path: Path) -> None:
    """A length of its own, and lower case before a cased vocabulary."""
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


def test_a_plain_bert(small: Path, tmp_path: Path) -> None:
    """With the mean, or a pooling of your choice."""
    assert SentenceEncoder.from_pretrained(small).recipe == Recipe()
    for pooling in ("max", ["mean", "cls"]):
        ours = SentenceEncoder.from_pretrained(small, pooling=pooling)
        theirs = SentenceTransformer(modules=[Transformer(str(small)), Pooling(24, pooling)], device="cpu")
        same_batch(ours, theirs)


def test_a_layer_of_your_choice(checkpoint: Path, encoder, tmp_path: Path) -> None:
    inputs = encoder.tokenizer(SIX)
    states = encoder.model(**inputs, output_hidden_states=True).hidden_states
    for layer, number in ((2, 2), (-3, 4)):
        ours = SentenceEncoder.from_pretrained(checkpoint, layer=layer)
        expected = nn.functional.normalize(mean_pool(states[number], inputs["attention_mask"]))
        assert torch.equal(ours(**inputs), expected)
    ours.save_pretrained(tmp_path)
    same_batch(ours, SentenceTransformer(str(tmp_path), device="cpu"))


def test_another_pooling_keeps_the_other_steps(checkpoint: Path) -> None:
    assert SentenceEncoder.from_pretrained(checkpoint, pooling="cls").encode(SIX).norm(dim=1).allclose(torch.ones(6))


def test_normalize_embeddings(small: Path) -> None:
    ours = SentenceEncoder.from_pretrained(small)
    expected = nn.functional.normalize(ours.encode(SIX))
    assert torch.equal(ours.encode(SIX, normalize_embeddings=True), expected)


def test_half_precision(small: Path) -> None:
    ours = SentenceEncoder.from_pretrained(small)
    expected = ours.encode(SIX)
    vectors = ours.bfloat16().encode(SIX)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, expected, atol=0.1, rtol=0.1)


def test_search(encoder) -> None:
    """The search engine of nine documents, its queries and their answers."""
    documents = [
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "The girl is carrying a baby.",
        "A man is riding a horse.",
        "A woman is playing violin.",
        "Two men pushed carts through the woods.",
        "A man is riding a white horse on an enclosed ground.",
        "A monkey is playing drums.",
        "A cheetah is running behind its prey.",
    ]
    queries = [
        "A man is eating a pasta",
        "Someone in a gorilla costume is playing a set of drums.",
        "A cheetah chases prey on across a field.",
    ]
    found = encoder.search(queries, documents, top_k=2)
    assert [[hit.corpus_id for hit in hits] for hits in found] == [[0, 1], [7, 4], [8, 0]]
    one = encoder.search(queries[1], documents, top_k=1)
    assert one[0].corpus_id == 7
    assert one[0].score == pytest.approx(0.6433, abs=1e-4)


def test_tokenizer_saved(tmp_path: Path, small: Path, checkpoint: Path) -> None:
    """As transformers reads it, cased and uncased."""
    for source in (small, checkpoint):
        ours = BertTokenizer.from_pretrained(source)
        ours.save_pretrained(tmp_path / source.name)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / source.name)
        text = "Ünder the Straße, 日本 [MASK] fly"
        assert theirs(text)["input_ids"] == ours(text)["input_ids"][0].tolist()
        assert theirs.model_max_length == ours.model_max_length == 512
        assert theirs.pad_token_id == 0
        assert BertTokenizer.from_pretrained(tmp_path / source.name)(text).tokens() == ours(text).tokens()


def edit(folder: Path, file: str, **changes: object) -> None:
    fields = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**fields, **changes}))


def steps(folder: Path, *kinds: str, path: str | None = None) -> None:
    modules = [
        {"path": ["", "1_Pooling", path or "2_Dense"][number], "type": f"sentence_transformers.models.{kind}"}
        for number, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))


DENSE = "2_Dense/config.json"
MISTAKES: dict[str, tuple[Callable[[Path], object], type[MinibertError], str]] = {
    "a step that is not known": (
        lambda folder: steps(folder, "Transformer", "Pooling", "LSTM"),
        ConfigError,
        "has the steps Transformer, Pooling, LSTM: what can be read is",
    ),
    "no pooling": (lambda folder: steps(folder, "Transformer"), ConfigError, "has the steps Transformer: what"),
    "out of the folder": (
        lambda folder: steps(folder, "Transformer", "Pooling", "Dense", path="../elsewhere"),
        ConfigError,
        "the path '../elsewhere' of a step is no folder beside it",
    ),
    "no step": (lambda folder: (folder / "modules.json").write_text("[]"), ConfigError, "lists no steps"),
    "no list": (lambda folder: (folder / "modules.json").write_text("{}"), ConfigError, "a JSON list of objects"),
    "no type": (
        lambda folder: (folder / "modules.json").write_text("[{}]"),
        ConfigError,
        "must have a type and a path",
    ),
    "no pooling file": (
        lambda folder: shutil.rmtree(folder / "1_Pooling"),
        CheckpointNotFoundError,
        "1_Pooling/config.json does not exist",
    ),
    "pooling that is not known": (
        lambda folder: edit(folder, "1_Pooling/config.json", pooling_mode="median"),
        ConfigError,
        "pooling 'median' is not one of cls, max, mean",
    ),
    "pooling of numbers": (
        lambda folder: edit(folder, "1_Pooling/config.json", pooling_mode=[1]),
        ConfigError,
        "pooling must be one or more of",
    ),
    "activation that is not known": (
        lambda folder: edit(folder, DENSE, activation_function="torch.nn.modules.activation.Mish"),
        ConfigError,
        "2_Dense/config.json: activation_function 'Mish' is not one of Identity, Tanh",
    ),
    "activation from elsewhere": (
        lambda folder: edit(folder, DENSE, activation_function="os.Tanh"),
        ConfigError,
        "activation_function 'os.Tanh' is not one of",
    ),
    "a residual": (
        lambda folder: edit(folder, DENSE, use_residual=True),
        ConfigError,
        "use_residual is True, and only",
    ),
    "sizes of another step": (
        lambda folder: edit(folder, DENSE, in_features=25),
        CheckpointError,
        r"asks for a Dense step of \[5, 25\]",
    ),
    "no weights": (
        lambda folder: (folder / "2_Dense" / "model.safetensors").unlink(),
        CheckpointNotFoundError,
        "2_Dense has no weights: neither model.safetensors nor pytorch_model.bin",
    ),
    "damaged weights": (
        lambda folder: (folder / "2_Dense" / "model.safetensors").write_bytes(b"junk"),
        CheckpointError,
        "is damaged or no safetensors file",
    ),
    "widths that do not follow": (
        lambda folder: edit(folder, "1_Pooling/config.json", pooling_mode=["mean", "cls"]),
        ConfigError,
        "a Dense step takes vectors of 24 numbers, and gets 48",
    ),
    "a length that cannot be": (
        lambda folder: edit(folder, "sentence_bert_config.json", max_seq_length="long"),
        ConfigError,
        "max_seq_length must be a whole number from 3, not 'long'",
    ),
    "prompts that are none": (
        lambda folder: edit(folder, "config_sentence_transformers.json", prompts={"query": 3}),
        ConfigError,
        "prompts must be texts by their names",
    ),
    "a default that is not there": (
        lambda folder: edit(folder, "config_sentence_transformers.json", default_prompt_name="q"),
        ConfigError,
        r"default_prompt_name is 'q', and prompts has \['query', 'document'\]",
    ),
    "a score that is not known": (
        lambda folder: edit(folder, "config_sentence_transformers.json", similarity_fn_name="angle"),
        ConfigError,
        "similarity_fn_name 'angle' is not one of cosine, dot, euclidean, manhattan",
    ),
    "code of its own": (
        lambda folder: (folder / "modules.json").write_text('[{"path": "", "type": "custom_st.Transformer"}]'),
        ConfigError,
        "the step custom_st.Transformer is code of the checkpoint's own, which is never run",
    ),
    "an adapter": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        ConfigError,
        "has an adapter, adapter_config.json: merge it into the weights first",
    ),
    "another output of Dense": (
        lambda folder: edit(folder, DENSE, module_output_name="other"),
        ConfigError,
        "module_output_name is 'other', and only 'sentence_embedding' is supported",
    ),
    "a setting that is not known": (
        lambda folder: edit(folder, "1_Pooling/config.json", pooling_mode_attention=True),
        ConfigError,
        r"1_Pooling/config.json: the setting pooling_mode_attention \(True\) is not supported",
    ),
    "settings for the tokenizer": (
        lambda folder: edit(folder, "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 5}}),
        ConfigError,
        "processing_kwargs is .* and only {} is supported",
    ),
    "cut dimensions": (
        lambda folder: edit(folder, "config_sentence_transformers.json", truncate_dim=4),
        ConfigError,
        "truncate_dim is 4, and only None is supported",
    ),
    "another kind of encoder": (
        lambda folder: edit(folder, "config_sentence_transformers.json", model_type="SparseEncoder"),
        ConfigError,
        "model_type is 'SparseEncoder', and only 'SentenceTransformer' is supported",
    ),
    "cut at the start": (
        lambda folder: edit(folder, "tokenizer_config.json", truncation_side="left"),
        TokenizerError,
        "truncation_side in tokenizer_config.json must be 'right'",
    ),
    "other special tokens": (
        lambda folder: edit(folder, "tokenizer_config.json", cls_token="[MASK]"),
        TokenizerError,
        r"cls_token in tokenizer_config.json is '\[MASK\]', and only '\[CLS\]' is supported",
    ),
    "a prompt out of the weights": (
        lambda folder: edit(folder, "1_Pooling/config.json", pooling_mode="weightedmean", include_prompt=False),
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


def test_a_normalize_of_something_else(small: Path, tmp_path: Path) -> None:
    SentenceTransformer(modules=[Transformer(str(small)), Pooling(24), Normalize()], device="cpu").save(str(tmp_path))
    SentenceEncoder.from_pretrained(tmp_path)
    edit(tmp_path, "2_Normalize/config.json", module_input_name="token_embeddings")
    with pytest.raises(ConfigError, match="module_input_name is 'token_embeddings', and only 'sentence_embedding'"):
        SentenceEncoder.from_pretrained(tmp_path)


def test_a_length_above_that_of_the_tokenizer(small: Path, tmp_path: Path) -> None:
    """The encoder's own settings win, and the model's positions over both."""
    SentenceTransformer(modules=[Transformer(str(small)), Pooling(24)], device="cpu").save(str(tmp_path))
    edit(tmp_path, "tokenizer_config.json", model_max_length=8)
    (tmp_path / "sentence_roberta_config.json").write_text('{"max_seq_length": 12}')
    (tmp_path / "sentence_bert_config.json").unlink()
    ours, theirs = SentenceEncoder.from_pretrained(tmp_path), SentenceTransformer(str(tmp_path), device="cpu")
    assert ours.max_seq_length == theirs.max_seq_length == 12
    expected = theirs.encode(SIX, convert_to_tensor=True)
    with pytest.warns(TruncationWarning):
        torch.testing.assert_close(ours.encode(SIX), expected, atol=3e-6, rtol=1e-5)
    (tmp_path / "sentence_roberta_config.json").write_text('{"max_seq_length": 5000}')
    assert SentenceEncoder.from_pretrained(tmp_path).max_seq_length == 512


def test_a_half_model_with_a_whole_dense(small: Path, tmp_path: Path) -> None:
    SentenceTransformer(modules=[Transformer(str(small)), Pooling(24), Dense(24, 5)], device="cpu").save(str(tmp_path))
    edit(tmp_path, "config.json", dtype="bfloat16")
    assert SentenceEncoder.from_pretrained(tmp_path).encode(SIX).shape == (6, 5)


def test_the_fingerprint_is_of_all_that_decides(small: Path, tmp_path: Path) -> None:
    SentenceTransformer(modules=[Transformer(str(small)), Pooling(24), Dense(24, 5)], device="cpu").save(str(tmp_path))

    def fingerprint() -> str:
        return SentenceEncoder.from_pretrained(tmp_path).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    seen = {first}
    edit(tmp_path, DENSE, activation_function="torch.nn.modules.activation.ReLU")
    seen.add(fingerprint())
    edit(tmp_path, "1_Pooling/config.json", pooling_mode="max")
    seen.add(fingerprint())
    edit(tmp_path, "sentence_bert_config.json", max_seq_length=9)
    seen.add(fingerprint())
    edit(tmp_path, "tokenizer_config.json", do_lower_case=True)
    seen.add(fingerprint())
    edit(tmp_path, "config.json", layer_norm_eps=0.1)
    seen.add(fingerprint())
    encoder = SentenceEncoder.from_pretrained(tmp_path)
    encoder.after[0].linear.bias.data[2] += 1
    seen.add(encoder.fingerprint())
    assert len(seen) == 7


def test_mistakes_in_calls(small: Path, encoder, tmp_path: Path) -> None:
    for layer in (0, 7, -7, 1.5, True):
        with pytest.raises(ConfigError, match=f"layer is {layer}, and must be from 1 to 2, or from -2 to -1"):
            SentenceEncoder.from_pretrained(small, layer=layer)
    with pytest.raises(ConfigError, match="pooling 'avg' is not one of cls, max"):
        SentenceEncoder.from_pretrained(small, pooling="avg")
    for texts, message in (
        (7, "texts must be a list .* not int"),
        (b"x", "not bytes"),
        ([b"x"], "text 0 must be a string"),
    ):
        with pytest.raises(TextTypeError, match=message):
            encoder.encode(texts)
    with pytest.raises(TextError, match="there is no prompt 'passage'; this checkpoint has query, document"):
        encoder.encode("fly", prompt_name="passage")
    with pytest.raises(TextTypeError, match="give a prompt, which is a string, or a prompt_name, and not both"):
        encoder.encode("fly", prompt_name="query", prompt="query: ")
    with pytest.raises(TextError, match="text 1 has nothing to encode: ' '"):
        encoder.encode(["fly", " "], prompt="query: ")
    with pytest.raises(TextError, match="batch_tokens is 0, and must be a whole number from 1"):
        encoder.encode("fly", batch_tokens=0)
    with pytest.raises(TextTypeError, match="the corpus must be a list of texts, or their vectors"):
        encoder.search("fly", "a text")
    with pytest.raises(PoolingError, match="a must be a tensor, not str"):
        encoder.similarity("fly", "a text")
    with pytest.raises(InputError, match=r"in training mode, .* call \.eval\(\)"):
        SentenceEncoder.from_pretrained(small).train().encode("fly")
    with pytest.raises(InputError, match="is made of a BertModel and a BertTokenizer, not of NoneType and BertTok"):
        SentenceEncoder(None, encoder.tokenizer)
    with pytest.raises(ConfigError, match="after must hold Dense and Normalize steps"):
        SentenceEncoder(encoder.model, encoder.tokenizer, Recipe(after=(nn.Tanh(),)))
    for length in (2, 513, None, True):
        with pytest.raises(ConfigError, match="max_seq_length must be a whole number from 3 to the model's 512"):
            encoder.max_seq_length = length
    prompted = SentenceEncoder(encoder.model, encoder.tokenizer, Recipe(include_prompt=False, max_seq_length=5))
    with pytest.raises(TextError, match="the prompt has 5 tokens, and max_seq_length is 5: no text fits"):
        prompted.eval().encode("fly", prompt="to be or not")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot save to the folder"):
        encoder.save_pretrained(tmp_path / "file")


def test_saving_leaves_nothing_beside(small: Path, tmp_path: Path) -> None:
    SentenceEncoder.from_pretrained(small).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1_Pooling",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert len({path.stat().st_mode for path in itertools.filterfalse(Path.is_dir, tmp_path.iterdir())}) == 1
