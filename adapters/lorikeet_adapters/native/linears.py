"""The linear layers of a base, computed by linear.c while a step runs; at any other time they are what they were.

So `generate()`, which the start-up self-test compares with, never runs on what it is to judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from bitsandbytes import functional as bnb
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import nn
from transformers import PreTrainedModel

from lorikeet_adapters.native.library import functions, pointers
from lorikeet_adapters.precision import bfloat16_is_fast

ROWS = 4  # of a weight, which C computes together
DTYPES = (torch.float32, torch.bfloat16)  # of x and y
BLOCK = 64  # weights of NF4 that share a scale
NARROWED_AT_ONCE = 4096  # rows


class Held:
    """How C is to read one layer's weight; `tensors` are weight, scales and codes if it has any, and bias."""

    def __init__(self, name: str, tensors: tuple[torch.Tensor | None, ...], module: Any) -> None:
        self._function = functions()[name]
        self._tensors = tensors
        self._at = pointers(*tensors)
        self._inside, self._outside = module.in_features, module.out_features

    def bytes_beside(self, module: nn.Module) -> int:
        """Of tensors that the module does not have itself."""
        own = {each.data_ptr() for each in module.parameters()}
        beside = (each for each in self._tensors if each is not None and each.data_ptr() not in own)
        return sum(each.numel() * each.element_size() for each in beside)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x[..., in] -> y[..., out] in x's dtype."""
        wide = x.contiguous() if x.dtype is torch.float32 else x.float().contiguous()
        y = torch.empty(*x.shape[:-1], self._outside, dtype=x.dtype)
        tokens, narrow = wide.numel() // self._inside, x.dtype is torch.bfloat16
        assert x.shape[-1] == self._inside
        where = (wide.data_ptr(), *self._at, y.data_ptr())
        if not self._function(*where, tokens, self._inside, self._outside, narrow):
            raise MemoryError("no memory to widen a layer's rows in")
        return y


class HeldInt8(Held):
    """x is rounded to float16 first, as bitsandbytes does, and then in C to int8."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.float16).float().contiguous()
        y = torch.empty(*x.shape[:-1], self._outside, dtype=x.dtype)
        tokens, narrow = wide.numel() // self._inside, x.dtype is torch.bfloat16
        assert x.shape[-1] == self._inside
        rounded, sizes = torch.empty(wide.shape, dtype=torch.int16), torch.empty(tokens)
        where = (wide.data_ptr(), *self._at, *pointers(rounded, sizes, y))
        self._function(*where, tokens, self._inside, self._outside, narrow)
        return y


class NativeLinears:
    """Nothing at all where the library is missing or PyTorch's own layers are the faster ones."""

    def __init__(self, model: nn.Module | None) -> None:
        self._on = False
        self._replaced: list[tuple[Any, Any]] = []  # modules with their new forward
        self.bytes = 0  # held beside the weights
        head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
        for module in model.modules() if model is not None else ():
            if (held := _held(module, is_head=module is head)) is not None:
                forward = partial(self._forward, held, module.forward)
                module.forward = forward
                self._replaced.append((module, forward))
                self.bytes += held.bytes_beside(module)

    def __len__(self) -> int:
        return len(self._replaced)

    @contextmanager
    def on(self) -> Iterator[None]:
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def detach(self) -> None:
        """Give the layers their own forward back, but where another has taken its place since."""
        for module, forward in self._replaced:
            if module.forward is forward:
                module.forward = forward.args[1]
        self._replaced = []

    def _forward(self, held: Held, stock: Any, *inputs: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        if self._on and len(inputs) == 1 and not named:
            (x,) = inputs
            if x.dtype in DTYPES and x.device.type == "cpu":
                return held(x)
        found: torch.Tensor = stock(*inputs, **named)
        return found


def _held(module: Any, is_head: bool) -> Held | None:
    """None for what C does not compute, or not faster."""
    if (
        type(module) not in (nn.Linear, Linear4bit, Linear8bitLt)
        or module.out_features % ROWS
        or not functions()
    ):
        return None
    weight: Any = module.weight
    if weight.device.type != "cpu" or not weight.is_contiguous():
        return None
    bias = None if module.bias is None else module.bias.detach().float().contiguous()
    if isinstance(module, Linear4bit):
        return _held_nf4(module, bias)
    if bfloat16_is_fast(weight.device):  # nor is C known to be faster in the other forms
        return None
    if isinstance(module, Linear8bitLt):
        return _held_int8(module, bias)
    if weight.dtype is torch.float32 and is_head and (narrow := _narrowed(weight.detach())) is not None:
        return Held("linear_bf16", (narrow, bias), module)
    if weight.dtype is torch.float32:
        return Held("linear_fp32", (weight.detach(), bias), module)
    if weight.dtype is torch.bfloat16:
        return Held("linear_bf16", (weight.detach(), bias), module)
    return None


def _narrowed(weight: torch.Tensor) -> torch.Tensor | None:
    """The same numbers in half the bytes; None where bf16 has not all of them.

    The head is the largest layer, and every token reads all of it. Bases that compute in fp32 because the
    processor has no fast bf16 have had theirs widened.
    """
    narrow = torch.empty(weight.shape, dtype=torch.bfloat16)
    for first in range(0, len(weight), NARROWED_AT_ONCE):
        rows = slice(first, first + NARROWED_AT_ONCE)
        narrow[rows] = weight[rows]
        if not torch.equal(narrow[rows].float(), weight[rows]):
            return None
    return narrow


def _held_nf4(module: Any, bias: torch.Tensor | None) -> Held | None:
    """Layers that bitsandbytes packs for its own fast kernel are left to it."""
    state = module.weight.quant_state
    plain = state.quant_type == "nf4" and state.blocksize == BLOCK and module.in_features % BLOCK == 0
    if module.support_avx512bf16_for_cpu or not plain:
        return None
    scales = state.absmax
    if state.nested:
        scales = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    tensors = (module.weight.data, scales.float().contiguous(), state.code.float().contiguous(), bias)
    return Held("linear_nf4", tensors, module)


def _held_int8(module: Any, bias: torch.Tensor | None) -> Held | None:
    """Its scales lie beside the weight until the first forward, then in the state."""
    scales = module.weight.SCB if module.state.SCB is None else module.state.SCB
    if module.state.threshold > 0 or module.weight.dtype is not torch.int8:
        return None
    tensors = (module.weight.data, scales.float().contiguous(), bias)
    return HeldInt8("linear_int8", tensors, module)
