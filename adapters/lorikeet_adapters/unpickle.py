"""Run as a script by `convert.py`, never imported: the one place where a pickle is read.

`torch.load(weights_only=True)` builds tensors and plain containers only; should it have a hole, this
is a process of its own, under limits, with no secret in its environment.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import torch
from safetensors.torch import save_file

CPU_S = 300
SLACK = 1 << 30  # bytes of memory beside copies of the tensors
NAMED = 5


class Refused(Exception):
    """Ends the script with a reason."""


def main() -> None:
    request = json.loads(sys.argv[1])
    size = os.fstat(0).st_size
    torch.set_num_threads(1)
    _limit(size)
    try:
        tensors = _checked(torch.load(sys.stdin.buffer, map_location="cpu", weights_only=True), size)
        save_file(tensors, request["output"], metadata={"format": "pt"})
        answer: dict[str, object] = {"tensors": len(tensors), "bytes": Path(request["output"]).stat().st_size}
    except Refused as refused:
        answer = {"refused": str(refused)}
    except Exception as error:
        traceback.print_exc()
        is_memory = isinstance(error, MemoryError) or "allocate memory" in str(
            error
        )  # torch's is a RuntimeError
        reason = (
            "it needs far more memory than its size"
            if is_memory
            else "it is no pickle of tensors alone, or a damaged one"
        )
        answer = {"refused": reason}
    print(json.dumps(answer))


def _limit(size: int) -> None:
    """Memory, time and output in proportion to the file: tensors stored once take what they take on disk."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: CPU_S,
        resource.RLIMIT_FSIZE: 2 * size + (1 << 20),
    }
    if pages:
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + 4 * size + SLACK
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))


def _checked(value: object, size: int) -> dict[str, torch.Tensor]:
    if not isinstance(value, dict):
        _refuse(f"it holds a {type(value).__name__}, not a dict of tensors")
    if not value:
        _refuse("it holds no tensor")
    wrong = [str(key)[:80] for key, each in value.items() if not (isinstance(key, str) and _is_plain(each))]
    if wrong:
        _refuse(f"not a flat dict of tensors: {', '.join(ascii(each) for each in wrong[:NAMED])}")
    if sum(each.numel() * each.itemsize for each in value.values()) > 2 * size:
        _refuse("its tensors are larger than the file: they share or repeat what it stores")
    return {key: each.detach().clone(memory_format=torch.contiguous_format) for key, each in value.items()}


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _refuse(reason: str) -> NoReturn:
    raise Refused(reason)


if __name__ == "__main__":
    main()
