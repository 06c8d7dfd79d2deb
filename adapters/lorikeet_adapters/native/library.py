"""The shared library, if it was built."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from collections.abc import Callable, Mapping
from functools import cache

import torch

log = logging.getLogger(__name__)
MODULE = "lorikeet_adapters.native._native"
# Name -> how many pointers it takes, and how many numbers after them.
FUNCTIONS = {
    "rank_rows_bf16": (9, 3),
    "rank_rows_fp32": (9, 3),
    "linear_bf16": (4, 4),
    "linear_fp32": (4, 4),
    "linear_nf4": (6, 4),
    "linear_int8": (7, 4),
    "compute_with": (0, 1),
    "has_variants": (0, 0),
}

# Those that return a truth; the others return nothing.
ANSWERING = frozenset({"compute_with", "has_variants", "linear_bf16", "linear_fp32", "linear_nf4"})


@cache
def functions() -> Mapping[str, Callable[..., int | None]]:
    """By name; none where the package was installed without a C compiler, or what was built does not fit.

    PyTorch is imported before it is loaded, so that PyTorch's OpenMP serves it, too: two pools of
    threads would fight over the cores.
    """
    assert torch.__version__
    spec = importlib.util.find_spec(MODULE)
    if spec is None or spec.origin is None:
        return {}
    try:
        return declared(ctypes.CDLL(spec.origin))
    except (OSError, AttributeError) as error:
        log.warning("the native kernel cannot be loaded, install the package again: %s", error)
        return {}


def is_fast() -> bool:
    """Whether it was built for more than the oldest processor of the architecture; elsewhere PyTorch is faster."""
    return bool(functions()) and bool(functions()["has_variants"]())


def declared(library: ctypes.CDLL) -> Mapping[str, Callable[..., int | None]]:
    """The functions of a library, with what each takes."""
    found: dict[str, Callable[..., int | None]] = {}
    for name, (pointers, numbers) in FUNCTIONS.items():
        function = found[name] = getattr(library, name)
        function.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int] * numbers
        function.restype = ctypes.c_int if name in ANSWERING else None
    return found


def pointers(*tensors: torch.Tensor | None) -> list[int | None]:
    """Of contiguous tensors, in order; nothing for None. Whoever calls keeps the tensors until C is done."""
    return [None if each is None else each.data_ptr() for each in tensors]
