"""What goes wrong on a corpus's way through a model is said of the right thing, and costs no window that was done."""

import gc
import os
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import random_model

from minibert import BertModel, BertTokenizer
from minibert.checkpoints import store
from minibert.errors import InputError, StoreError, TextTypeError
from minibert.interpret import texts as texts_module
from minibert.interpret.stores import Store, save_values
from minibert.interpret.surveys import survey

TEXTS = ["There was a fly, drinking from my soup!", "A fly.", "soup", "a b c d e f g"]


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return BertTokenizer.from_pretrained(store.DEFAULT)


@pytest.fixture
def model(tokenizer: BertTokenizer) -> BertModel:
    return random_model(vocab_size=len(tokenizer), max_position_embeddings=32)


def run(kind: str, model: BertModel, tokenizer: BertTokenizer, texts: Any, folder: Any, **options: Any) -> Any:
    if kind == "survey":
        return survey(model, tokenizer, texts, folder=folder, **options)
    return save_values(model, tokenizer, texts, "last_hidden_state", folder, **options)


both = pytest.mark.parametrize("kind", ["survey", "store"])


@both
@pytest.mark.parametrize("texts", ["a text", 5, None])
def test_a_single_thing_for_texts(
    kind: str, texts: Any, model: BertModel, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    """The characters of a text are not taken for texts, and nothing is made."""
    with pytest.raises(InputError, match="texts must be a list of texts, or a generator of them, got"):
        run(kind, model, tokenizer, texts, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@both
def test_something_that_is_not_a_text_among_those_that_are_done(
    kind: str, model: BertModel, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    run(kind, model, tokenizer, TEXTS, tmp_path)
    with pytest.raises(TextTypeError, match="text 1 must be a string, got 5"):
        run(kind, model, tokenizer, [TEXTS[0], 5], tmp_path)


@both
def test_an_error_of_the_texts_is_theirs(
    kind: str, model: BertModel, tokenizer: BertTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus that cannot be read is not reported as a folder that cannot be written; what is done is kept."""
    monkeypatch.setattr(texts_module, "WINDOW", 2)

    def texts() -> Iterator[str]:
        yield from TEXTS[:3]
        Path("/nowhere/corpus.txt").read_text()

    with pytest.raises(FileNotFoundError, match=r"/nowhere/corpus\.txt") as caught:
        run(kind, model, tokenizer, texts(), tmp_path)
    assert not isinstance(caught.value, StoreError)
    forwards = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    run(kind, model, tokenizer, TEXTS, tmp_path, batch_tokens=1024)
    assert len(forwards) == 1  # the window of texts 0 and 1 was done


@both
def test_a_disk_that_is_full(
    kind: str, model: BertModel, tokenizer: BertTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"cannot write .*safetensors: .* No space left"):
            run(kind, model, tokenizer, TEXTS, tmp_path)
    run(kind, model, tokenizer, TEXTS, tmp_path)
    run(kind, model, tokenizer, TEXTS, tmp_path)  # and the lock was given back


@both
@pytest.mark.parametrize("folder", [5, b"a", ["a"], "a\0b"])
def test_a_folder_that_is_not_a_path(kind: str, folder: Any, model: BertModel, tokenizer: BertTokenizer) -> None:
    with pytest.raises(StoreError, match="folder must be the path of a folder, got"):
        run(kind, model, tokenizer, TEXTS, folder)
    with pytest.raises(StoreError, match="folder must be the path of a folder, got"):
        Store(folder)


@both
def test_a_tilde_is_the_home_folder(
    kind: str, model: BertModel, tokenizer: BertTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run(kind, model, tokenizer, TEXTS, "~/corpus")
    assert (tmp_path / "corpus").is_dir()


@both
def test_integers_of_numpy(kind: str, model: BertModel, tokenizer: BertTokenizer, tmp_path: Path) -> None:
    """They are written into the folder as Python's, and the run is known again."""
    for batch_tokens in (np.int64(64), 64, torch.tensor(64)):
        run(kind, model, tokenizer, TEXTS, tmp_path, batch_tokens=batch_tokens)


@both
def test_files_are_for_whom_the_user_wants(
    kind: str, model: BertModel, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    run(kind, model, tokenizer, TEXTS, tmp_path)
    (tmp_path / "plain").touch()
    expected = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    for file in tmp_path.glob("[!.]*"):
        assert stat.S_IMODE(file.stat().st_mode) == expected, file


@pytest.mark.parametrize("statistics", [None, 5, {"entropy"}])
def test_statistics_that_are_not_a_list(statistics: Any, model: BertModel, tokenizer: BertTokenizer) -> None:
    with pytest.raises(InputError, match="statistics must be a name or a list of names, got"):
        survey(model, tokenizer, TEXTS, statistics)


@pytest.mark.parametrize("progress", [{"texts": "4"}, {"texts": 0}, {"texts": 1.5}, {"sha256": 5}, {"made_from": []}])
def test_an_index_whose_progress_is_something_else(
    progress: dict[str, Any], model: BertModel, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    import json

    index = tmp_path / "index.json"
    save_values(model, tokenizer, TEXTS, "last_hidden_state", tmp_path)
    content = json.loads(index.read_text())
    content["progress"] |= progress
    index.write_text(json.dumps(content))
    with pytest.raises(InputError, match="must be an index that save_values wrote"):
        save_values(model, tokenizer, TEXTS, "last_hidden_state", tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype, model: BertModel, tokenizer: BertTokenizer) -> None:
    """What remains is the rounding of the attention itself, which the same sums of it show."""
    statistics = ["entropy", "distance", "head_distances"]
    found = survey(model.to(dtype), tokenizer, TEXTS[:1], statistics)
    attentions = model(**tokenizer(TEXTS[:1]), output_attentions=True).attentions
    maps = torch.stack(attentions)[:, 0].double()  # (L, H, S, T)
    torch.testing.assert_close(found.heads["entropy"], torch.special.entr(maps).sum(-1).mean(-1), atol=1e-6, rtol=0)
    assert found.head_distances is not None
    assert found.head_distances.min() >= 0
    heads = maps.flatten(0, 1)
    middle = (heads[:, None] + heads) / 2
    divergence = (heads[:, None] * (heads[:, None] / middle).log()).sum(-1).mean(-1)
    torch.testing.assert_close(found.head_distances, (divergence + divergence.T) / 2, atol=1e-6, rtol=0)


@both
def test_memory_is_given_back_at_once(
    kind: str, model: BertModel, tokenizer: BertTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when Python looks for cycles, which it does by the number of objects, however large they are."""
    monkeypatch.setattr(texts_module, "WINDOW", 4)
    alive: list[weakref.ref[torch.Tensor]] = []
    kept: list[int] = []

    def remember(module: Any, arguments: Any, output: torch.Tensor) -> None:
        alive.append(weakref.ref(output))
        kept.append(sum(each() is not None for each in alive))

    model.encoder.layers[-1].feed_forward_norm.register_forward_hook(remember)
    options = {"statistics": ["entropy"], "names": "last_hidden_state"} if kind == "survey" else {}
    gc.collect()
    gc.disable()
    try:
        run(kind, model, tokenizer, TEXTS * 10, tmp_path, **options)
    finally:
        gc.enable()
    assert len(kept) == 10
    assert max(kept) <= 2
