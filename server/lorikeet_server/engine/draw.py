"""What the sampler is told of one row."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from lorikeet_server.engine.request import Request, Sampling


@dataclass(frozen=True, slots=True)
class Draw:
    """The row of `request`, whose generated token number `index` is to be chosen.

    `generated` are the `index` tokens before it, where its sampling looks back on them; `allowed` is the
    mask of its guide, a bit for each token, where it has one.
    """

    request: Request
    index: int
    generated: tuple[int, ...] = ()
    allowed: bytes | None = None

    @property
    def sampling(self) -> Sampling:
        return self.request.sampling


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) that depends on seed and index alone, so on no batch and no device."""
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
