"""In what numbers a base computes.

The weights stay what they are: NF4 codes and scales are untouched, and what is bfloat16 is
widened without rounding. Only the arithmetic between them becomes float32, where bfloat16 is slow.
"""

from __future__ import annotations

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn

# Kernel sets of torch in which bfloat16 matrix products keep up with float32's. With AVX2 alone one
# of 500 x 192 by 192 x 576 took 7 times as long forward and 30 times backward, on one thread.
FAST_BFLOAT16 = ("AVX512", "SVE")


def bfloat16_is_fast(device: torch.device) -> bool:
    capability: str = torch.backends.cpu.get_cpu_capability()
    return device.type != "cpu" or capability.startswith(FAST_BFLOAT16)


def compute_in_float32(model: nn.Module) -> None:
    """Widen every floating-point parameter in place, and what NF4 layers compute in."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = torch.float32
