"""adapter_model.safetensors by key: every tensor is a known part of a module, or a reason to refuse."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open

from lorikeet_adapters.finding import Finding
from lorikeet_adapters.header import judge_header

PREFIX = "base_model.model."
MODULE = re.compile(r"\w+(\.\w+)*")
DTYPES = frozenset({"F32", "F16", "BF16"})
MAX_TENSORS = 100_000
MAX_KEY = 512  # characters of a tensor's name
SAVE_AGAIN = "save the adapter again"


class Part(StrEnum):
    A = "lora_A"
    B = "lora_B"
    B_BIAS = "lora_B.bias"
    EMBEDDING_A = "lora_embedding_A"
    EMBEDDING_B = "lora_embedding_B"
    MAGNITUDE = "lora_magnitude_vector"
    BIAS = "bias"  # the base's own, trained
    COPY = "weight"  # of an embedding or head that PEFT saves beside its LoRA


# How each part's key ends, longest first. PEFT has written some parts in more than one way.
ENDINGS = {
    ".lora_magnitude_vector.weight": Part.MAGNITUDE,
    ".lora_magnitude_vector": Part.MAGNITUDE,
    ".lora_embedding_A": Part.EMBEDDING_A,
    ".lora_embedding_B": Part.EMBEDDING_B,
    ".base_layer.weight": Part.COPY,
    ".base_layer.bias": Part.BIAS,
    ".lora_A.weight": Part.A,
    ".lora_B.weight": Part.B,
    ".lora_B.bias": Part.B_BIAS,
    ".weight": Part.COPY,
    ".bias": Part.BIAS,
}

Parts: TypeAlias = dict[str, dict[Part, torch.Tensor]]  # by module


def read_parts(path: Path) -> tuple[Parts, list[Finding]]:
    """Every part; of the copies, which may be larger than all others together, only the shapes."""
    parts: Parts = defaultdict(dict)
    findings: list[Finding] = []
    with _reading(path, findings) as file:
        keys = file.keys() if file else []
        if len(keys) > MAX_TENSORS:
            message = f"adapter_model.safetensors holds {len(keys)} tensors, the most is {MAX_TENSORS}"
            return {}, [Finding("too_many_tensors", message, "save the adapter's own tensors only")]
        for key in keys:
            found = parse_key(key)
            finding = _judge(key, found, file, parts)
            if finding is not None:
                findings.append(finding)
            elif found is not None:
                module, part = found
                parts[module][part] = _shape_only(file, key) if part is Part.COPY else file.get_tensor(key)
    return parts, findings


def read_copies(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """(module, weight) of each copy of a base weight, one at a time; a file that cannot be read has none."""
    with _reading(path, []) as file:
        for key in file.keys() if file else []:
            found = parse_key(key)
            if found is not None and found[1] is Part.COPY:
                yield found[0], file.get_tensor(key)


def parse_key(key: str) -> tuple[str, Part] | None:
    """(module of the base, part) of a tensor that PEFT wrote."""
    if len(key) > MAX_KEY or not key.startswith(PREFIX):
        return None
    ending = next((each for each in ENDINGS if key.endswith(each)), None)
    module = key[len(PREFIX) : -len(ending)] if ending else ""
    return (module, ENDINGS[ending]) if ending and MODULE.fullmatch(module) else None


def _judge(key: str, found: tuple[str, Part] | None, file: Any, parts: Parts) -> Finding | None:
    if found is None:
        shown = key[:MAX_KEY]
        fix = "train on linear modules and the input embedding only, without modules_to_save"
        return Finding("unsupported_tensor", f"the tensor {shown} is no part of a LoRA", fix, field=shown)
    dtype = file.get_slice(key).get_dtype()
    if dtype not in DTYPES:
        fix = "save it as float32, float16 or bfloat16"
        return Finding("unsupported_dtype", f"the tensor {key} is {dtype}", fix, field=key)
    if found[1] in parts.get(found[0], {}):
        message = f"{found[0]} has its {found[1]} twice, the second time as {key}"
        return Finding("duplicate_tensor", message, SAVE_AGAIN, field=key)
    return None


def _shape_only(file: Any, key: str) -> torch.Tensor:
    return torch.empty(file.get_slice(key).get_shape(), device="meta")


@contextmanager
def _reading(path: Path, findings: list[Finding]) -> Iterator[Any]:
    """The open file; when it cannot be opened or read, a finding, and None if it never opened."""
    opened = False
    try:
        if (wrong := judge_header(path)) is not None:
            findings.append(wrong)
        else:
            with safe_open(str(path), framework="pt", device="cpu") as file:
                opened = True
                yield file
    except (SafetensorError, OSError) as error:
        # The message of an OSError names the path, which is nobody's business but the server's.
        reason = error if isinstance(error, SafetensorError) else "the file cannot be opened"
        message = f"adapter_model.safetensors cannot be read: {reason}"
        findings.append(Finding("bad_safetensors", message, "save or download the adapter again"))
    if not opened:
        yield None
