"""All that a training job is, as one value and as the file `request.json` in the job's folder."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError, with_config

from lorikeet_trainer.device import Device
from lorikeet_trainer.errors import RequestRefused
from lorikeet_trainer.recipe import Recipe

REQUEST_FILE = "request.json"


@with_config({"extra": "forbid"})
@dataclass(frozen=True, slots=True)
class Request:
    """`name` is the adapter's; `model` is demo, a model folder or a hub id; paths are absolute.

    `parent` is the folder of the adapter that training goes on from, `parent_name` what it is called
    where that is not the folder's name. `device_index` counts the CUDA devices that this process may
    see. `threads` 0 leaves torch's choice.
    With `quality_gate` an adapter whose validation loss is worse than its parent's (the base's without
    one) is quarantined. Without a `validation_file` the recipe's share of the rows is held out.
    """

    name: str
    training_file: Path
    model: str = "demo"
    validation_file: Path | None = None
    parent: Path | None = None
    parent_name: str = ""
    device: Device = Device.CPU
    device_index: int = 0
    trust_remote_code: bool = False
    threads: int = 0
    quality_gate: bool = True
    recipe: Recipe = field(default_factory=Recipe)

    def to_json(self) -> str:
        return _ADAPTER.dump_json(self, indent=2).decode() + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Request:
        """Raises RequestRefused for anything but what `to_json` writes, RecipeRefused for a bad recipe."""
        try:
            return _ADAPTER.validate_json(text, strict=True)
        except ValidationError as error:
            raise RequestRefused(said(error)) from error

    def write(self, folder: Path) -> None:
        """Into `folder`, whole or not at all; on disk when this returns."""
        staging = folder / f".{REQUEST_FILE}"
        with staging.open("w", encoding="utf-8") as file:
            file.write(self.to_json())
            file.flush()
            os.fsync(file.fileno())
        staging.replace(folder / REQUEST_FILE)

    @classmethod
    def read(cls, folder: Path) -> Request:
        """Raises RequestRefused when there is none, or none of this version."""
        try:
            text = (folder / REQUEST_FILE).read_bytes()
        except OSError as error:
            raise RequestRefused(f"`{folder / REQUEST_FILE}` cannot be read: {error.strerror}") from error
        return cls.from_json(text)


def said(error: ValidationError) -> str:
    """All that pydantic finds wrong, in one line: field, then why."""
    return "; ".join(
        f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg'].lower()}" for each in error.errors()
    )


def as_plain(value: Any) -> dict[str, Any]:
    """A recipe or plan as JSON has it."""
    plain: dict[str, Any] = TypeAdapter(dict[str, Any]).dump_python(asdict(value), mode="json")
    return plain


_ADAPTER = TypeAdapter(Request)
