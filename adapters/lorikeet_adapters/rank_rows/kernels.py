"""The arithmetic of rank rows. All kernels compute the same sum; `reference` is the one to read.

Semantics, for x[T, K], a[R, K], b[R, N], s[T, R] in fp32, y[T, N]:

    y[t] + sum over p with s[t, p] != 0 of  s[t, p] * (x[t] . a[p]) * b[p]

What s does not name may not touch a row: x @ a.T can be infinite for an adapter with huge weights,
and infinity times zero is NaN, so the product is masked, never just multiplied by zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Protocol

import torch
from torch.nn import functional as F

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.native import rows
from lorikeet_adapters.native.library import functions, is_fast
from lorikeet_adapters.shares import Shares

AUTO = "auto"
NATIVE = "native"
TRITON = "triton"


Bound = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Kernel(Protocol):
    """Makes of a, b and S what a step calls for each batch of the same layout.

    That takes (x, y), whose tokens are laid out in any way, the same in both, and returns y plus the rows'
    share, in y's dtype and layout; y itself may be overwritten.
    """

    def __call__(self, a: torch.Tensor, b: torch.Tensor, s: Shares) -> Bound: ...


def reference(a: torch.Tensor, b: torch.Tensor, s: Shares) -> Bound:
    """Token by token, row by row, in fp32."""

    def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, out = x.reshape(-1, x.shape[-1]), y.float().reshape(-1, y.shape[-1]).clone()
        for token in range(x.shape[0]):
            for row in s.dense[token].nonzero().flatten().tolist():
                shrunk = torch.dot(x[token].float(), a[row].float())
                out[token] += s.dense[token, row].float() * shrunk * b[row].float()
        return out.to(y.dtype).view(y.shape)

    return run


def batched(a: torch.Tensor, b: torch.Tensor, s: Shares) -> Bound:
    """Two GEMMs and a masked multiply; works on every device."""
    expand = _expand(b, s)
    return lambda x, y: expand(F.linear(x.reshape(-1, x.shape[-1]), a), y)


def looked_up(a: torch.Tensor, b: torch.Tensor, s: Shares) -> Bound:
    """The same for an embedding, whose x[t] is one-hot at ids[t]: a's column takes the place of x . a."""
    expand = _expand(b, s)
    return lambda ids, y: expand(a.index_select(1, ids.reshape(-1)).T, y)


def native(a: torch.Tensor, b: torch.Tensor, s: Shares) -> Bound:
    """By the C library, but for prompts that are better off as two GEMMs. CPU only."""
    return (rows.bind if rows.takes(a.dtype, s) else batched)(a, b, s)


def in_place(kernel: Kernel, blocks: Sequence[torch.Tensor], s: Shares, places: torch.Tensor) -> Bound | None:
    """For a kernel that looks rows up in a and b of a whole arena; None for one that wants them side by side.

    `places` are the rows there that S's columns mean, int32.
    """
    a, b = blocks
    return rows.bind(a, b, s, places) if kernel is native and rows.takes(a.dtype, s) else None


def triton(a: torch.Tensor, b: torch.Tensor, s: Shares) -> Bound:
    """Tiles in which S is zero are skipped. CUDA only, where Triton is there."""
    from lorikeet_adapters.rank_rows import triton_rows

    return triton_rows.bind(a, b, s)


def _expand(b: torch.Tensor, s: Shares) -> Bound:
    """y + ((shrunk * s) @ b) for shrunk[T, R]; s is fp32, so a weight is never rounded by itself."""
    named = s.dense != 0

    def run(shrunk: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weighted = torch.where(named, shrunk * s.dense, 0)
        return torch.addmm(y.reshape(-1, b.shape[1]), weighted.to(b.dtype), b).view(y.shape)

    return run


KERNELS: dict[str, Kernel] = {"reference": reference, "torch": batched, NATIVE: native, TRITON: triton}


def choose(name: str, device: torch.device) -> str:
    """The kernel that `name`, one of KERNELS or `auto`, means on a device. Raises RefusedError for one it cannot run."""
    if name == AUTO:
        return NATIVE if device.type == "cpu" and is_fast() else "torch"
    if name == NATIVE and (device.type != "cpu" or not functions()):
        raise RefusedError(
            f"the native kernel cannot run on {device}: it is for CPUs, and built where there is a C compiler when "
            "the package is installed; use --kernel auto"
        )
    if name == TRITON and (device.type != "cuda" or find_spec("triton") is None):
        raise RefusedError(f"the kernel of Triton cannot run on {device}: it is for CUDA; use --kernel auto")
    return name
