"""Tasks that a tiny BERT can learn in seconds, and a tiny BERT to learn them."""

import itertools
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from minibert import BertConfig, BertModel, BertTokenizer

NOUNS = ("film", "plot", "actor", "scene", "music", "story", "camera", "ending")
GOOD, BAD = ("great", "funny"), ("awful", "dull")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz0123456789.?,")
WORDS = (*NOUNS, *GOOD, *BAD, "the", "is", "what")
TOKENS = (*SPECIAL, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS))
# An easy start: no dropout, and weights large enough that a few dozen steps suffice.
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,
}


def toy_tokenizer(**options: Any) -> BertTokenizer:
    """BERT's tokenizer with whole words for the toy tasks, and letters for all others."""
    ids = {token: index for index, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return BertTokenizer(tokenizer, model_max_length=64, **options)


def toy_config(**changes: object) -> BertConfig:
    return BertConfig(**{"vocab_size": len(TOKENS), **SIZES, **changes})


def toy_checkpoint(folder: Path) -> Path:
    """A plain BERT of random weights with its tokenizer, as a checkpoint's folder."""
    torch.manual_seed(0)
    BertModel(toy_config()).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


def reviews(count: int) -> list[dict[str, object]]:
    """Sentences of which one word decides the class; each is different."""
    drawn = random.Random(0)
    every = list(itertools.permutations(NOUNS, 3))
    drawn.shuffle(every)
    rows = []
    for number, nouns in enumerate(every[:count]):
        words = list(nouns)
        words.insert(drawn.randrange(4), (GOOD if number % 2 else BAD)[number // 2 % 2])
        rows.append({"text": " ".join(words), "label": "good" if number % 2 else "bad"})
    return rows
