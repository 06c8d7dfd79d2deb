"""A body on its way to a replica."""

from __future__ import annotations

from typing import Any

from lorikeet_server.cluster.call import Engines

SMALL = 1 << 20  # bytes of a body that are sent by value


class Body:
    """A body as it comes: what is over `SMALL` is put where it takes no memory here."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self.put: list[Any] = []
        self.last = bytearray()
        self.size = 0

    async def add(self, chunk: bytes) -> int:
        """Returns how many more bytes are held here than before, fewer where it is negative."""
        before = self.held
        self.last += chunk
        self.size += len(chunk)
        if len(self.last) > SMALL:
            self.put.append(await self._engines.put(bytes(self.last)))
            self.last.clear()
        return self.held - before

    @property
    def held(self) -> int:
        return len(self.last)

    @property
    def pieces(self) -> tuple[Any, ...]:
        return (*self.put, bytes(self.last))
