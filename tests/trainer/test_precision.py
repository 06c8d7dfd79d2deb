"""Where bfloat16 is slow the arithmetic is widened, and the weights stay what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit

from lorikeet_adapters.base_model import load_base
from lorikeet_trainer.device import Device
from lorikeet_trainer.precision import bfloat16_is_fast, compute_in_float32

IDS = torch.tensor([[5, 9, 40, 7, 100, 33]])


@pytest.mark.parametrize(("capability", "fast"), [("AVX512", True), ("AVX2", False), ("DEFAULT", False)])
def test_only_a_slow_cpu_needs_it(capability: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert bfloat16_is_fast(Device.CPU) is fast
    assert bfloat16_is_fast(Device.CUDA)


@pytest.mark.parametrize("quantization", ["nf4", "int8", "bf16"])
def test_the_arithmetic_widens_and_the_weights_stay(quantization: str, base_folder: Path) -> None:
    model = load_base(str(base_folder), quantization, for_training=True).model
    held = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    narrow_dtypes: set[torch.dtype] = set()
    wide_dtypes: set[torch.dtype] = set()
    with torch.no_grad():
        narrow = logits(model, narrow_dtypes)
        compute_in_float32(model)
        wide = logits(model, wide_dtypes)
    assert (narrow_dtypes, wide_dtypes) == ({torch.bfloat16}, {torch.float32})
    assert 0 < (wide - narrow.float()).abs().max() < 0.1 * wide.std()
    for name, tensor in model.state_dict().items():
        # To the bit: widened values are equal, and whole numbers are not touched.
        assert torch.equal(tensor.to(held[name].dtype), held[name]), name
    assert any(isinstance(module, Linear4bit) for module in model.modules()) == (quantization == "nf4")


def logits(model: torch.nn.Module, seen: set[torch.dtype]) -> torch.Tensor:
    """Run the model, noting in `seen` what every projection gives out."""

    def note(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        seen.add(output.dtype)

    hooks = [
        module.register_forward_hook(note)
        for name, module in model.named_modules()
        if name.endswith(("_proj", "norm"))
    ]
    result: torch.Tensor = model(IDS).logits
    for hook in hooks:
        hook.remove()
    return result
