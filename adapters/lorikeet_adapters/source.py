"""Adapter files as the registry takes them, and the plainest source: a folder, confined to a configured root."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from lorikeet_adapters.arrival import Arrival
from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.finding import Finding

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """Both files of an adapter, opened. `origin` is what the record shows as their source."""

    config: bytes
    weights: BinaryIO | Arrival
    origin: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def confine(root: Path, path: str) -> Path:
    """The real folder meant by `path`, relative to `root` or inside it. Raises AdapterRefused when it is elsewhere."""
    real_root = root.resolve()
    try:
        folder = (real_root / path).resolve()
    except (OSError, ValueError, RuntimeError):  # a NUL, a lone surrogate, a loop of links
        _refuse("no_folder", "source.path", f"{path!r} is no path", "name the folder that PEFT saved")
    if not folder.is_relative_to(real_root):
        _refuse(
            "outside_root",
            "source.path",
            f"{path!r} is outside the adapters root",
            "move the folder below the root, or start the server with --adapters-root",
        )
    return folder


@contextmanager
def open_folder(folder: Path, word: str = "") -> Iterator[AdapterFiles]:
    """Open both files of a PEFT folder. Raises AdapterRefused when one is missing or no regular file.

    `word` is the folder as who asks has named it, for refusals; default: the last part of it.
    """
    word = word or folder.name
    if not os.path.isdir(folder):  # unlike Path.is_dir it is False for a name too long or not ours to read
        what = "is no folder" if os.path.lexists(folder) else "does not exist"
        _refuse("no_folder", "source.path", f"{word!r} {what}", "name the folder that PEFT saved")
    check_has_config(folder, word)
    with open_regular(folder, CONFIG_FILE) as config:
        text = config.read(MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        _refuse("too_large", CONFIG_FILE, f"{CONFIG_FILE} is over {MAX_CONFIG_BYTES} bytes", "")
    if not (folder / WEIGHTS_FILE).exists() and (folder / PICKLE_FILE).exists():
        refuse_pickle()
    with open_regular(folder, WEIGHTS_FILE) as weights:
        yield AdapterFiles(text, weights, {"type": "local", "path": folder.name})


def check_has_config(folder: Path, word: str) -> None:
    """Raises AdapterRefused for a folder that PEFT has not saved."""
    if not os.path.lexists(folder / CONFIG_FILE):
        is_model = os.path.lexists(folder / "config.json")
        fix = "it holds a model; name the adapter's folder" if is_model else "name the folder that PEFT saved"
        _refuse("missing_file", CONFIG_FILE, f"{word!r} has no {CONFIG_FILE}", fix)


def refuse_pickle() -> NoReturn:
    _refuse(
        "pickle_only",
        WEIGHTS_FILE,
        f"the weights are in {PICKLE_FILE}, a pickle, which the server never opens",
        "run `lorikeet adapters convert FOLDER` on it, if you trust where it comes from",
    )


def open_regular(folder: Path, name: str) -> BinaryIO:
    """Raises AdapterRefused when it is missing or anything but a regular file; links are not followed."""
    try:
        # O_NOFOLLOW and the check on the open file: a link put here after `confine` leads nowhere.
        handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        _refuse(
            "missing_file",
            name,
            f"{name} cannot be opened: {error.strerror}",
            "save the adapter again with PEFT",
        )
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        _refuse("not_a_file", name, f"{name} is no regular file", "save the adapter again with PEFT")
    return os.fdopen(handle, "rb")


def _refuse(code: str, field: str, message: str, fix: str) -> NoReturn:
    raise AdapterRefused([Finding(code, message, fix, field=field)])
