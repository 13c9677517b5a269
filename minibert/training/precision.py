"""In which precision does this machine train fastest?

bfloat16 has the range of float32 and 8 bits instead of 24 for the digits. Processors with AMX or AVX512-BF16, and GPUs
since 2020, multiply matrices in it several times as fast; others are slower than in float32. So it is measured.
"""

import time
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

PRECISIONS = ("auto", "float32", "bfloat16")
WORTH_IT = 1.5  # how much faster bfloat16 must be


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Inside the block, matrix products are in this precision; weights, sums and LayerNorms stay in float32."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def wide(tensor: Tensor) -> Tensor:
    """Returns numbers at least in float32: a loss needs more digits than bfloat16 has."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def choose(asked: str, device: torch.device) -> tuple[str, str]:
    """Returns the precision, for "auto" the faster one here, and a line that says why."""
    if asked != "auto":
        return asked, f"{asked}, as asked"
    single, half = _rate(torch.float32, device), _rate(torch.bfloat16, device)
    precision = "bfloat16" if half >= WORTH_IT * single else "float32"
    rates = f"{single / 1e9:,.0f} GFLOP/s in float32, {half / 1e9:,.0f} in bfloat16"
    return precision, f"{precision}: here matrix products run at {rates}"


def _rate(dtype: torch.dtype, device: torch.device, seconds: float = 0.15) -> float:
    """Multiplications and additions a second in the products of a feed-forward layer."""
    left = torch.ones(1024, 384, dtype=dtype, device=device)
    right = torch.ones(384, 1536, dtype=dtype, device=device)

    def run(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    run(3)  # the first call chooses a kernel
    times = max(1, int(seconds / run(1)))
    return 2 * 1024 * 384 * 1536 * times / run(times)
