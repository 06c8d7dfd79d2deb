"""Which blocks of prompts are kept for the next request that begins alike. Pure bookkeeping: no tensors.

A block's key is a digest chained over all that its keys and values depend on: the mix (generations
and weights), and every token up to its end. A replaced adapter is another generation, so what the
old one left can never be found again. The tenant is part of the chain, too: one tenant cannot learn
from response times what another one asks.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import takewhile

from lorikeet_server.engine.request import Request

BLOCK = 16  # tokens
Key = bytes


def block_keys(request: Request) -> tuple[Key, ...]:
    """A key for each whole block of the prompt that leaves a token to compute behind it."""
    key = hashlib.blake2b(f"{request.mix.digest}/{request.tenant}".encode(), digest_size=16).digest()
    keys = []
    for stop in range(BLOCK, len(request.prompt), BLOCK):
        tokens = ",".join(map(str, request.prompt[stop - BLOCK : stop]))
        key = hashlib.blake2b(key + tokens.encode(), digest_size=16).digest()
        keys.append(key)
    return tuple(keys)


class PrefixIndex:
    """At most `blocks` blocks, the least recently used given up first; a chain from its end."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.hit_tokens = 0
        self.asked_tokens = 0
        self._reserved = 0
        self._held: OrderedDict[Key, tuple[str, ...]] = OrderedDict()  # to the adapters of its mix

    def __contains__(self, key: Key) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)

    def match(self, keys: Sequence[Key]) -> tuple[Key, ...]:
        """The leading keys that are held, now used most recently."""
        found = tuple(takewhile(self._held.__contains__, keys))
        for key in reversed(found):  # so that a chain's end is given up before its beginning
            self._held.move_to_end(key)
        return found

    def count(self, hits: int, of: int) -> None:
        """A request begins: so many of its prompt's tokens need not be computed."""
        self.hit_tokens += hits
        self.asked_tokens += of

    def reserve(self, keys: Sequence[Key]) -> tuple[Sequence[Key], tuple[Key, ...]]:
        """Those of `keys` that there will be room for in this step, and the blocks given up for them."""
        taken = keys[: self.blocks - self._reserved]
        self._reserved += len(taken)
        excess = max(len(self._held) + self._reserved - self.blocks, 0)
        return taken, tuple(self._held.popitem(last=False)[0] for _ in range(excess))

    def settle(self) -> None:
        """A new step begins: what was reserved has been added, or never will be."""
        self._reserved = 0

    def add(self, chain: Sequence[Key], new: Iterable[Key], adapters: tuple[str, ...]) -> None:
        """The runner holds the blocks `new` now, which are part of `chain`."""
        self._held.update(dict.fromkeys(new, adapters))
        self.match(chain)

    def retire(self, generation: str) -> tuple[Key, ...]:
        """Give up every block of a mix with this adapter."""
        gone = tuple(key for key, adapters in self._held.items() if generation in adapters)
        for key in gone:
            del self._held[key]
        return gone
