"""The registry's one owner as a Ray actor, and the same owner as replicas reach it.

The actor holds the data folder and nothing else: no base, no torch. When its process ends, Ray starts it
again on the same machine, from what lies on that disk; a call meanwhile raises RegistryAway and is made again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lorikeet_adapters.batch import Answer, Batch, Position
from lorikeet_adapters.errors import RefusedError, RegistryAway
from lorikeet_adapters.owner import LocalOwner
from lorikeet_adapters.store import open_store
from lorikeet_adapters.stored import Change
from lorikeet_server.config import ServerConfig

log = logging.getLogger("lorikeet")
NAME = "lorikeet-registry"
NAMESPACE = "lorikeet"
SPARE_CALLS = 16  # at once, beside one of each replica that waits for what is new
ANSWER_S = 10.0  # beyond what a call may wait
UNENDING = -1


@dataclass(frozen=True, slots=True)
class Settings:
    """What an owner is begun with; one that has others is begun again."""

    folder: str
    max_blob_bytes: int
    url: str
    calls: int
    version: str


class RegistryActor:
    """The process that owns the registry: every method of `Owner`, each call on a thread."""

    def __init__(self, settings: Settings) -> None:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
        log.setLevel(logging.INFO)
        store = open_store(Path(settings.folder), settings.max_blob_bytes)
        if settings.url:
            store.announce(settings.url)
        self._settings = settings
        self._owner = LocalOwner(store)

    def settings(self) -> Settings:
        return self._settings

    def call(self, method: str, *values: Any) -> Any:
        return getattr(self._owner, method)(*values)


def start_owner(config: ServerConfig, url: str) -> None:
    """On this machine, where its data folder is, unless it runs already. Returns once it has opened the folder.

    `url` is where commands about that folder are to go, empty where it is not known. Raises RefusedError for a cluster whose registry is in another folder, or a folder that cannot be opened.
    """
    wanted = Settings(
        str(config.data_dir.resolve()),
        config.http.max_adapter_bytes,
        url,
        config.cluster.most_replicas * 2 + SPARE_CALLS,
        version("lorikeet"),
    )
    found = _begin(wanted)
    if found.folder != wanted.folder:
        raise RefusedError(
            f"the registry of this cluster is in {found.folder}; say --data-dir {found.folder}"
        )
    if found != wanted:  # changes wait for the moment that this takes
        stop_owner()
        _begin(wanted)


def _begin(wanted: Settings) -> Settings:
    """The settings of the owner that runs then."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(RegistryActor).options(
        name=NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=UNENDING,
        max_concurrency=wanted.calls,
        num_cpus=0,
        scheduling_strategy=here,
    )
    try:
        found: Settings = ray.get(actor.remote(wanted).settings.remote())
    except ActorDiedError as error:
        stop_owner()
        raise RefusedError(f"the registry's owner cannot open {wanted.folder}: {_reason(error)}") from None
    return found


def _reason(error: ActorDiedError) -> str:
    """The last line of the actor's own traceback: the exception and its message."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()


def stop_owner() -> None:
    with suppress(ValueError):  # there is none
        ray.kill(ray.get_actor(NAME, NAMESPACE), no_restart=True)


class RayOwner:
    """`Owner` by calls to the actor. From threads only: each call blocks."""

    def __init__(self) -> None:
        self._actor: ActorHandle | None = None

    def since(self, position: Position, wait_s: float, follower: str) -> Batch:
        found: Batch = self._call(wait_s, "since", position, wait_s, follower)
        return found

    def append(self, change: Change, mark: str, after: Position) -> Answer:
        found: Answer = self._call(0.0, "append", change, mark, after)
        return found

    def reached(self, sequence: int, wait_s: float) -> bool:
        return bool(self._call(wait_s, "reached", sequence, wait_s))

    def size(self, digest: str) -> int | None:
        found: int | None = self._call(0.0, "size", digest)
        return found

    def read(self, digest: str, offset: int, size: int) -> bytes:
        return bytes(self._call(0.0, "read", digest, offset, size))

    def put(self, token: str, offset: int, data: bytes) -> int:
        return int(self._call(0.0, "put", token, offset, data))

    def seal(self, token: str, digest: str) -> bool:
        return bool(self._call(0.0, "seal", token, digest))

    def embedded(self) -> dict[str, str]:
        return dict(self._call(0.0, "embedded"))

    def remember_embedded(self, generations: Mapping[str, str]) -> None:
        self._call(0.0, "remember_embedded", dict(generations))

    def _call(self, wait_s: float, method: str, *values: Any) -> Any:
        try:
            if self._actor is None:
                self._actor = ray.get_actor(NAME, NAMESPACE)
            return ray.get(self._actor.call.remote(method, *values), timeout=wait_s + ANSWER_S)
        except (
            RayTaskError
        ) as error:  # the owner's own word; Ray's has a traceback in it, which is no client's
            raise error.cause from None
        except (RayActorError, GetTimeoutError, ValueError) as error:  # ValueError: there is no such actor
            self._actor = None
            raise RegistryAway("the registry's owner cannot be reached; try again later") from error
