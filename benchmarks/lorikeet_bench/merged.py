"""An adapter merged into its base by PEFT at full precision, then held like the base itself."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.base_source import resolve_source
from lorikeet_adapters.quantization import Quantization
from lorikeet_bench.plan import PlanRefused


class CannotMerge(PlanRefused):
    """PEFT has no merged form of the adapter on this base; the message is its reason."""


def write_merged(base: BaseModel, adapter: Path, scratch: Path) -> Path:
    """Merge `adapter` in fp32 into the unquantised weights of `base`'s source; returns the folder, below `scratch`.

    Raises CannotMerge.
    """
    where = resolve_source(base.source)
    local = Path(where).is_dir()
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, local_files_only=local)
    if getattr(model.config, "quantization_config", None) is not None:
        raise PlanRefused(
            f"`{base.source}` ships quantised weights: nothing can be merged into them at full precision"
        )
    folder = scratch / "merged"
    with warnings.catch_warnings():
        # peft reads transformers' old name; nobody who runs a benchmark can change that
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        adapted = PeftModel.from_pretrained(model, adapter)
        try:
            merged = adapted.merge_and_unload()
        except (RuntimeError, ValueError) as error:  # lora_bias on modules that have no bias, and the like
            raise CannotMerge(f"{adapter.name} cannot be merged: {error}") from error
    merged.save_pretrained(folder)
    return folder


def hold_merged(base: BaseModel, folder: Path, quantization: Quantization) -> BaseModel:
    """A merged copy loaded by our own loader.

    With the quantisation of `base`, merged / unmerged compares nothing but where the adapter is.
    """
    return load_base(str(folder), quantization.value, str(base.device))
