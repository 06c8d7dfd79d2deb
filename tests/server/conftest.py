"""One tiny world for the tests of this package, and one server of it that many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lorikeet_server.request_log.log import Bounds
from tests.server.loopback import Loopback, loopback
from tests.server.process import ServerProcess
from tests.server.world import BASE, CONTEXT, Server, World, client_of, make_server, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def shared(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, TestClient]]:
    data = tmp_path_factory.mktemp("data")
    with make_server(world, data, log=Bounds()) as server, client_of(server.app) as client:
        yield server, client


@pytest.fixture(scope="session")
def client(shared: tuple[Server, TestClient]) -> TestClient:
    """A client of the shared server; tests that change its adapters use names of their own."""
    return shared[1]


@pytest.fixture
def server(world: World, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, whose application is not running yet."""
    with make_server(world, tmp_path / "data") as made:
        yield made


@pytest.fixture(scope="session")
def process(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server in a process of its own, on a free port, with no adapter registered at first."""
    words = {
        "--model": str(world.base),
        "--served-name": BASE,
        "--quantization": "nf4",
        "--adapters-root": str(world.root),
        "--max-model-len": str(CONTEXT),
        "--max-body-bytes": "100000",
        "--threads": "1",
    }
    flat = [word for pair in words.items() for word in pair]
    made = ServerProcess(tmp_path_factory.mktemp("process"), *flat)
    yield made
    made.close()


@pytest.fixture(scope="session")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """What clients that others wrote are tried on; what they load they unload."""
    with loopback(tmp_path_factory.mktemp("loopback")) as made:
        yield made
