"""The gate before serving: it passes what is right and refuses what is broken, naming step and number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.errors import BaseModelRefused
from lorikeet_server.engine.runner import Runner
from lorikeet_server.engine.selftest import FP32_BOUND, LOW_PRECISION_BOUND, self_test
from tests.tiny import CONFIGS, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("selftest") / "base", "llama")


@pytest.mark.parametrize("architecture", [name for name in CONFIGS if name != "llama"])
def test_it_passes_on_every_architecture_in_fp32(architecture: str, tmp_path: Path) -> None:
    result = self_test(load_base(str(save_model(tmp_path, architecture)), "fp32"))
    assert result.difference <= result.bound == FP32_BOUND


@pytest.mark.parametrize("quantization", ["nf4", "int8", "bf16"])
def test_it_passes_within_the_stated_bound_when_quantised(folder: Path, quantization: str) -> None:
    """Nothing need differ at all: a kernel that computes each row by itself does not know the batch."""
    result = self_test(load_base(str(folder), quantization))
    assert result.difference <= result.bound == LOW_PRECISION_BOUND


def test_what_is_not_proven_token_for_token_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base = load_base(str(folder), "fp32")
    self_test(base)
    assert not caplog.records
    monkeypatch.setattr(base.model.config, "model_type", "homemade")
    self_test(base)
    assert "homemade models are not among those proven token for token" in caplog.text


def test_it_leaves_nothing_attached(folder: Path) -> None:
    base = load_base(str(folder), "fp32")
    self_test(base)
    assert not any(module._forward_hooks for module in base.model.modules())


def test_layers_that_see_other_tokens_than_the_batch_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an expert layer does: it gets some of the tokens, so their mixes cannot be told."""
    base = load_base(str(folder), "fp32")
    mlp = base.model.get_submodule("model.layers.0.mlp")
    monkeypatch.setattr(type(mlp), "forward", lambda self, x: self.down_proj(self.gate_proj(x)[:1]) + 0 * x)
    with pytest.raises(BaseModelRefused, match="do not take batched slots and rank rows"):
        self_test(base)


def test_a_broken_mask_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One column too wide: every row then attends to a column that is not its own."""
    forward = Runner._forward

    def unmasked(
        self: Runner, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, *rest: Any
    ) -> torch.Tensor:
        return forward(self, tokens, torch.ones_like(mask), positions, *rest)

    monkeypatch.setattr(Runner, "_forward", unmasked)
    with pytest.raises(
        BaseModelRefused, match=r"at step \d+ the batched path differs .* by .* standard deviations"
    ):
        self_test(load_base(str(folder), "fp32"))
