"""From a worker's folder to a name that requests can use."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorikeet_adapters.access import Access
from lorikeet_adapters.errors import LorikeetError
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.source import WEIGHTS_FILE, open_folder
from lorikeet_adapters.spec import canonical_config
from lorikeet_trainer.jobs.job import Job

log = logging.getLogger("lorikeet")
PROVENANCE = "training_provenance.json"
CHUNK = 1 << 20


class Publisher:
    """What a job makes is its tenant's alone; what the operator's jobs make is everyone's."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @property
    def base(self) -> str:
        return self._registry.base_name

    def publish(self, name: str, folder: Path, job: Job, metadata: Mapping[str, Any]) -> str:
        """Register the adapter in `folder`; the same again changes nothing. Returns its generation.

        Raises what `Registry.register` raises.
        """
        with open_folder(folder) as files:
            record, _ = self._registry.register(
                name,
                files,
                replace=True,
                access=Access((job.owner,)) if job.owner else None,
                provenance=_provenance(folder, self.base),
                metadata={"fine_tuning_job": job.id, **metadata},
            )
        return record.generation

    def quarantine(self, folder: Path, job: Job, reason: str) -> str:
        """Register it under its own generation and no other name: nobody uses it by mistake."""
        return self.publish(_generation(folder), folder, job, {"quarantined": reason})

    def withdraw(self, name: str) -> bool:
        """Forget a checkpoint's name unless something still needs it."""
        with suppress(LorikeetError):
            self._registry.delete(name, timeout=0)
            return True
        return False


def _generation(folder: Path) -> str:
    """The digest that the registry will know these files by."""
    with open_folder(folder) as files:
        config = hashlib.sha256(canonical_config(files.config)).hexdigest()
    with (folder / WEIGHTS_FILE).open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    return hashlib.sha256(f"{config}{digest}".encode()).hexdigest()


def _provenance(folder: Path, base: str) -> dict[str, Any] | None:
    """As the worker wrote it, with the name that the base is served under: where it lies is the operator's."""
    try:
        found: dict[str, Any] = json.loads((folder / PROVENANCE).read_bytes())
    except FileNotFoundError:
        return None
    return found | {"base": {**found["base"], "source": base}}
