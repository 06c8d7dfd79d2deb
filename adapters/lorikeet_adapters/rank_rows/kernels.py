"""The arithmetic of rank rows. All kernels compute the same sum; `reference` is the one to read.

Semantics, for x[T, K], a[R, K], b[R, N], s[T, R] in fp32, y[T, N]:

    y[t] + sum over p with s[t, p] != 0 of  s[t, p] * (x[t] . a[p]) * b[p]

What s does not name may not touch a row: x @ a.T can be infinite for an adapter with huge weights,
and infinity times zero is NaN, so the product is masked, never just multiplied by zero.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional as F

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.native import rows
from lorikeet_adapters.native.library import functions
from lorikeet_adapters.rank_rows.shares import Shares

AUTO = "auto"
NATIVE = "native"


class Kernel(Protocol):
    """Returns y plus the rows' share, in y's dtype; y itself may be overwritten."""

    def __call__(
        self, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, s: Shares, y: torch.Tensor
    ) -> torch.Tensor: ...


def reference(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, s: Shares, y: torch.Tensor) -> torch.Tensor:
    """Token by token, row by row, in fp32."""
    out = y.float().clone()
    for token in range(x.shape[0]):
        for row in s.dense[token].nonzero().flatten().tolist():
            shrunk = torch.dot(x[token].float(), a[row].float())
            out[token] += s.dense[token, row].float() * shrunk * b[row].float()
    return out.to(y.dtype)


def batched(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, s: Shares, y: torch.Tensor) -> torch.Tensor:
    """Two GEMMs and a masked multiply; works on every device."""
    return expand(F.linear(x, a), b, s, y)


def looked_up(
    ids: torch.Tensor, a: torch.Tensor, b: torch.Tensor, s: Shares, y: torch.Tensor
) -> torch.Tensor:
    """The same for an embedding, whose x[t] is one-hot at ids[t]: a's column takes the place of x . a."""
    return expand(a.index_select(1, ids).T, b, s, y)


def native(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, s: Shares, y: torch.Tensor) -> torch.Tensor:
    """Few tokens by the C library, prompts as two GEMMs. CPU only."""
    return rows.add(x, a, b, s, y) if rows.takes(x) else batched(x, a, b, s, y)


def expand(shrunk: torch.Tensor, b: torch.Tensor, s: Shares, y: torch.Tensor) -> torch.Tensor:
    """y + ((shrunk * s) @ b) for shrunk[T, R]; s is fp32, so a weight is never rounded by itself."""
    weighted = torch.where(s.dense != 0, shrunk * s.dense, 0)
    return torch.addmm(y, weighted.to(b.dtype), b)


KERNELS: dict[str, Kernel] = {"reference": reference, "torch": batched, NATIVE: native}


def choose(name: str, device: torch.device) -> str:
    """The kernel that `name`, one of KERNELS or `auto`, means on a device. Raises RefusedError for one it cannot run."""
    able = device.type == "cpu" and bool(functions())
    if name == AUTO:
        return NATIVE if able else "torch"
    if name == NATIVE and not able:
        raise RefusedError(
            f"the native kernel cannot run on {device}: it is for CPUs, and built where there is a C compiler when "
            "the package is installed; use --kernel auto"
        )
    return name
