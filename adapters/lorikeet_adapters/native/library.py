"""The shared library, if it was built."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Mapping
from functools import cache

import torch

MODULE = "lorikeet_adapters.native._native"
# Name -> how many pointers it takes, and how many numbers after them.
FUNCTIONS = {
    "rank_rows_bf16": (9, 3),
    "rank_rows_fp32": (9, 3),
    "linear_bf16": (4, 4),
    "linear_fp32": (4, 4),
    "linear_nf4": (6, 4),
    "linear_int8": (7, 4),
}


@cache
def functions() -> Mapping[str, Callable[..., None]]:
    """By name; none where the package was installed without a C compiler.

    PyTorch is imported before it is loaded, so that PyTorch's OpenMP serves it, too: two pools of
    threads would fight over the cores.
    """
    assert torch.__version__
    spec = importlib.util.find_spec(MODULE)
    if spec is None or spec.origin is None:
        return {}
    return declared(ctypes.CDLL(spec.origin))


def declared(library: ctypes.CDLL) -> Mapping[str, Callable[..., None]]:
    """The functions of a library, with what each takes."""
    found: dict[str, Callable[..., None]] = {}
    for name, (pointers, numbers) in FUNCTIONS.items():
        function = found[name] = getattr(library, name)
        function.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int] * numbers
        function.restype = None
    return found


def pointers(*tensors: torch.Tensor | None) -> list[int | None]:
    """Of contiguous tensors, in order; nothing for None. Whoever calls keeps the tensors until C is done."""
    return [None if each is None else each.data_ptr() for each in tensors]
