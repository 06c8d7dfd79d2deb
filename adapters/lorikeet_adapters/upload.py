"""The files of one upload as they stream by: the config is kept, the weights go to the disk, extras nowhere.

What reads the wire (`form.py`, `tar.py`) names a file, hands over its bytes and ends it; no name from
outside ever becomes a path.
"""

from __future__ import annotations

from typing import NoReturn

from lorikeet_adapters.arrival import Arrival
from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.finding import Finding
from lorikeet_adapters.source import (
    CONFIG_FILE,
    MAX_CONFIG_BYTES,
    PICKLE_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
    refuse_pickle,
)

FILES = frozenset({CONFIG_FILE, WEIGHTS_FILE})
# What PEFT, transformers and trainers write beside the two files. Skipped by name, never looked into.
EXTRAS = frozenset(
    {
        ".gitattributes",
        PICKLE_FILE,
        "added_tokens.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "optimizer.pt",
        "preprocessor_config.json",
        "README.md",
        "rng_state.pth",
        "scaler.pt",
        "scheduler.pt",
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "trainer_state.json",
        "training_args.bin",
        "training_provenance.json",
        "vocab.json",
        "vocab.txt",
    }
)
APPLE_DOUBLE = "._"  # what macOS adds to an archive beside each file
MAX_SHOWN = 80  # characters of a name in a message
FIX = f"send {CONFIG_FILE} and {WEIGHTS_FILE}, as PEFT saves them"


class Upload:
    """Bytes of one file at a time, between `begin` and `end`. Raises AdapterRefused by name."""

    def __init__(self, weights: Arrival) -> None:
        self._weights = weights
        self._config = bytearray()
        self._seen: set[str] = set()
        self._name = ""

    def takes(self, field: str, filename: str) -> bool:
        """A form's part is a file by its field's name or by having a filename; then it has begun."""
        if field not in FILES and not filename:
            return False
        self.begin(field if field in FILES else bare_name(filename)[1])
        return True

    def begin(self, name: str) -> None:
        """`name` is a bare file name, already without its folder."""
        if name not in FILES and not is_extra(name):
            refuse("unexpected_file", f"{show(name)} is no file of an adapter", FIX, name)
        if name in self._seen:
            refuse("duplicate_file", f"{show(name)} is there twice", "send each file once", name)
        self._seen.add(name)
        self._name = name

    def write(self, data: bytes | memoryview) -> None:
        if self._name == WEIGHTS_FILE:
            self._weights.write(data)
        elif self._name == CONFIG_FILE:
            self._config += data
            if len(self._config) > MAX_CONFIG_BYTES:
                refuse("too_large", f"{CONFIG_FILE} is over {MAX_CONFIG_BYTES} bytes", FIX, CONFIG_FILE)

    def end(self) -> None:
        self._name = ""

    def files(self) -> AdapterFiles:
        """Both files; raises AdapterRefused when one has not come."""
        if PICKLE_FILE in self._seen and WEIGHTS_FILE not in self._seen:
            refuse_pickle()
        missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if name not in self._seen]
        if missing:
            raise AdapterRefused(
                [
                    Finding("missing_file", f"{name} is not among the files", FIX, field=name)
                    for name in missing
                ]
            )
        warnings = tuple(f"the upload's {name} was ignored" for name in sorted(self._seen - FILES))
        return AdapterFiles(bytes(self._config), self._weights, {"type": "upload"}, warnings)


def is_extra(name: str) -> bool:
    return name in EXTRAS or (
        name.startswith(APPLE_DOUBLE) and name.removeprefix(APPLE_DOUBLE) in EXTRAS | FILES
    )


def bare_name(path: str) -> tuple[str, str]:
    """(folder, name) of a relative path of at most two parts. Raises AdapterRefused for any other."""
    parts = path.removeprefix("./").rstrip("/").split("/")
    if len(parts) > 2 or not all(parts) or any(part in (".", "..") for part in parts) or "\\" in path:
        refuse(
            "bad_path",
            f"{show(path)} is no file of one folder",
            "pack the two files alone, or the one folder they are in",
            path,
        )
    return ("" if len(parts) == 1 else parts[0]), parts[-1]


def show(name: str) -> str:
    """Short, and ASCII whatever was sent: a lone surrogate could not stand in an answer."""
    return ascii(name[:MAX_SHOWN])


def refuse(code: str, message: str, fix: str, field: str = "") -> NoReturn:
    raise AdapterRefused([Finding(code, message, fix, field=show(field).strip("'") if field else "")])
