"""Adapters of a few bytes, for what concerns names and files and not tensors."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

from lorikeet_adapters.record import AdapterFacts
from lorikeet_adapters.source import AdapterFiles
from lorikeet_adapters.spec import AdapterSpec
from lorikeet_adapters.store import Store


def bundle(weights: str, rank: int = 2) -> AdapterFiles:
    """The same words are the same bytes: the same generation."""
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
    return AdapterFiles(
        json.dumps(config).encode(), io.BytesIO(weights.encode()), {"type": "local", "path": "folder"}
    )


class WordChecker:
    """Reads no tensors; counts how often it was asked, and what the file it was shown held."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, spec: AdapterSpec, weights: Path) -> AdapterFacts:
        self.read.append(weights.read_text())
        return AdapterFacts({"q_proj": spec.rank}, weights.stat().st_size)


def check_store(store: Store, folder: Path, *, tidy: bool = True) -> None:
    """What must hold of a data folder at any time: whatever is named is there, and is what its address says.

    `tidy`: nothing else is there, which a start sees to.
    """
    generations = store.catalogue.generations()
    kept = {generation for name in store.catalogue.names() for generation in name.generations}
    assert kept <= generations.keys()
    needed = {blob for each in generations.values() for blob in (each.config, each.weights)}
    present = {path.name: path for path in (folder / "blobs" / "sha256").glob("*/*")}
    assert needed <= present.keys()
    for digest, path in present.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
        assert store.blobs.path(digest) == path
        assert path.stat().st_mode & 0o777 == 0o444
    if tidy:
        assert needed == present.keys()
        assert kept == generations.keys()
        assert not list((folder / "incoming").iterdir())
