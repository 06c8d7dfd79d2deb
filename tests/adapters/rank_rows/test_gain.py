"""DoRA's gain against PEFT's own norm of the adapted weight, whatever the layer is and is quantised to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft.tuners.lora.dora import DoraLinearLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from lorikeet_adapters.rank_rows.gain import CHUNK, gain_of, squared_lengths
from lorikeet_adapters.weights import ModuleRows

IN, OUT, RANK = 320, 64, 5


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(IN, OUT)


def conv() -> Conv1D:
    layer = Conv1D(OUT, IN)
    layer.weight.data = torch.randn(IN, OUT) * 0.1
    return layer


def nf4() -> Linear4bit:
    layer = Linear4bit(IN, OUT, quant_type="nf4", compute_dtype=torch.float32)
    layer.load_state_dict(linear().state_dict())
    layer.support_avx512bf16_for_cpu = False  # PEFT reads the weight, which a packed layer has no more
    return layer.to("cpu").eval()


def int8() -> Linear8bitLt:
    layer = Linear8bitLt(IN, OUT, has_fp16_weights=False)
    layer.load_state_dict(linear().state_dict())
    return layer.to("cpu").eval()


@pytest.mark.filterwarnings("ignore:.*MatMul8bitLt.*")
@pytest.mark.parametrize(
    ("make", "tolerance"),
    [(linear, 1e-5), (conv, 1e-5), (nf4, 1e-5), (int8, 1e-3)],
    ids=["linear", "conv", "nf4", "int8"],
)
@pytest.mark.parametrize("size", [0.05, 3.0])
def test_the_gain_is_the_magnitude_over_pefts_norm(make: object, tolerance: float, size: float) -> None:
    """With weights small beside W's and with weights that outweigh them."""
    layer = make()  # type: ignore[operator]
    torch.manual_seed(1)
    rows = ModuleRows(torch.randn(RANK, IN), torch.randn(RANK, OUT) * size)
    magnitude = torch.rand(OUT) + 0.5
    transposed = isinstance(layer, Conv1D)
    norm = DoraLinearLayer(fan_in_fan_out=transposed).get_weight_norm(
        dequantize_module_weight(layer).float(), (rows.b.T @ rows.a), 1.0
    )
    for _ in range(2):  # an int8 layer keeps its scales elsewhere once it has run
        gain = gain_of(layer, squared_lengths(layer, IN), rows, magnitude)
        torch.testing.assert_close(gain, magnitude / norm, rtol=tolerance, atol=tolerance)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor made meanwhile."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return made


def test_lengths_are_taken_in_the_memory_of_a_chunk() -> None:
    """All unit vectors of 28672 inputs at once would be 3.3 GB."""
    layer = nn.Linear(4 * CHUNK + 1, OUT)
    with Largest() as largest:
        lengths = squared_lengths(layer, 4 * CHUNK + 1)
    torch.testing.assert_close(lengths, layer.weight.square().sum(1).detach())
    assert largest.elements <= CHUNK * (4 * CHUNK + 1)


@pytest.mark.filterwarnings("ignore:.*MatMul8bitLt.*")
def test_an_int8_layer_is_asked_for_its_weight_once_and_not_for_each_adapter() -> None:
    layer = int8()
    lengths = squared_lengths(layer, IN)
    layer.forward = None  # type: ignore[assignment]  # whoever asks it fails
    gain_of(layer, lengths, ModuleRows(torch.randn(RANK, IN), torch.randn(RANK, OUT)), torch.ones(OUT))
