"""The base: held as asked, recognised by its bytes, refused in one line when it is no base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorikeet_adapters.base_model import (
    BaseModel,
    _guard_packing,
    load_base,
    outline,
)
from lorikeet_adapters.errors import BaseModelRefused
from lorikeet_adapters.outline import LinearShape, linear_shapes
from lorikeet_adapters.precision import bfloat16_is_fast
from lorikeet_adapters.quantization import Quantization
from tests.tiny import CONFIGS, save_model

WEIGHTS = "model.safetensors"
HELD = {"nf4": {"uint8"}, "int8": {"int8"}, "bf16": {"bfloat16"}, "fp32": {"float32"}}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base") / "llama", "llama")


@pytest.fixture
def copied(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "copy"))


def reason(source: Path | str, load: Callable[..., object] = load_base) -> str:
    with pytest.raises(BaseModelRefused) as caught:
        load(str(source), "fp32") if load is load_base else load(str(source))
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize("quantization", list(HELD))
def test_every_form_is_held_as_it_says(llama: Path, quantization: str) -> None:
    base = load_base(str(llama), quantization)
    again = load_base(str(llama), quantization)
    assert base.quantization is Quantization(quantization)
    widened = quantization in ("nf4", "int8") and not bfloat16_is_fast(base.device)
    assert base.compute_dtype == (torch.float32 if quantization == "fp32" or widened else torch.bfloat16)
    assert base.fingerprint == again.fingerprint
    assert HELD[quantization] <= base.bytes_by_dtype.keys()
    assert base.bytes == sum(base.bytes_by_dtype.values())
    parameters = 2 * 36_864 + 2 * 320 * 64 + 5 * 64  # two layers, embeddings and head, norms
    if quantization == "fp32":
        assert base.bytes_by_dtype == {"float32": 4 * parameters}
    elif quantization == "bf16":
        assert base.bytes_by_dtype == {"bfloat16": 2 * parameters}
    else:
        # The linear weights of the layers, at a byte or half of one.
        expected = 2 * 36_864 // (2 if quantization == "nf4" else 1)
        assert expected <= base.bytes_by_dtype[HELD[quantization].copy().pop()] < 1.15 * expected
        kept = 2 * 320 * 64 + 5 * 64  # embeddings, head and norms; float32 also holds the scales
        if widened:
            assert 4 * kept < base.bytes_by_dtype["float32"] < 1.2 * 4 * kept
        else:
            assert base.bytes_by_dtype["bfloat16"] == 2 * kept
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    with torch.no_grad():
        assert torch.isfinite(base.model(input_ids=torch.tensor([[1, 2, 3]])).logits).all()


def test_auto_is_nf4(llama: Path) -> None:
    assert load_base(str(llama)).quantization is Quantization.NF4


def test_forms_differ_in_their_fingerprint(llama: Path) -> None:
    assert len({load_base(str(llama), each).fingerprint for each in HELD}) == len(HELD)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_one_weight_changes_the_fingerprint(llama: Path, copied: Path, name: str) -> None:
    before = load_base(str(llama), "fp32").fingerprint
    assert load_base(str(copied), "fp32").fingerprint == before, "the folder's place says nothing"

    def nudge(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[3] += 1e-3

    edit_weights(copied, nudge)
    assert load_base(str(copied), "fp32").fingerprint != before


def test_weights_that_changed_places_change_the_fingerprint(llama: Path, copied: Path) -> None:
    def swap(tensors: dict[str, torch.Tensor]) -> None:
        one, other = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"
        tensors[one], tensors[other] = tensors[other], tensors[one]

    edit_weights(copied, swap)
    assert load_base(str(copied), "fp32").fingerprint != load_base(str(llama), "fp32").fingerprint


def test_tied_weights_are_counted_once(tmp_path: Path) -> None:
    base = load_base(str(save_model(tmp_path, "gpt2")), "fp32")
    head = base.model.get_output_embeddings().weight
    assert head.data_ptr() == base.model.get_input_embeddings().weight.data_ptr()
    assert base.bytes == 4 * sum(parameter.numel() for parameter in base.model.parameters())
    both = 4 * sum(tensor.numel() for tensor in base.model.state_dict().values())
    assert base.bytes == both - 4 * head.numel()


@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_the_outline_is_what_loading_finds(tmp_path: Path, architecture: str) -> None:
    folder = save_model(tmp_path, architecture)
    base = load_base(str(folder), "fp32")
    assert base.linears
    (folder / WEIGHTS).unlink()
    assert outline(str(folder)) == base.outline
    for name, shape in base.linears.items():
        module = base.model.get_submodule(name)
        made = module(torch.zeros(1, 1, shape.in_features))
        assert made.shape[-1] == shape.out_features, name


def test_the_linears_of_a_quantised_base_are_those_of_the_plain_one(llama: Path) -> None:
    plain = load_base(str(llama), "fp32").linears
    assert plain["model.layers.1.self_attn.k_proj"] == LinearShape(64, 32)
    assert plain["lm_head"] == LinearShape(64, 320)
    for quantization in ("nf4", "int8"):
        assert load_base(str(llama), quantization).linears == plain


def test_layers_a_packed_kernel_cannot_take_are_left_unpacked(llama: Path) -> None:
    """For training all of them, because a packed layer has no backward."""
    base = load_base(str(llama), "nf4", for_training=True)
    assert set(base.unpacked) == base.linears.keys() - {"lm_head"}
    x = torch.randn(1, 1, 64, dtype=base.compute_dtype, requires_grad=True)
    base.model.get_submodule("model.layers.0.mlp.up_proj")(x).sum().backward()
    assert x.grad is not None


def test_which_layers_the_packed_kernel_takes(llama: Path) -> None:
    """On any machine: the layers say what they would do where the processor has the instructions."""
    for for_training in (False, True):
        model = load_base(str(llama), "nf4").model
        layers = {
            name: module
            for name, module in model.named_modules()
            if hasattr(module, "support_avx512bf16_for_cpu")
        }
        assert len(layers) == 14
        for module in layers.values():
            module.support_avx512bf16_for_cpu = True
        odd = "model.layers.1.mlp.down_proj"
        layers[odd].out_features = 65
        unpacked = _guard_packing(model, for_training)
        assert set(unpacked) == (layers.keys() if for_training else {odd})
        for name, module in layers.items():
            assert module.support_avx512bf16_for_cpu is (name not in unpacked)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("./nowhere", "neither a folder nor a hub id"),
        ("/nowhere/at/all", "neither a folder nor a hub id"),
        ("~/model", "neither a folder nor a hub id"),
        ("a/b/c", "neither a folder nor a hub id"),
        ("justaword", "`justaword` has no readable model config"),
        ("", "neither a folder nor a hub id"),
    ],
)
def test_a_source_that_is_none(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if source:
        assert words in reason(source)
    else:
        assert "config.json" in reason(source), "the working directory, and no model"


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert "no config.json" in reason(tmp_path)
    assert "no config.json" in reason(tmp_path, outline)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "{}", '"llama"', "\ud800"])
def test_a_config_that_is_none(copied: Path, text: str) -> None:
    (copied / "config.json").write_text(text, errors="surrogatepass")
    assert "config" in reason(copied)
    assert "config" in reason(copied, outline)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "invented"},
        {"model_type": ["llama"]},
        {"model_type": "t5"},
        {"hidden_size": "64"},
        {"hidden_size": -64},
        {"hidden_size": None},
        {"dtype": "float17"},
        {"quantization_config": 3},
    ],
)
def test_a_config_with_a_wrong_value(copied: Path, change: dict[str, Any]) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, **change}))
    reason(copied)
    reason(copied, outline)


def test_missing_weights(copied: Path) -> None:
    (copied / WEIGHTS).unlink()
    assert "safetensors" in reason(copied)


@pytest.mark.safety("security 4")
def test_a_pickle_is_never_opened(copied: Path) -> None:
    torch.save(load_file(copied / WEIGHTS), copied / "pytorch_model.bin")
    (copied / WEIGHTS).unlink()
    assert "safetensors" in reason(copied)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_truncated_weights_file(copied: Path, kept: int) -> None:
    content = (copied / WEIGHTS).read_bytes()
    (copied / WEIGHTS).write_bytes(content[:kept])
    assert "cannot load" in reason(copied)


def test_a_weight_the_checkpoint_lacks_is_not_made_up(copied: Path) -> None:
    """transformers would draw it at random, another one at every start, and serve that."""
    name = "model.layers.0.mlp.up_proj.weight"
    edit_weights(copied, lambda tensors: tensors.pop(name))
    assert name in reason(copied)


def test_a_weight_of_another_shape(copied: Path) -> None:
    def widen(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] = torch.ones(65)

    edit_weights(copied, widen)
    assert "cannot load" in reason(copied)


class Router(nn.Linear):
    """As transformers' Llama4Router: a linear layer by class, whose forward returns two tensors."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        logits = super().forward(x)
        return logits.sigmoid(), logits


class Head(nn.Linear):
    """As FalconLinear: a forward of its own that does what nn.Linear's does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T + self.bias


def test_only_what_maps_each_token_of_the_batch_by_a_matrix_can_carry_rows() -> None:
    model = nn.ModuleDict(
        {
            "router": Router(4, 3),
            "mlp": nn.ModuleDict(
                {"experts": nn.ModuleList([nn.Linear(4, 4)]), "shared_experts": nn.Linear(4, 8)}
            ),
            "head": Head(4, 5),
            "experts": nn.ModuleList([nn.Linear(4, 4)]),
            "conv": Conv1D(6, 4),
        }
    )
    assert linear_shapes(model) == {
        "mlp.shared_experts": LinearShape(4, 8),
        "head": LinearShape(4, 5),
        "conv": LinearShape(4, 6),
    }


def test_a_name_is_the_last_part_of_where_it_came_from(llama: Path) -> None:
    base: BaseModel = load_base(str(llama), "fp32")
    assert (base.name, base.source) == ("llama", str(llama))
    assert base.context_length == base.model.config.max_position_embeddings
