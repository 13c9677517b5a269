"""How fast are a layer's matrix products, by each of the libraries that PyTorch has for a CPU?

    python tests/benchmarks/products.py [rounds]

All take turns at the products of the default checkpoint's six layers. ONEDNN_MAX_CPU_ISA=AVX2 shows an older processor.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SHAPES = [(384, 384)] * 4 + [(1536, 384), (384, 1536)]  # query, key, value, output; expand, contract
LAYERS = 6


def onednn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@torch.inference_mode()
def main(rounds: int) -> None:
    weights = [(torch.randn(shape), torch.randn(shape[0])) for _ in range(LAYERS) for shape in SHAPES]
    packed = [(torch.ops.mkldnn._reorder_linear_weight(weight, 16), bias) for weight, bias in weights]
    libraries: dict[str, tuple[Callable[..., Tensor], list[tuple[Tensor, Tensor]]]] = {
        "F.linear (MKL)": (F.linear, weights),
        "oneDNN": (onednn, weights),
        "oneDNN, packed": (onednn, packed),
    }
    print(f"milliseconds, median of {rounds} rounds\n{'rows':>16}", *(f"{name:>16}" for name in libraries))
    for rows in (16, 64, 256, 1024):
        inputs = [torch.randn(rows, width) for _ in range(LAYERS) for _, width in SHAPES]
        seconds: dict[str, list[float]] = {name: [] for name in libraries}
        for _ in range(rounds):
            for name, (product, matrices) in libraries.items():
                start = time.perf_counter()
                for x, (weight, bias) in zip(inputs, matrices, strict=True):
                    product(x, weight, bias)
                seconds[name].append(time.perf_counter() - start)
        print(f"{rows:>16}", *(f"{1000 * statistics.median(times):>16.1f}" for times in seconds.values()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
