"""The seeds of several answers to one prompt."""

from __future__ import annotations

import hashlib


def choice_seed(seed: int, index: int) -> int:
    """The seed itself for the first answer, for the others what depends on it and their index alone."""
    if index == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
