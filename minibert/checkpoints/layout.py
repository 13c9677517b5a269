"""What are a checkpoint's files called? Nothing here needs PyTorch."""

from pathlib import Path

CONFIG = "config.json"
OLD_CONFIG = "bert_config.json"  # in Google's archives, and in files converted from them
SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"

# The formats of weights: a file, and the pattern of the shards that belong to it. The first that a folder has is read.
WEIGHTS = {
    SAFETENSORS: "",
    f"{SAFETENSORS}.index.json": "model-*.safetensors",
    PICKLE: "",
    f"{PICKLE}.index.json": "pytorch_model-*.bin",
}
# Formats that are not read, and what they are called.
OTHER_WEIGHTS = {
    "*.ckpt*": "TensorFlow",
    "*.h5": "Keras",
    "*.msgpack": "Flax",
    "*.onnx": "ONNX",
    "*.gguf": "GGUF",
    "*.pt": "PyTorch, under a name that is not a checkpoint's",
    "*.pth": "PyTorch, under a name that is not a checkpoint's",
}
WEIGHTS_PATTERNS = (*WEIGHTS, *filter(None, WEIGHTS.values()))

TOKENIZER = (
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
SENTENCE_ENCODER = (
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "[0-9]_*/*.json",
    "[0-9]_*/vocab.txt",
    *(f"[0-9]_*/{weights}" for weights in WEIGHTS_PATTERNS if not weights.endswith(".json")),
)
# What a save of each kind replaces: the files of an older save that the new one lacks are removed. Here the names are
# exact, unlike the patterns above, so that no file of the user's is among them.
_SHARD = f"model-{'[0-9]' * 5}-of-{'[0-9]' * 5}.safetensors"
SAVED_MODEL = (CONFIG, SAFETENSORS, f"{SAFETENSORS}.index.json", _SHARD)
SAVED_RECIPE = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
SAVED_STEPS = (
    *(f"[0-9]_{kind}/{name}" for kind in ("Pooling", "Dense", "Normalize") for name in (CONFIG, SAFETENSORS, PICKLE)),
    *(f"0_Transformer/{name}" for name in (*SAVED_MODEL, PICKLE, *TOKENIZER, *SAVED_RECIPE)),
)
ALL = (CONFIG, OLD_CONFIG, *WEIGHTS_PATTERNS, *TOKENIZER, *SENTENCE_ENCODER)


def config_file(folder: Path) -> Path:
    """Returns the config in a checkpoint's folder, under its usual name or the one in Google's archives."""
    old = folder / OLD_CONFIG
    return old if old.is_file() and not (folder / CONFIG).exists() else folder / CONFIG
