"""Two replicas on a real Ray cluster, through Serve's port: exact, at home, and whole again whoever is killed."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.crowd import PROMPT, ask, ask_by_popularity, metric, peft_answers, register
from tests.load import Crowd, Plan, Tally
from tests.server.cluster.conftest import OWNER, REPLICA, Cluster
from tests.server.process import lorikeet

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
REQUESTS = 500
HITS = 0.9
VISIBLE_S = 2.0


def door(cluster: Cluster, placed: str) -> float:
    found = httpx.get(f"{cluster.url}/metrics", timeout=30).text
    (line,) = [
        each
        for each in found.splitlines()
        if each.startswith(f'lorikeet_door_requests_total{{placed="{placed}"')
    ]
    return float(line.rpartition(" ")[2])


@contextmanager
def under_load(cluster: Cluster, *plans: Plan) -> Iterator[list[Tally]]:
    """Crowds ask until the block is left; their tallies are complete after it."""
    crowds = [Crowd(cluster.url, plan, seed) for seed, plan in enumerate(plans)]
    tallies: list[Tally] = [each.tally for each in crowds]

    async def main(ready: list[asyncio.AbstractEventLoop]) -> None:
        running = asyncio.gather(*(each.run() for each in crowds))
        ready.append(asyncio.get_running_loop())
        await running

    loops: list[asyncio.AbstractEventLoop] = []
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: asyncio.run(main(loops)))
        try:
            cluster.until(lambda: all(each.complete >= 4 for each in tallies) or done.done())
            yield tallies
        finally:
            for each in crowds:
                loops[0].call_soon_threadsafe(each.stop)
        done.result(timeout=120)


def test_fifty_adapters_by_popularity_are_answered_as_peft_does_and_at_home(cluster: Cluster) -> None:
    expected = peft_answers(cluster.folders)
    before = {placed: door(cluster, placed) for placed in ("home", "spilled")}
    loads = metric(cluster.url, "lorikeet_adapter_load_seconds_count")
    found = ask_by_popularity(cluster.url, cluster.names, REQUESTS, clients=20)
    wrong = [each for each in found if (each.status, each.text) != (200, expected[each.name])]
    assert not wrong, wrong[:3]
    home, spilled = (door(cluster, placed) - before[placed] for placed in ("home", "spilled"))
    assert home + spilled == REQUESTS
    loaded = metric(cluster.url, "lorikeet_adapter_load_seconds_count") - loads
    first = len({each.name for each in found})  # has to be loaded somewhere
    print(f"{REQUESTS} requests: {home:g} at home, {loaded:g} loads of {first} adapters")
    assert home / REQUESTS >= HITS
    assert 1 - (loaded - first) / REQUESTS >= HITS


def test_what_one_replica_registers_all_serve_in_the_same_order(cluster: Cluster) -> None:
    """Each change at whichever replica gets it; each is asked of both, by requests that any may answer."""
    for number in range(4):
        source = cluster.names[number]
        answer = register(cluster.url, "shared", source, replace=True)
        assert answer.status_code in (200, 201), answer.text
        generation = answer.json()["generation"]
        deadline = time.monotonic() + VISIBLE_S
        with httpx.Client(base_url=cluster.url, timeout=30) as client:
            seen = [client.get("/v1/adapters/shared").json()["generation"] for _ in range(12)]
            while set(seen) != {generation}:
                assert time.monotonic() < deadline, seen
                seen = [client.get("/v1/adapters/shared").json()["generation"] for _ in range(12)]
    events = httpx.get(f"{cluster.url}/v1/adapters/history/shared").json()["data"]
    assert [each["event"] for each in events] == ["replaced"] * 3 + ["registered"]
    assert httpx.put(
        f"{cluster.url}/v1/aliases/both", json={"targets": [{"name": "shared", "weight": 1}]}
    ).status_code in (200, 201)
    with httpx.Client(base_url=cluster.url, timeout=30) as client:
        assert {ask(client, "both").text for _ in range(6)} == {ask(client, cluster.names[3]).text}
    assert httpx.delete(f"{cluster.url}/v1/aliases/both").status_code in (200, 204)
    assert httpx.delete(f"{cluster.url}/v1/adapters/shared").status_code in (200, 204)


@pytest.mark.safety("reliability 4")
def test_a_client_that_leaves_frees_its_place(cluster: Cluster) -> None:
    """Through Serve's proxy and the door, at the replica's engine."""
    body = {"model": "a00", "prompt": PROMPT, "max_tokens": 800, "ignore_eos": True, "stream": True}
    aborted = metric(cluster.url, "lorikeet_requests_total", 'reason="aborted"')
    with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body, timeout=30) as answer:
        next(answer.iter_lines())
    cluster.until(lambda: metric(cluster.url, "lorikeet_requests_running") == 0)
    assert metric(cluster.url, "lorikeet_requests_total", 'reason="aborted"') == aborted + 1


@pytest.mark.safety("reliability 12")
def test_a_replica_that_is_killed_costs_only_the_streams_it_had_begun(cluster: Cluster) -> None:
    before = cluster.replicas()
    assert len(before) == 2
    whole = Plan(cluster.names[:10], connections=6, tokens=24, whole=10)
    streams = Plan(cluster.names[:10], connections=6, tokens=120)
    with under_load(cluster, whole, streams) as (asked, told):
        pieces = told.pieces
        cluster.until(lambda: told.pieces > pieces + 20)
        cluster.named(REPLICA)[0].kill()
        complete = asked.complete
        cluster.until(lambda: asked.complete > complete + 10)
    assert (asked.faults, asked.ended, asked.turned_away) == ([], 0, 0)
    assert told.faults == []
    assert told.ended >= 1, "nothing was streaming from the replica that was killed"
    cluster.until(lambda: len(cluster.replicas()) == 2)
    assert cluster.replicas() != before
    with httpx.Client(base_url=cluster.url, timeout=60) as client:
        expected = peft_answers(cluster.folders[:3])
        assert {name: ask(client, name).text for name in cluster.names[:3]} == expected


@pytest.mark.safety("reliability 13")
def test_the_registrys_owner_is_killed_and_nothing_acknowledged_is_lost(cluster: Cluster) -> None:
    plan = Plan(cluster.names[:10], connections=4, tokens=24, whole=5)
    with under_load(cluster, plan) as (served,):
        (owner,) = cluster.named(OWNER)
        owner.kill()
        acknowledged = []
        for number in range(4):
            answer = register(cluster.url, f"after-{number}", cluster.names[number])
            if answer.status_code == 503:
                assert answer.json()["error"]["code"] == "registry_away"
                continue
            assert answer.status_code == 201, answer.text
            acknowledged.append((f"after-{number}", answer.json()["generation"]))
        complete = served.complete
        cluster.until(lambda: served.complete > complete + 4)
    assert (served.faults, served.ended) == ([], 0)
    assert acknowledged, "registration did not resume"
    cluster.until(lambda: cluster.named(OWNER))
    for name, generation in acknowledged:
        assert httpx.get(f"{cluster.url}/v1/adapters/{name}").json()["generation"] == generation
    kept = {each["id"] for each in pages(cluster.url)}
    assert set(cluster.names) <= kept
    for name, _ in acknowledged:
        assert httpx.delete(f"{cluster.url}/v1/adapters/{name}").status_code in (200, 204)


def test_a_rolling_update_fails_no_request(cluster: Cluster) -> None:
    plans = [Plan(cluster.names[:10], 1, 24, whole=10), Plan(cluster.names[:10], 1, 48)]
    with under_load(cluster, *plans) as tallies:
        update(cluster, "--max-slots", "4")
    for tally in tallies:
        assert (tally.faults, tally.ended, tally.turned_away) == ([], 0, 0)
    assert len(cluster.replicas()) == 2


def update(cluster: Cluster, *flags: str) -> None:
    """The same command with other flags, on the cluster that is there; until no replica is one of those before."""
    before = cluster.replicas()
    port = cluster.url.rpartition(":")[2]
    words = ["--ray", "--ray-address", "auto", "--port", port, "--data-dir", str(cluster.process.data)]
    base = ["--model", "demo", "--quantization", "fp32", "--threads", "1"]
    root = ["--adapters-root", str(cluster.folder / "adapters")]
    done = lorikeet("serve", *words, *base, *root, *flags)
    assert done.returncode == 0, done.stderr[-4000:]
    cluster.until(lambda: not cluster.replicas() & before)


@pytest.mark.safety("reliability 1", "reliability 12")
def test_told_to_stop_under_load_it_cuts_nobody_off(cluster: Cluster) -> None:
    """The last test of this cluster: every answer that was begun ends with its reason, or an error that says so."""
    plans = [Plan(cluster.names[:10], 8, 400), Plan(cluster.names[:10], 4, 24, whole=10)]
    with under_load(cluster, *plans) as tallies:
        for each in tallies:
            each.complete = each.ended = 0
        ended = ThreadPoolExecutor(1).submit(cluster.process.end, signal.SIGTERM)
        cluster.until(lambda: "stopping" in cluster.process.log)
    assert ended.result(timeout=90) == 0
    for tally in tallies:
        assert not tally.faults, tally.faults[:5]
    assert tallies[0].complete + tallies[0].ended > 0


def pages(url: str) -> list[dict[str, object]]:
    answer = httpx.get(f"{url}/v1/adapters", params={"limit": 1000}).json()
    found: list[dict[str, object]] = answer["data"]
    assert not answer.get("has_more"), json.dumps(answer)[:200]
    return found
