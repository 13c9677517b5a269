"""Writes heads.safetensors: what transformers 4.57.6 computes with `head_mask`, and after `prune_heads`.

Version 5 of transformers has neither. So the reference is the last version that has them, run once, in an environment
of its own:

    python -m venv old && old/bin/pip install torch==2.13.0 transformers==4.57.6 numpy
    old/bin/python tests/equality/golden/heads.py

The file has the random parameters (float32 numbers) of a masked language model; its last hidden state and logits with a
head mask (L, H), and after pruning, computed in float64 from them; and the parameters and config of the pruned model.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

SIZES = {
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 9,
}
PRUNED = {0: [1], 2: [0, 2]}


def main() -> None:
    if transformers.__version__ != "4.57.6":
        sys.exit(f"this is transformers {transformers.__version__}, and the reference is 4.57.6")
    config = transformers.BertConfig(**SIZES, attn_implementation="eager")
    model = transformers.BertForMaskedLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, parameter in model.named_parameters():
        around, spread = (1, 0.3) if name.endswith("LayerNorm.weight") else (0, 0.4)
        parameter.data = around + spread * torch.randn(parameter.shape, generator=generator)
        tensors[f"parameters/{name}"] = parameter.data.clone()
    model.tie_weights()
    tensors["ids"] = ids = torch.randint(30, (2, 9), generator=generator)
    tensors["mask"] = mask = torch.tensor([[1] * 9, [1] * 4 + [0] * 5])
    tensors["head_mask"] = torch.rand(3, 3, generator=generator) * 1.5
    tensors["head_mask"][1, 2] = 0
    model.double()
    with torch.no_grad():
        masked = model(ids, mask, head_mask=tensors["head_mask"].double(), output_hidden_states=True)
        tensors["masked/hidden"], tensors["masked/logits"] = masked.hidden_states[-1], masked.logits
        model.float().bert._prune_heads(PRUNED)
        model.config.pruned_heads = PRUNED
        pruned = model.double()(ids, mask, output_hidden_states=True)
    tensors["pruned/hidden"], tensors["pruned/logits"] = pruned.hidden_states[-1], pruned.logits
    for name, parameter in model.named_parameters():
        tensors[f"pruned/parameters/{name}"] = parameter.data.float()
    here = Path(__file__).parent
    metadata = {"config": json.dumps(json.loads(model.config.to_json_string()))}
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, here / "heads.safetensors", metadata)


if __name__ == "__main__":
    main()
