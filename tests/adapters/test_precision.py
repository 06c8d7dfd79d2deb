"""Where bfloat16 is slow the arithmetic is widened, and the weights stay what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit

from lorikeet_adapters import base_model
from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.precision import bfloat16_is_fast, compute_in_float32
from tests.tiny import make_model, save_model

IDS = torch.tensor([[5, 9, 40, 7, 100, 33]])


@pytest.mark.parametrize(("capability", "fast"), [("AVX512", True), ("AVX2", False), ("DEFAULT", False)])
def test_only_a_slow_cpu_needs_it(capability: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert bfloat16_is_fast(torch.device("cpu")) is fast
    assert bfloat16_is_fast(torch.device("cuda"))


@pytest.mark.parametrize("quantization", ["nf4", "int8", "bf16"])
def test_the_arithmetic_widens_and_the_weights_stay(
    quantization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model, "bfloat16_is_fast", lambda device: True)
    make_model("llama", spread=0.1).save_pretrained(tmp_path)  # wide weights would magnify int8's own noise
    base = load_base(str(tmp_path), quantization, for_training=True)
    assert base.compute_dtype is torch.bfloat16
    model = base.model
    held = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    narrow_dtypes: set[torch.dtype] = set()
    wide_dtypes: set[torch.dtype] = set()
    with torch.no_grad():
        narrow = logits(model, narrow_dtypes)
        compute_in_float32(model)
        wide = logits(model, wide_dtypes)
    assert (narrow_dtypes, wide_dtypes) == ({torch.bfloat16}, {torch.float32})
    gap = torch.quantile((wide - narrow.float()).abs().flatten(), 0.99)
    assert 0 < gap < 0.15 * wide.std()  # what the self-test allows between two computations of one base
    for name, tensor in model.state_dict().items():
        # To the bit: widened values are equal, and whole numbers are not touched.
        assert torch.equal(tensor.to(held[name].dtype), held[name]), name
    assert any(isinstance(module, Linear4bit) for module in model.modules()) == (quantization == "nf4")


@pytest.mark.parametrize(
    ("quantization", "fast", "dtype"),
    [
        ("nf4", False, torch.float32),
        ("int8", False, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("nf4", True, torch.bfloat16),
    ],
)
def test_a_quantised_base_is_served_in_what_is_fast_and_keeps_its_fingerprint(
    quantization: str, fast: bool, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(save_model(tmp_path, "llama"))
    seen: set[torch.dtype] = set()
    prints = set()
    for each in (fast, not fast):
        monkeypatch.setattr(base_model, "bfloat16_is_fast", lambda device, answer=each: answer)
        base = load_base(folder, quantization)
        prints.add(base.fingerprint)
        if each is fast:
            with torch.no_grad():
                logits(base.model, seen)
            assert base.compute_dtype is dtype
    assert seen == {dtype}
    assert len(prints) == 1


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
