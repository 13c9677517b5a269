"""Writes relative_positions.safetensors: what transformers 4.57.6 computes with relative positions.

Version 5 of transformers has no relative positions, and passes over the config's field in silence. So the reference is
the last version that has them, run once, in an environment of its own:

    python -m venv old && old/bin/pip install torch==2.13.0 transformers==4.57.6 numpy
    old/bin/python tests/equality/golden/relative_positions.py

The file has, for each kind of position and for padded and unpadded input, the random parameters (float32 numbers), and
every hidden state and attention map, computed in float64 from them.
"""

import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

SIZES = {
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 9,
}


def main() -> None:
    if transformers.__version__ != "4.57.6":
        sys.exit(f"this is transformers {transformers.__version__}, and the reference is 4.57.6")
    tensors = {}
    for kind in ("relative_key", "relative_key_query"):
        config = transformers.BertConfig(**SIZES, position_embedding_type=kind, attn_implementation="eager")
        model = transformers.BertModel(config).eval()
        generator = torch.Generator().manual_seed(len(kind))
        for name, parameter in model.named_parameters():
            around, spread = (1, 0.3) if name.endswith("LayerNorm.weight") else (0, 0.4)
            parameter.data = around + spread * torch.randn(parameter.shape, generator=generator)
            tensors[f"{kind}/parameters/{name}"] = parameter.data.clone()
        ids = torch.randint(30, (2, 9), generator=generator)
        masks = {"unpadded": torch.ones(2, 9).long(), "padded": torch.tensor([[1] * 9, [1] * 4 + [0] * 5])}
        tensors[f"{kind}/ids"] = ids
        for batch, mask in masks.items():
            with torch.no_grad():
                out = model.double()(ids, mask, output_hidden_states=True, output_attentions=True)
            tensors[f"{kind}/{batch}/mask"] = mask
            tensors[f"{kind}/{batch}/hidden_states"] = torch.stack(out.hidden_states)
            tensors[f"{kind}/{batch}/attentions"] = torch.stack(out.attentions)
            tensors[f"{kind}/{batch}/pooler_output"] = out.pooler_output
    file = Path(__file__).with_suffix(".safetensors")
    save_file(tensors, file, metadata={"transformers": transformers.__version__, "torch": torch.__version__})
    print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
