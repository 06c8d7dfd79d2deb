"""adapter_model.bin to safetensors, offline: the pickle is read in a process of its own, never in the server."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lorikeet_adapters.child import Child, ChildDied, ChildTimeout
from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.source import CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE, check_has_config, open_regular

CONVERT_S = 600.0
# What Python and torch's libraries need to start; above all, no token.
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR", "SYSTEMROOT")


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written. `bytes` is the file's size."""

    path: Path
    tensors: int
    bytes: int


def convert(folder: Path, output: Path | None = None) -> Converted:
    """Write adapter_model.safetensors beside the pickle, or with the config into a new folder `output`.

    Raises RefusedError for what is no flat dict of tensors, and then has written nothing.
    """
    target = folder if output is None else output
    if os.path.lexists(target / WEIGHTS_FILE):
        raise RefusedError(f"{target / WEIGHTS_FILE} is there already; remove it, or choose another --output")
    if not os.path.isdir(folder):
        raise RefusedError(f"{folder} is no folder; name the one with {PICKLE_FILE}")
    if not os.path.lexists(folder / PICKLE_FILE):
        raise RefusedError(f"{folder} has no {PICKLE_FILE}; there is nothing to convert")
    check_has_config(folder, str(folder))
    with open_regular(folder, PICKLE_FILE) as pickle, open_regular(folder, CONFIG_FILE) as config:
        if output is not None:
            _make(output, config.read())
        temporary = target / f".{WEIGHTS_FILE}.{uuid.uuid4().hex}"
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            _touch(temporary)
            with Child("unpickle.py", {"output": str(temporary.resolve())}, environment, pickle) as child:
                answer = child.wait(CONVERT_S)
            if "refused" in answer:
                raise RefusedError(f"{folder / PICKLE_FILE} cannot be converted: {answer['refused']}")
            temporary.rename(target / WEIGHTS_FILE)
        except (ChildTimeout, ChildDied):
            raise RefusedError(
                f"{folder / PICKLE_FILE} cannot be converted: reading it took too much time or memory, or crashed"
            ) from None
        finally:
            temporary.unlink(missing_ok=True)
            if output is not None and not os.path.lexists(output / WEIGHTS_FILE):
                _unmake(output)
    return Converted(target / WEIGHTS_FILE, answer["tensors"], answer["bytes"])


def _touch(path: Path) -> None:
    try:
        path.touch(exist_ok=False)
    except OSError as error:
        raise RefusedError(f"cannot write into {path.parent}: {error.strerror}") from None


def _make(output: Path, config: bytes) -> None:
    try:
        output.mkdir(parents=True)
        (output / CONFIG_FILE).write_bytes(config)
    except OSError as error:
        raise RefusedError(f"cannot make the folder {output}: {error.strerror}") from None


def _unmake(output: Path) -> None:
    with suppress(OSError):
        (output / CONFIG_FILE).unlink()
        output.rmdir()
