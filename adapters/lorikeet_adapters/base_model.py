"""Load the frozen base model once, in the form it will be served in, and fingerprint it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar

from lorikeet_adapters.base_source import resolve_source
from lorikeet_adapters.context import context_length
from lorikeet_adapters.errors import BaseModelRefused
from lorikeet_adapters.families import refusal
from lorikeet_adapters.outline import LinearShape, Outline, outline_of
from lorikeet_adapters.precision import bfloat16_is_fast, compute_in_float32
from lorikeet_adapters.quantization import Quantization

QUANTISED = frozenset({Quantization.NF4, Quantization.INT8})
# What transformers and those below it raise for files that are wrong.
LOADING_ERRORS = (
    AttributeError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A resident base. Nothing here changes after loading."""

    model: PreTrainedModel
    source: str
    name: str
    quantization: Quantization
    device: torch.device
    compute_dtype: torch.dtype
    fingerprint: str
    outline: Outline
    bytes_by_dtype: Mapping[str, int]
    unpacked: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(self.bytes_by_dtype.values())

    @property
    def linears(self) -> Mapping[str, LinearShape]:
        return self.outline.linears

    @property
    def context_length(self) -> int:
        """Longest sequence in tokens that the model's positions were made for."""
        return context_length(self.model.config)


def load_base(
    source: str,
    quantization: str = "auto",
    device: str = "cpu",
    *,
    for_training: bool = False,
    trust_remote_code: bool = False,
) -> BaseModel:
    """Load `source` and freeze it in eval mode.

    With `for_training` the CPU kernel that repacks NF4 weights in place is switched off, because a
    packed layer has no backward. Raises BaseModelRefused with one line of reason.
    """
    where = resolve_source(source)
    kind = Quantization.NF4 if quantization == Quantization.AUTO else Quantization(quantization)
    target = torch.device(device)
    _refuse_unservable(source, where, trust_remote_code)
    disable_progress_bar()  # transformers draws one over whatever the caller prints
    dtype = torch.float32 if kind is Quantization.FP32 else torch.bfloat16
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            where,
            dtype=dtype,
            quantization_config=_bitsandbytes_config(kind),
            device_map={"": target},
            trust_remote_code=trust_remote_code,
            local_files_only=Path(where).is_dir(),
            use_safetensors=True,  # a pickle is never opened
            output_loading_info=True,
        )
    except LOADING_ERRORS as error:
        raise BaseModelRefused(f"cannot load the base model `{source}`: {_first_line(error)}") from error
    _refuse_incomplete(source, loading["missing_keys"])
    model.eval()
    model.requires_grad_(False)
    unpacked = _guard_packing(model, for_training)
    taken = fingerprint(model)
    if kind in QUANTISED and not bfloat16_is_fast(target):
        compute_in_float32(model)
        dtype = torch.float32
    return BaseModel(
        model=model,
        source=source,
        name=_display_name(source),
        quantization=kind,
        device=target,
        compute_dtype=dtype,
        fingerprint=taken,
        outline=outline_of(model),
        bytes_by_dtype=bytes_by_dtype(model),
        unpacked=unpacked,
    )


def outline(source: str, trust_remote_code: bool = False) -> Outline:
    """What adapters can change of a base, from its config alone: nothing is read of its weights."""
    where = resolve_source(source)
    _refuse_unservable(source, where, trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            return outline_of(AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code))
    except LOADING_ERRORS as error:
        raise BaseModelRefused(f"`{source}` describes no base model: {_first_line(error)}") from error


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of everything the model holds.

    Taken before the first forward: bitsandbytes repacks NF4 weights in place on some CPUs.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(model)):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def bytes_by_dtype(model: nn.Module) -> dict[str, int]:
    """Bytes held, counted once where tensors are shared (a tied head)."""
    held: Counter[str] = Counter()
    seen: set[int] = set()
    for _, tensor in _tensors(model):
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            held[str(tensor.dtype).removeprefix("torch.")] += tensor.numel() * tensor.element_size()
    return dict(held)


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return iter(cast("Mapping[str, torch.Tensor]", _tensor_state(model)).items())


def _tensor_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def _refuse_unservable(source: str, where: str, trust_remote_code: bool) -> None:
    if Path(where).is_dir() and not (Path(where) / "config.json").is_file():
        raise BaseModelRefused(f"`{source}` is no model folder: it has no config.json")
    if not Path(where).is_dir() and (where.startswith((".", "/", "~")) or where.count("/") > 1):
        raise BaseModelRefused(f"`{source}` is neither a folder nor a hub id like owner/name")
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code)
    except LOADING_ERRORS as error:
        raise BaseModelRefused(f"`{source}` has no readable model config: {_first_line(error)}") from error
    reason = refusal(config)
    if reason is not None:
        raise BaseModelRefused(f"`{source}` is not served: a {config.model_type} model {reason}")


def _refuse_incomplete(source: str, missing: Collection[str]) -> None:
    """transformers fills what a checkpoint lacks with random numbers and a line in its log."""
    if missing:
        raise BaseModelRefused(
            f"`{source}` lacks {len(missing)} of the model's weights, {min(missing)} among them; "
            "download or save the model again"
        )


def _bitsandbytes_config(kind: Quantization) -> BitsAndBytesConfig | None:
    if kind is Quantization.NF4:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    if kind is Quantization.INT8:
        # It warns of its cast to float16, which is how int8 works, in every layer of every step.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        # Threshold 0: the outlier path is slow on a CPU and cannot be captured in a CUDA graph.
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    return None


def _guard_packing(model: nn.Module, for_training: bool) -> tuple[str, ...]:
    """Keep NF4 layers unpacked where packing would break them; returns the names left unpacked.

    The packed AVX-512 kernel has no backward, and asserts N % 32 == 0 and K % 64 == 0.
    """
    unpacked = []
    for name, module in model.named_modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        fits = module.out_features % 32 == 0 and module.in_features % 64 == 0
        if for_training or not fits:
            module.support_avx512bf16_for_cpu = False
        if not module.support_avx512bf16_for_cpu:
            unpacked.append(name)
    return tuple(unpacked)


def _display_name(source: str) -> str:
    return Path(source).name or source


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
