"""Replicas on Ray, the long form: one process as the oracle of blends, every kill several times, more replicas under load."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.crowd import PROMPT, demo_server, register
from tests.load import Plan
from tests.server.cluster.conftest import OWNER, REPLICA, Cluster, skip_without_ray
from tests.server.cluster.test_ray import pages, under_load, update

pytestmark = [pytest.mark.soak, pytest.mark.ray, pytest.mark.timeout(1800)]
KILLS = 5
BLENDS = 40


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Up to three replicas of two slots, so that a few clients are enough to need them."""
    skip_without_ray()
    made = Cluster(tmp_path_factory.mktemp("cluster"), 20, "--max-replicas", "3", "--max-slots", "2")
    yield made
    made.close()


def told(url: str, model: str) -> Any:
    body = {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": 6,
        "temperature": 0,
        "logprobs": 3,
        "ignore_eos": True,
    }
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return choice["text"], choice["logprobs"]["token_logprobs"]


def test_names_and_blends_are_answered_as_by_one_process(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chance = random.Random(4)
    blends = [
        "+".join(f"{name}:{chance.uniform(0.1, 1):.2f}" for name in chance.sample(cluster.names, 2))
        for _ in range(BLENDS)
    ]
    with closing(demo_server(tmp_path_factory.mktemp("alone"))) as alone:
        root = cluster.folder / "adapters"
        for name in cluster.names:
            words = (root / name / each for each in ("adapter_config.json", "adapter_model.safetensors"))
            files = {each.name: (each.name, each.read_bytes()) for each in words}
            answer = httpx.post(
                f"{alone.url}/v1/adapters", data={"name": name}, files=files, headers={"x-lorikeet": "1"}
            )
            assert answer.status_code == 201, answer.text
        for model in ["demo", *cluster.names, *blends]:
            (text, logprobs), (own, expected) = told(cluster.url, model), told(alone.url, model)
            assert (model, text) == (model, own)
            assert logprobs == pytest.approx(expected, abs=1e-4)


def test_more_replicas_come_with_more_requests(cluster: Cluster) -> None:
    assert len(cluster.replicas()) == 2
    with under_load(cluster, Plan(cluster.names, 16, 60)) as (crowd,):
        cluster.until(lambda: len(cluster.replicas()) == 3)
    assert (crowd.faults, crowd.ended) == ([], 0)


def test_replicas_are_killed_again_and_again(cluster: Cluster) -> None:
    plans = [Plan(cluster.names, 4, 24, whole=10), Plan(cluster.names, 4, 100)]
    ended = 0
    for _ in range(KILLS):
        cluster.until(lambda: len(cluster.replicas()) >= 2)
        with under_load(cluster, *plans) as (asked, streams):
            random.choice(cluster.named(REPLICA)).kill()
            complete = asked.complete
            cluster.until(lambda done=complete, crowd=asked: crowd.complete > done + 20)  # type: ignore[misc]
        assert (asked.faults, asked.ended, asked.turned_away) == ([], 0, 0)
        assert streams.faults == []
        ended += streams.ended
    print(f"{KILLS} replicas killed: {ended} streams ended with an error, no other request failed")
    cluster.until(lambda: len(cluster.replicas()) >= 2)


def test_the_owner_is_killed_while_everybody_registers(cluster: Cluster) -> None:
    """Each name is acknowledged, or refused with `registry_away`; what was acknowledged is there, and said so once."""
    acknowledged: dict[str, str] = {}
    stop = threading.Event()

    def registering(own: int) -> None:
        number = 0
        while not stop.is_set():
            name = f"own-{own}-{number}"
            answer = register(cluster.url, name, cluster.names[number % 20])
            assert answer.status_code in (201, 503), answer.text
            if answer.status_code == 201:
                acknowledged[name] = answer.json()["generation"]
                number += 1

    threads = [threading.Thread(target=registering, args=(own,)) for own in range(3)]
    for each in threads:
        each.start()
    with under_load(cluster, Plan(cluster.names, 3, 24, whole=5)) as (served,):
        for _ in range(KILLS):
            count = len(acknowledged)
            cluster.until(lambda before=count: len(acknowledged) > before + 5)  # type: ignore[misc]
            (owner,) = cluster.named(OWNER)
            owner.kill()
            cluster.until(lambda: cluster.named(OWNER))
        count = len(acknowledged)
        cluster.until(lambda: len(acknowledged) > count + 5)
    stop.set()
    for each in threads:
        each.join()
    assert (served.faults, served.ended) == ([], 0)
    found = {each["id"]: each["generation"] for each in pages(cluster.url)}
    assert acknowledged.items() <= found.items()
    for name in acknowledged:
        events = httpx.get(f"{cluster.url}/v1/adapters/history/{name}").json()["data"]
        assert [each["event"] for each in events] == ["registered"]
        assert httpx.delete(f"{cluster.url}/v1/adapters/{name}").status_code in (200, 204)
    print(f"{KILLS} owners killed: {len(acknowledged)} registrations acknowledged, none lost")


def test_updates_under_load(cluster: Cluster) -> None:
    for slots in ("3", "2"):
        with under_load(cluster, Plan(cluster.names, 4, 24, whole=10), Plan(cluster.names, 2, 60)) as tallies:
            update(cluster, "--max-slots", slots)
        for tally in tallies:
            assert (tally.faults, tally.ended, tally.turned_away) == ([], 0, 0)
