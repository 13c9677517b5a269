"""What the tests of sentence encoders share."""

import json
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from support.texts import SIX

from minibert import SentenceEncoder


def same_batch(ours: SentenceEncoder, theirs: SentenceTransformer, texts: list[str] = SIX, prompt: str = "") -> None:
    """Checks that both compute the same inputs and vectors, to the last bit, from one batch."""
    features = theirs.preprocess(texts, prompt=prompt or None)
    with torch.inference_mode():
        expected = theirs(dict(features))["sentence_embedding"]
        inputs = ours.tokenizer([prompt + text for text in texts], truncation=True, max_length=ours.max_seq_length)
        for name, tensor in inputs.items():
            assert torch.equal(tensor, features[name]), name
        length = 0 if ours.recipe.include_prompt else features.get("prompt_length", 0)
        assert torch.equal(ours(**inputs, prompt_length=length), expected)


def edit_json(file: Path, **changes: object) -> None:
    """Changes fields of the JSON object in a file."""
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({**fields, **changes}))
