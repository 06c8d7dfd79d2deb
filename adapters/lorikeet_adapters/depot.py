"""The owner's side of files: what followers read, and what they bring before a change names it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lorikeet_adapters.arrival import Arrival
from lorikeet_adapters.errors import BlobTooLarge
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import StoredGeneration

STALE_S = 300.0  # after this long without a piece nobody will finish an upload, or name what it brought


@dataclass(slots=True)
class _Upload:
    """`digest` is empty until it is sealed, and from then on that of a blob held."""

    arrival: Arrival
    touched: float
    digest: str = ""


class Depot:
    """Every method may be called from any thread; pieces of one upload come one after another."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard = threading.Lock()  # over the map and the files in it
        self._uploads: dict[str, _Upload] = {}

    def size(self, digest: str) -> int | None:
        """In bytes; None where there is no such blob. Raises StoreError for what is no digest."""
        try:
            return self._store.blobs.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, digest: str, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`; none at the end, and none of a blob that is gone."""
        try:
            with self._store.blobs.path(digest).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except FileNotFoundError:
            return b""

    def put(self, token: str, offset: int, data: bytes) -> int:
        """Add a piece to an upload; returns how many bytes it has now, which is where the next piece begins.

        A piece that begins elsewhere is not taken: it came before, or what was before it is lost. Raises
        BlobTooLarge, and then the upload is forgotten.
        """
        with self._guard:
            upload = self._uploads.get(token)
            if upload is None:
                upload = self._uploads[token] = _Upload(self._store.intake.file(), 0.0)
            upload.touched = time.monotonic()
            if upload.digest or offset != upload.arrival.size:
                return upload.arrival.size
            if offset + len(data) > self._store.max_blob_bytes:
                self._drop(token)
                raise BlobTooLarge(self._store.max_blob_bytes)
            upload.arrival.write(data)
            return upload.arrival.size

    def seal(self, token: str, digest: str) -> bool:
        """Make a blob of an upload, held until it is named; False, and forgotten, where it is another or unknown."""
        with self._guard:
            upload = self._uploads.get(token)
            if upload is None or upload.digest:
                return upload is not None and upload.digest == digest
            if upload.arrival.seal() != digest:
                self._drop(token)
                return False
            upload.digest = self._store.blobs.put(upload.arrival, self._store.max_blob_bytes)
            return True

    def missing(self, generations: Iterable[StoredGeneration]) -> tuple[str, ...]:
        """The blobs of these that are not here."""
        return tuple(
            sorted({digest for each in generations for digest in each.blobs if self.size(digest) is None})
        )

    def named(self, generations: Iterable[StoredGeneration]) -> None:
        """The catalogue has these now, and nothing else needs to hold their blobs."""
        digests = {digest for each in generations for digest in each.blobs}
        self._drop_where(lambda upload: upload.digest in digests)

    def forget_stale(self) -> None:
        """Not while blobs are between `missing` and the catalogue."""
        oldest = time.monotonic() - STALE_S
        self._drop_where(lambda upload: upload.touched < oldest)

    def close(self) -> None:
        """Forget every upload."""
        self._drop_where(lambda upload: True)

    def _drop_where(self, is_over: Callable[[_Upload], bool]) -> None:
        with self._guard:
            for token in [token for token, upload in self._uploads.items() if is_over(upload)]:
                self._drop(token)

    def _drop(self, token: str) -> None:
        upload = self._uploads.pop(token)
        with upload.arrival:  # which removes the file
            pass
        if upload.digest:
            self._store.blobs.let_go(upload.digest)
