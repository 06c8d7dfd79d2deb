"""Two replicas on a Ray cluster of their own, in processes. Skipped where Ray is not installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
import pytest

from lorikeet_adapters.base_model import outline
from tests.crowd import demo_server, make_adapter, register
from tests.server.process import ServerProcess

ADAPTERS = 50
REPLICA = "ray::ServeReplica:lorikeet:Engine"
OWNER = "ray::RegistryActor"
PATIENCE_S = 90.0


class Cluster:
    """`names` are the adapters registered beside the demo's own, `folders` where they are."""

    def __init__(self, folder: Path, adapters: int, *words: str) -> None:
        self.folder = folder
        shapes = outline("demo")
        self.names = [f"a{number:02}" for number in range(adapters)]
        self.folders = [
            make_adapter(folder / "adapters" / name, shapes, seed) for seed, name in enumerate(self.names)
        ]
        words = ("--drain-seconds", "2", *words)
        self.process: ServerProcess = demo_server(folder, "--ray", *words)
        for name in self.names:
            assert register(self.url, name, name).status_code == 201

    @property
    def url(self) -> str:
        return self.process.url

    def named(self, title: str) -> list[psutil.Process]:
        """Ray's processes of this cluster by what they do."""
        found = []
        for each in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if each.cmdline()[:1] and each.cmdline()[0].startswith(title):
                    found.append(each)
        return found

    def replicas(self) -> set[str]:
        """Those whose metrics come through the door."""
        answer = httpx.get(f"{self.url}/metrics", timeout=30)
        assert answer.status_code == 200, answer.text
        parts = (line.partition('replica="')[2] for line in answer.text.splitlines())
        return {part.partition('"')[0] for part in parts if part}

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < deadline, self.process.log[-4000:]
            time.sleep(0.1)

    def close(self) -> None:
        """Ray's processes end with the command that began them, also when it is killed."""
        children = [] if self.process.is_over else psutil.Process(self.process.pid).children(recursive=True)
        self.process.close()
        for each in children:
            with suppress(psutil.Error):
                each.kill()
        psutil.wait_procs(children, timeout=10)


def skip_without_ray() -> None:
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'lorikeet[ray]'")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    skip_without_ray()
    made = Cluster(tmp_path_factory.mktemp("cluster"), ADAPTERS)
    yield made
    made.close()
