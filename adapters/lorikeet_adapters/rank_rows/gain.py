"""DoRA's gain: the trained length of each row of the weight over the length it has now.

    g = m / norm(W + sBA)        norm over the inputs, one number an output

The norm needs W only through two things the layer itself can tell, whatever it is quantised to:
the lengths of its own rows, once a layer, and W applied to the rows of A.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lorikeet_adapters.weights import ModuleRows

CHUNK = 256  # unit vectors sent through a layer at once


@torch.no_grad()
def gain_of(
    module: nn.Module, own_lengths: torch.Tensor, rows: ModuleRows, magnitude: torch.Tensor
) -> torch.Tensor:
    """g[out] in fp32, by  |w + b A|^2 = |w|^2 + 2 b (A w) + b (A A^T) b  for every row w of W."""
    a, b = rows.a.to(own_lengths.device).float(), rows.b.to(own_lengths.device).float()
    crossed = (b * _unrounded(module, a)).sum(0)
    squared = ((a @ a.T) @ b * b).sum(0)
    return magnitude.to(own_lengths.device) / (own_lengths + 2 * crossed + squared).clamp(min=0).sqrt()


@torch.no_grad()
def squared_lengths(module: nn.Module, in_features: int) -> torch.Tensor:
    """|w|^2 of every row w of W, [out] in fp32."""
    return torch.stack([weight.square().sum(0) for weight in _columns(module, in_features)]).sum(0)


def _unrounded(module: nn.Module, a: torch.Tensor) -> torch.Tensor:
    """a @ W.T. An int8 layer rounds what it is given, so its weight is read instead, which it does not pack."""
    layer: Any = module
    if next(module.parameters()).dtype != torch.int8:
        return _applied(module, a)
    # bitsandbytes keeps the scales of W's rows beside the weight until its first forward, then in the state.
    scales: torch.Tensor = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
    crossed = [a @ rows.T.float() for rows in layer.weight.data.split(CHUNK)]
    return torch.cat(crossed, 1) * (scales.float() / 127)


def _columns(module: nn.Module, in_features: int) -> Iterator[torch.Tensor]:
    """W.T by chunks of its rows, [chunk, out] in fp32: what the layer makes of unit vectors."""
    device = next(module.parameters()).device
    for start in range(0, in_features, CHUNK):
        count = min(CHUNK, in_features - start)
        units = torch.zeros(count, in_features, device=device)
        units[:, start : start + count].fill_diagonal_(1)
        yield _applied(module, units)


def _applied(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """x[n, in] @ W.T in fp32, through the layer's own forward and in what it computes in."""
    layer: Any = module
    floats = layer.weight.is_floating_point()
    dtype = layer.weight.dtype if floats else getattr(layer, "compute_dtype", None) or torch.float32
    y: torch.Tensor = layer.forward(x.to(dtype)).float()
    return y if layer.bias is None else y - layer.bias.float()
