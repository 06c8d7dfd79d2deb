"""What the data folder remembers beside its adapters: the base last served, last uses, answers to repeat."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lorikeet_adapters.catalogue import Catalogue
from lorikeet_adapters.origin import Origin

ANSWERS_KEPT_S = 24 * 3600.0
KEEP_GENERATIONS = 3


@dataclass(frozen=True, slots=True)
class ServedBase:
    """With which base the folder was last served, and how many generations of a name it keeps.

    `fingerprint`, `checkpoint` and `probe` are an `Origin`'s, empty where they are not known.
    """

    source: str
    name: str
    quantization: str = ""
    fingerprint: str = ""
    keep: int = KEEP_GENERATIONS
    checkpoint: str = ""
    probe: str = ""

    @property
    def origin(self) -> Origin:
        return Origin(self.name, self.quantization, self.fingerprint, self.checkpoint, self.probe)


class Notes:
    """Small tables of the catalogue. Every method may be called from any thread."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def remember_base(self, base: ServedBase) -> None:
        """For commands that work without a server."""
        self._set("base", asdict(base))

    def base(self) -> ServedBase | None:
        """The base last served, or None."""
        found = self._setting("base")
        return None if found is None else ServedBase(**found)

    def remember_embedded(self, generations: Mapping[str, str]) -> None:
        """Which adapters of Lorikeet's own this folder was given, by name."""
        self._set("embedded", dict(generations))

    def embedded(self) -> dict[str, str]:
        return dict(self._setting("embedded") or {})

    def remember_uses(self, uses: Mapping[str, float]) -> None:
        """Generation to seconds since the epoch."""
        with self._catalogue.transaction() as rows:
            rows.executemany("INSERT OR REPLACE INTO used VALUES (?, ?)", list(uses.items()))

    def uses(self) -> dict[str, float]:
        """When each generation was used last, as far as that was written down."""
        return dict(row[:2] for row in self._catalogue.read("SELECT generation, at FROM used"))

    def remember_answer(self, owner: str, key: str, request: str, answer: str) -> None:
        """`owner` is the tenant, empty for the operator; `request` is the digest of what was asked under this key. Answers older than a day are dropped."""
        with self._catalogue.transaction() as rows:
            rows.execute("DELETE FROM answers WHERE at < ?", (time.time() - ANSWERS_KEPT_S,))
            rows.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)",
                (owner, key, request, answer, time.time()),
            )

    def answer(self, owner: str, key: str) -> tuple[str, str] | None:
        """(digest of the request, answer) that this owner got in the last day under this key, or None."""
        found = self._catalogue.read(
            "SELECT request, answer FROM answers WHERE owner = ? AND key = ? AND at >= ?",
            (owner, key, time.time() - ANSWERS_KEPT_S),
        )
        return (found[0][0], found[0][1]) if found else None

    def _set(self, key: str, value: object) -> None:
        with self._catalogue.transaction() as rows:
            rows.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, json.dumps(value)))

    def _setting(self, key: str) -> Any:
        found = self._catalogue.read("SELECT value FROM settings WHERE key = ?", (key,))
        return json.loads(found[0][0]) if found else None
