"""What are a checkpoint's files called? Nothing here needs PyTorch."""

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"

# The formats of weights: a file, and the pattern of the shards that belong to it. The first that a folder has is read.
WEIGHTS = {
    SAFETENSORS: "",
    f"{SAFETENSORS}.index.json": "model-*.safetensors",
    PICKLE: "",
    f"{PICKLE}.index.json": "pytorch_model-*.bin",
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
    "[0-9]_*/config.json",
    f"[0-9]_*/{SAFETENSORS}",
    f"[0-9]_*/{PICKLE}",
)
ALL = (CONFIG, *WEIGHTS_PATTERNS, *TOKENIZER, *SENTENCE_ENCODER)
