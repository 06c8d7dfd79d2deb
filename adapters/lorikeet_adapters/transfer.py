"""Files between a replica and the owner, in pieces, and held against their digest where they arrive."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from lorikeet_adapters.errors import BlobTooLarge, RegistryAway
from lorikeet_adapters.owner import PIECE_BYTES, Owner
from lorikeet_adapters.store import Incoming, Store


def fetch(owner: Owner, digest: str, store: Store, arriving: Incoming) -> None:
    """Bring a blob from the owner and hold it.

    Raises BlobTooLarge, and RegistryAway for what is gone there meanwhile or arrives as other bytes.
    """
    size = owner.size(digest)
    if size is None:
        raise RegistryAway(f"the blob {digest[:12]} is not at the owner of the registry any more")
    if size > store.max_blob_bytes:
        raise BlobTooLarge(store.max_blob_bytes)
    with store.intake.file() as arrival:
        while arrival.size < size and (piece := owner.read(digest, arrival.size, PIECE_BYTES)):
            arrival.write(piece)
        if arrival.seal() != digest:
            raise RegistryAway(f"what came from the owner of the registry is not the blob {digest[:12]}")
        arriving.put(arrival)


def push(owner: Owner, digest: str, path: Path) -> None:
    """Bring a blob to the owner, which holds it for a change that names it.

    Raises BlobTooLarge, and RegistryAway where it does not arrive whole.
    """
    token = uuid.uuid4().hex
    with path.open("rb") as file:
        at = owner.put(token, 0, file.read(PIECE_BYTES))
        while piece := os.pread(file.fileno(), PIECE_BYTES, at):
            at = owner.put(token, at, piece)
    if not owner.seal(token, digest):
        raise RegistryAway(f"the blob {digest[:12]} did not arrive whole at the owner of the registry")
