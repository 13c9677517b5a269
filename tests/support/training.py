"""A small text, a small vocabulary and small runs, for tests of training."""

import random
from pathlib import Path
from typing import Any

import torch

from minibert import BertConfig, BertTokenizer
from minibert.training import TrainingSettings

NOUNS, VERBS = ["cat", "dog", "bird", "child", "teacher"], ["sees", "hears", "likes", "follows"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", ".", "##s", "old", "small", *NOUNS, *VERBS]
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def small_tokenizer(folder: Path) -> BertTokenizer:
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return BertTokenizer.from_pretrained(folder)


def small_text(file: Path, documents: int = 12, sentences: int = 8, seed: int = 0) -> Path:
    """Sentences of the kind "the old cat sees the dogs ."."""
    generator = random.Random(seed)
    lines = []
    for _ in range(documents):
        for _ in range(sentences):
            adjective = generator.choice(["old ", "small ", ""])
            subject, verb, object_ = generator.choice(NOUNS), generator.choice(VERBS), generator.choice(NOUNS)
            lines.append(f"the {adjective}{subject} {verb} the {object_}s .")
        lines.append("")
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def small_config(**changes: object) -> BertConfig:
    return BertConfig(**{**SIZES, **changes})


def settings(**changes: object) -> TrainingSettings:
    chosen: dict[str, Any] = {"steps": 6, "batch_size": 4, "learning_rate": 1e-2, "precision": "float32"}
    return TrainingSettings(**{**chosen, **changes})


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
