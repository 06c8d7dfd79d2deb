"""What the safetensors library does not say of a file: what it is instead, and names given twice.

Layout: eight bytes of length, little-endian, then that much JSON, then the tensors' bytes. Everything
else about the header (offsets, shapes, dtypes, sizes) the library itself refuses, with its reason.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from lorikeet_adapters.finding import Finding
from lorikeet_adapters.spec import LFS_MARKER

MAX_HEADER_BYTES = 16 << 20  # 160 for each of a hundred thousand tensors
MAX_NAMED = 20
MAX_NAME = 200  # characters of a name in a message
WEIGHTS = "adapter_model.safetensors"
CONVERT = "run `lorikeet adapters convert FOLDER` on the adapter_model.bin, where you trust it"
# How files begin that are often found under this name, and what to do about each.
DISGUISES = (
    (LFS_MARKER, "lfs_pointer", "a Git LFS pointer, not the file", "git lfs pull"),
    (b"PK\x03\x04", "pickle_renamed", "a zip archive, the form of a pickle that PyTorch saved", CONVERT),
    (b"\x1f\x8b", "compressed", "compressed with gzip", "gunzip it"),
    (b"GGUF", "wrong_format", "a GGUF file", "register the adapter that PEFT saved"),
    (b"<", "wrong_format", "a web page or XML, not weights", "download the adapter again"),
)
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def judge_header(path: Path) -> Finding | None:
    """The first reason why this is no safetensors file to be opened; None leaves the rest to the library.

    Raises OSError when the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(64)
        if start[8:9] != b"{":  # then it cannot be one, whatever the length says
            return _judge_start(start)
        length = int.from_bytes(start[:8], "little")
        if length > MAX_HEADER_BYTES and length <= path.stat().st_size:
            message = f"{WEIGHTS} has a header of {length} bytes, the most is {MAX_HEADER_BYTES}"
            return Finding("header_too_large", message, "save the adapter's own tensors only", field=WEIGHTS)
        file.seek(8)
        return _judge_names(file.read(min(length, MAX_HEADER_BYTES)))


def _judge_start(start: bytes) -> Finding | None:
    if not start:
        return Finding(
            "empty_file", f"{WEIGHTS} is empty", "save or download the adapter again", field=WEIGHTS
        )
    for marker, code, what, fix in DISGUISES:
        if start.startswith(marker):
            return Finding(code, f"{WEIGHTS} is {what}", fix, field=WEIGHTS)
    if start.startswith(PICKLES):
        return Finding(
            "pickle_renamed", f"{WEIGHTS} is a pickle, which is never opened", CONVERT, field=WEIGHTS
        )
    return None


def _judge_names(header: bytes) -> Finding | None:
    """A name given twice means whichever the reader keeps, so it means nothing."""
    twice: Counter[str] = Counter()

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice.update(name for name, count in counts.items() if count > 1)
        return made

    try:
        json.loads(header, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return None
    if not twice:
        return None
    named = ", ".join(
        name[:MAX_NAME].encode("ascii", "backslashreplace").decode() for name in sorted(twice)[:MAX_NAMED]
    )
    message = f"the header of {WEIGHTS} gives the same name twice: {named}"
    return Finding("duplicate_tensor", message, "save the adapter again", field=WEIGHTS)
