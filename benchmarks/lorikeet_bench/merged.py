"""An adapter merged into its base by PEFT at full precision, then held like the base itself."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.base_source import resolve_source
from lorikeet_bench.plan import PlanRefused


def load_merged(base: BaseModel, adapter: Path, scratch: Path) -> BaseModel:
    """Merge `adapter` in fp32 into the unquantised weights of `base`'s source and load the result by our own loader.

    The fp32 copy is written below `scratch` and is not held afterwards. What is held has the
    quantisation of `base`, so merged / unmerged compares nothing but where the adapter is.
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
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(folder)
    del model, merged  # before the next copy is loaded, so that two are not held at once
    return load_base(str(folder), base.quantization.value, str(base.device))
