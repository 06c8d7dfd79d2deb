"""What a replica lives in: the parts of `lorikeet serve` but its port, over a registry that follows the owner's."""

from __future__ import annotations

import asyncio
import itertools
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from lorikeet_adapters.errors import RefusedError, StoreLocked
from lorikeet_adapters.follower import Follower
from lorikeet_adapters.owner import Owner
from lorikeet_adapters.store import Store, open_store
from lorikeet_adapters.threads import in_passing
from lorikeet_server.api.app import create_app
from lorikeet_server.assembly import House, assemble, spare_what_stays
from lorikeet_server.config import ServerConfig
from lorikeet_server.keyring import Keyring
from lorikeet_server.metrics.follower import FollowerFacts

log = logging.getLogger("lorikeet")


@dataclass(slots=True)
class Home:
    """Call `start` and `close` on the loop that answers."""

    app: ASGIApp
    store: Store
    house: House
    follower: Follower

    @property
    def base_name(self) -> str:
        return self.house.registry.base_name

    @property
    def is_alive(self) -> bool:
        """Also of one that was told to stop: it has not failed."""
        return self.house.bridge.alive or self.house.bridge.draining

    def start(self) -> None:
        self.house.bridge.start()
        self.house.registry.verifier.start()

    async def drain(self, seconds: float) -> None:
        self.house.bridge.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.house.bridge.idle()
        await self.house.bridge.stop()

    async def close(self) -> None:
        """What still runs is ended, each request with its terminal answer."""
        await self.house.bridge.stop()
        self.house.grammars.close()
        self.house.registry.close()
        self.store.close()


def open_home(config: ServerConfig, owner: Owner) -> Home:
    """Loads the base, and returns once the registry is as the owner's was. Raises LorikeetError."""
    store = _open_store(config)
    keys = Keyring(Path(config.http.api_keys)) if config.http.api_keys else None
    house = in_passing(lambda: assemble(config, store, {}, keys=keys, owner=owner))
    follower = house.registry.follower
    assert follower is not None, "its registry has an owner"
    house.services.metrics.registry.register(FollowerFacts(follower))
    follower.start()
    app = create_app(house.services)
    spare_what_stays()
    return Home(app, store, house, follower)


def _open_store(config: ServerConfig) -> Store:
    """The first folder that no other replica of this machine has: one that was here before has most of it."""
    for number in itertools.count():
        if number > config.cluster.most_replicas * 4:
            raise RefusedError(f"every folder under {config.data_dir / 'replicas'} is in use")
        try:
            return open_store(config.data_dir / "replicas" / str(number), config.http.max_adapter_bytes)
        except StoreLocked:
            continue
    raise AssertionError("counting does not end")
