"""Whatever is saved, a crash at any step leaves what was there before or what is new, and both load."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click import ClickException
from support.crashes import crash_points, forks, needs_fork
from support.texts import SIX
from torch import Tensor

from minibert import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer, SentenceEncoder
from minibert.cli import main
from minibert.errors import CheckpointNotFoundError, StoreError
from minibert.sentences.recipe import Dense, Recipe

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fish", "a", "meal", "##s"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> BertTokenizer:
    (tmp_path / "words").mkdir()
    (tmp_path / "words/vocab.txt").write_text("\n".join(WORDS))
    return BertTokenizer.from_pretrained(tmp_path / "words")


def model(seed: int, size: int = 8, kind: type = BertModel, layers: int = 1) -> BertModel:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 12, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 8}
    return kind(BertConfig(**sizes, hidden_size=size, initializer_range=0.5)).eval()


def encoder(tokenizer: BertTokenizer, seed: int, **recipe: object) -> SentenceEncoder:
    return SentenceEncoder(model(seed), tokenizer, Recipe(**recipe)).eval()


def check(folder: Path, save_old: Callable[[], None], save_new: Callable[[], None], load: Callable[[], Tensor]) -> None:
    """Crashes everywhere, and loads what there is."""
    save_old()
    old = load()
    shutil.rmtree(folder)
    save_new()
    new = load()
    found = set()
    for _ in crash_points(save_old, folder, save_new):
        result = load()
        assert torch.equal(result, old) or torch.equal(result, new)
        found.add(torch.equal(result, new))
    assert found == {True, False}


@needs_fork
@forks
@pytest.mark.parametrize("size", [8, 12])
def test_a_model_over_another(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "model"

    def load() -> Tensor:
        return BertModel.from_pretrained(folder)(torch.tensor([[1, 2, 3]])).last_hidden_state

    old, new = model(0), model(1, size)
    check(folder, lambda: old.save_pretrained(folder), lambda: new.save_pretrained(folder), load)


@needs_fork
@forks
@pytest.mark.filterwarnings("ignore::minibert.errors.TruncationWarning")  # the length limit is part of the save
def test_an_encoder_over_another(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    folder = tmp_path / "encoder"
    torch.manual_seed(0)
    old = encoder(tokenizer, 0, pooling=("cls",), final_steps=(Dense(8, 3),))
    new = encoder(tokenizer, 1, pooling=("max", "mean"), max_seq_length=7)
    texts = ["the fish", "a meal fishs the the the a a a"]

    def load() -> Tensor:
        return SentenceEncoder.from_pretrained(folder).encode(texts)

    check(folder, lambda: old.save_pretrained(folder), lambda: new.save_pretrained(folder), load)
    new.save_pretrained(folder)
    assert not (folder / "2_Dense").exists()


@needs_fork
@forks
def test_a_tokenizer_over_another(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    folder = tmp_path / "tokenizer"
    old = folder / "words"

    def save_old() -> None:
        folder.mkdir()
        shutil.copyfile(tmp_path / "words/vocab.txt", folder / "vocab.txt")
        (folder / "added_tokens.json").write_text(json.dumps({"<new>": len(WORDS)}))

    def load() -> Tensor:
        return BertTokenizer.from_pretrained(folder)("the <new> fish")["input_ids"]

    check(folder, save_old, lambda: tokenizer.save_pretrained(folder), load)
    assert not old.exists()


@needs_fork
@forks
def test_a_converted_checkpoint_over_another(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    source, folder = tmp_path / "source", tmp_path / "converted"
    model(3, kind=BertForSequenceClassification).save_pretrained(source)
    shutil.copyfile(tmp_path / "words/vocab.txt", source / "vocab.txt")

    def save_old() -> None:
        model(4).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def load() -> Tensor:
        ids = BertTokenizer.from_pretrained(folder)("the fish")
        return BertModel.from_pretrained(folder)(**ids).last_hidden_state

    def convert() -> None:
        main(["convert", str(source), str(folder)], standalone_mode=False)

    check(folder, save_old, convert, load)


def test_what_is_saved_beside_stays(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    """A tokenizer beside a model, a model in an encoder's folder, and a file of the user's."""
    first = encoder(tokenizer, 0, pooling=("cls",))
    first.save_pretrained(tmp_path)
    (tmp_path / "my_head.pt").write_text("mine")
    changed = model(5)
    changed.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = SentenceEncoder.from_pretrained(tmp_path)
    assert again.recipe.pooling == ("cls",)
    expected = SentenceEncoder(changed, tokenizer, first.recipe).eval()
    torch.testing.assert_close(again.encode(SIX), expected.encode(SIX))
    assert (tmp_path / "my_head.pt").read_text() == "mine"


@pytest.mark.parametrize("folder", [None, 5, b"a", "a\0b", ["a"]])
def test_a_folder_that_is_not_a_path(tokenizer: BertTokenizer, folder: object) -> None:
    for save in (model(0).save_pretrained, tokenizer.save_pretrained, encoder(tokenizer, 0).save_pretrained):
        with pytest.raises(StoreError, match="folder must be the path of a folder"):
            save(folder)


def test_tokens_of_an_older_save_are_gone(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<old>": len(WORDS)}))
    tokenizer.save_pretrained(tmp_path)
    assert len(BertTokenizer.from_pretrained(tmp_path)) == len(tokenizer)


USERS_FILES = (
    "1_experiment/results.json",
    "2_runs/model.safetensors",
    "3_words/vocab.txt",
    "1_Dense/notes.txt",
    "model-best.safetensors",
    "sentence_pairs_config.json",
    "pytorch_model.bin",
)
OLDER = (
    "0_Transformer/model.safetensors",
    "0_Transformer/vocab.txt",
    "1_Dense/config.json",
    "3_Normalize/config.json",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "added_tokens.json",
    "vocab.txt",
)


@pytest.mark.parametrize(
    "kind, gone", [("encoder", OLDER), ("model", OLDER[4:6]), ("tokenizer", OLDER[6:])], ids=lambda value: str(value)
)
def test_files_of_an_older_save_go_and_no_others(
    tmp_path: Path, tokenizer: BertTokenizer, kind: str, gone: tuple[str, ...]
) -> None:
    folder = tmp_path / "x"
    for name in (*USERS_FILES, *OLDER):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    whole = encoder(tokenizer, 0)
    {"encoder": whole, "model": whole.model, "tokenizer": tokenizer}[kind].save_pretrained(folder)
    assert [name for name in (*USERS_FILES, *OLDER) if not (folder / name).exists()] == list(gone)


@needs_fork
@forks
@pytest.mark.parametrize("kind", ["model", "tokenizer", "encoder", "convert"])
def test_a_disk_without_room_for_one_of_the_files(tmp_path: Path, tokenizer: BertTokenizer, kind: str) -> None:
    """The system's own limit on the size of a file, at each size."""
    resource = pytest.importorskip("resource")
    folder, source = tmp_path / "x", tmp_path / "source"
    encoder(tokenizer, 0, pooling=("cls",)).save_pretrained(folder)
    new = encoder(tokenizer, 1, max_seq_length=7)
    new.save_pretrained(source)
    (source / "vocab.txt").write_text("\n".join(WORDS * 500))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    save: dict[str, Callable[[], object]] = {
        "model": lambda: new.model.save_pretrained(folder),
        "tokenizer": lambda: tokenizer.save_pretrained(folder),
        "encoder": lambda: new.save_pretrained(folder),
        "convert": lambda: main(["convert", str(source), str(folder)], standalone_mode=False),
    }
    sizes = {file.stat().st_size for file in source.iterdir() if file.is_file()}
    codes = []
    for limit in sorted({size + change for size in sizes for change in (-1, 0)} | {1, 10**6}):
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                save[kind]()
            except (StoreError, ClickException):
                os._exit(1)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        if codes[-1] == 0:
            break
        assert codes[-1] == 1
        assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    assert len(codes) > 3
    assert codes[-1] == 0


def test_converting_a_checkpoint_in_its_own_folder(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    first = model(3)
    first.save_pretrained(tmp_path)
    shutil.copyfile(tmp_path / "words/vocab.txt", tmp_path / "vocab.txt")
    main(["convert", str(tmp_path), str(tmp_path)], standalone_mode=False)
    again = BertModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in first.state_dict().items())
    assert BertTokenizer.from_pretrained(tmp_path).to_json() == tokenizer.to_json()


def test_converting_a_checkpoint_without_a_tokenizer_over_one_with(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    """The words of another checkpoint are not left beside its weights."""
    model(3).save_pretrained(tmp_path / "source")
    encoder(tokenizer, 0).save_pretrained(tmp_path / "x")
    main(["convert", str(tmp_path / "source"), str(tmp_path / "x")], standalone_mode=False)
    with pytest.raises(CheckpointNotFoundError, match=r"neither tokenizer\.json nor vocab\.txt"):
        BertTokenizer.from_pretrained(tmp_path / "x")
