"""A data folder, read beside the process that holds it: which files a name means, and with which base."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from lorikeet_adapters.blobs import DIGEST
from lorikeet_adapters.errors import RefusedError, StoreError
from lorikeet_adapters.notes import ServedBase
from lorikeet_adapters.source import CONFIG_FILE, WEIGHTS_FILE
from lorikeet_adapters.store import CATALOGUE

BUSY_S = 5.0  # how long a transaction of the holder is waited for
KEPT = "SELECT name, config, weights FROM kept JOIN generations USING (generation) ORDER BY place, name"


@dataclass(frozen=True, slots=True)
class Kept:
    """A generation that `name` means, the first of its kind, or can go back to. Both are digests."""

    name: str
    config: str
    weights: str


class Shelf:
    """Everything is read once, when it is made; nothing is ever written. Raises StoreError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            rows = sqlite3.connect(f"{(folder / CATALOGUE).resolve().as_uri()}?mode=ro", BUSY_S, uri=True)
            try:
                self.kept = tuple(Kept(*row) for row in rows.execute(KEPT))
                self.aliases = frozenset(row[0] for row in rows.execute("SELECT name FROM aliases"))
                base = rows.execute("SELECT value FROM settings WHERE key = 'base'").fetchone()
            finally:
                rows.close()
        except sqlite3.Error as error:
            raise StoreError(
                f"{folder} is no data folder that can be read: {error}; name the server's with --data-dir"
            ) from error
        self.base = ServedBase(**json.loads(base[0])) if base else None

    def find(self, name: str) -> Kept:
        """What the name means now. Raises RefusedError when it is no adapter's."""
        found = next((each for each in self.kept if each.name == name), None)
        if found is None:
            what = "is an alias; name an adapter" if name in self.aliases else "is not registered"
            raise RefusedError(
                f"`{name}` {what}; `lorikeet adapters list --data-dir {self._folder}` shows what is there"
            )
        return found

    def weights(self, kept: Kept) -> Path:
        return self._blob(kept.weights)

    def take(self, kept: Kept, folder: Path) -> Path:
        """Its two files as PEFT names them, in a new folder. Raises StoreError when they are gone."""
        folder.mkdir()
        try:
            shutil.copyfile(self._blob(kept.config), folder / CONFIG_FILE)
            shutil.copyfile(self._blob(kept.weights), folder / WEIGHTS_FILE)
        except OSError as error:
            raise StoreError(f"the files of `{kept.name}` cannot be read: {error.strerror}") from error
        return folder

    def _blob(self, digest: str) -> Path:
        if not DIGEST.fullmatch(digest):
            raise StoreError("a content address is 64 lower-case hexadecimal digits")
        return self._folder / "blobs" / "sha256" / digest[:2] / digest
