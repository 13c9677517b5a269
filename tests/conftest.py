import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may depend on a network

from pathlib import Path

import pytest
import transformers
from hypothesis import settings

from minibert import BertTokenizer, store

transformers.utils.logging.disable_progress_bar()
settings.register_profile("minibert", deadline=None, derandomize=True)
settings.load_profile("minibert")


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The folder of the default checkpoint: real weights, which the tests need and do not fetch."""
    folder = store.store_folder() / store.DEFAULT
    if not folder.is_dir():
        pytest.fail("the default checkpoint is not in the store: run 'minibert download' (make test does)")
    return folder


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> BertTokenizer:
    return BertTokenizer.from_pretrained(checkpoint)
