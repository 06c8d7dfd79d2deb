"""A base's checkpoint, read from its files as they were saved: single tensors, and a digest of them all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file


def read_tensor(where: str, names: list[str]) -> torch.Tensor | None:
    """The first of these tensors that the checkpoint has; None when it has none or cannot be read.

    A name counts with and without its first part, because checkpoints are saved both with and
    without the head around the model. `where` is a folder or a hub id whose files are here.
    """
    wanted = [each for name in names for each in (name, name.partition(".")[2]) if each]
    try:
        for name in wanted:
            for file in _files(where, name):
                with safe_open(file, framework="pt") as tensors:
                    if name in tensors.keys():  # noqa: SIM118  (no mapping, keys() is all it has)
                        found: torch.Tensor = tensors.get_tensor(name)
                        return found
    except (OSError, SafetensorError, ValueError):
        pass
    return None


def checkpoint_digest(where: str) -> str:
    """SHA-256 over every tensor's name, dtype, shape and first row; empty when it cannot be read.

    It is the same in whatever form the base is held, and costs little on a base of any size: other
    training moves every tensor, so its first row too.
    """
    told: list[tuple[str, str]] = []
    try:
        for file in _all_files(where):
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (no mapping, keys() is all it has)
                    told.append((name, _summary(tensors.get_slice(name))))
    except (OSError, SafetensorError, ValueError):
        return ""
    return hashlib.sha256(json.dumps(sorted(told)).encode()).hexdigest() if told else ""


def _summary(tensor: Any) -> str:
    shape = tensor.get_shape()
    first = tensor[:1] if shape else tensor[...]
    digest = hashlib.sha256(f"{tensor.get_dtype()} {shape}".encode())
    flat = first.contiguous().flatten()
    digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def _all_files(where: str) -> list[str]:
    index = _local(where, SAFE_WEIGHTS_INDEX_NAME)
    names = [SAFE_WEIGHTS_NAME]
    if index is not None:
        names = sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
    return [found for name in names if (found := _local(where, name))]


def _files(where: str, name: str) -> Iterator[str]:
    """The file that the index names for this tensor, or the only one."""
    index = _local(where, SAFE_WEIGHTS_INDEX_NAME)
    if index is None:
        whole = _local(where, SAFE_WEIGHTS_NAME)
        yield from [whole] if whole else []
        return
    shard = json.loads(Path(index).read_text())["weight_map"].get(name)
    found = _local(where, shard) if shard else None
    yield from [found] if found else []


def _local(where: str, name: str) -> str | None:
    found: str | None = cached_file(
        where, name, local_files_only=True, _raise_exceptions_for_missing_entries=False
    )
    return found
