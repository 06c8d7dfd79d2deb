"""Uploads fed in pieces, and tars made by the standard library."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lorikeet_adapters.arrival import Intake
from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.upload import Upload

CONFIG = b'{"peft_type": "LORA"}'
WEIGHTS = bytes(range(256)) * 7 + b"tail"
GOOD = {"adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS}


class Reader(Protocol):
    def feed(self, data: bytes) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Taken:
    config: bytes
    weights: bytes
    warnings: tuple[str, ...]


def feed(reader: Reader, body: bytes, sizes: Iterable[int] = ()) -> None:
    """The body in pieces of these sizes, and what is left over in one."""
    for size in sizes:
        reader.feed(body[:size])
        body = body[size:]
    reader.feed(body)
    reader.close()


def take(folder: Path, upload: Upload) -> Taken:
    files = upload.files()
    assert not isinstance(files.weights, io.BufferedReader)
    files.weights.seal()
    return Taken(files.config, files.weights.path.read_bytes(), files.warnings)


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """One header and its data, without an end mark."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + data + bytes(-len(data) % 512)


def tar_of(files: dict[str, bytes], folder: str = "", form: int = tarfile.PAX_FORMAT) -> bytes:
    """As `tar` packs it; a modification time with fractions makes pax write an extension."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        if folder:
            made = tarfile.TarInfo(folder)
            made.type = tarfile.DIRTYPE
            tar.addfile(made)
        for name, data in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
            info.size = len(data)
            info.mtime = 1.5
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def reason(error: RefusedError) -> str:
    """The code of a finding, or the sentence where there is none."""
    findings = getattr(error, "findings", ())
    return findings[0].code if findings else str(error)


def intake(folder: Path) -> Intake:
    return Intake(folder / "incoming")
