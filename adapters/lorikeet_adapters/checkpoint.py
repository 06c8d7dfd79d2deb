"""Single tensors of a base's checkpoint, read from its files as they were saved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

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
