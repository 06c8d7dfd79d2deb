"""The door without Ray: what has not begun is asked elsewhere, what has begun ends with an error of its route."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from lorikeet_server.api.gate import Gate
from lorikeet_server.cluster.affinity import order
from lorikeet_server.cluster.body import SMALL
from lorikeet_server.cluster.door import ATTEMPTS, Bounds, Door
from lorikeet_server.keyring import Keyring, Scope, add_key
from tests.server.cluster.stand_in import JSON, STREAM, Begins, Dies, Engines, body, start

WHOLE = [start(), body(b'{"text":"ab"}')]
CHAT = {"model": "formal", "messages": []}


def ask(
    engines: Engines,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    *,
    local_only: bool = True,
    client_host: str = "127.0.0.1",
    keys: Keyring | None = None,
    **more: Any,
) -> httpx.Response:
    async def asking() -> httpx.Response:
        door = Door(engines, "demo", Bounds(4 << 20, 8 << 20, local_only), Gate(keys, open_metrics=False))
        transport = httpx.ASGITransport(door, client=(client_host, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **({"json": CHAT} | more if method == "POST" else more))

    return asyncio.run(asking())


def events(answer: httpx.Response) -> list[Any]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


def test_an_answer_comes_through_as_it_is() -> None:
    engines = Engines([[start(418, [*JSON, (b"x-own", b"1")]), body(b"ab", more=True), body(b"cd")]])
    answer = ask(engines)
    assert (answer.status_code, answer.headers["x-own"], answer.content) == (418, "1", b"abcd")
    (call,) = engines.calls
    assert (call.path, call.adapter, json.loads(call.body[0])) == ("/v1/chat/completions", "formal", CHAT)


@pytest.mark.safety("reliability 12")
@pytest.mark.parametrize(
    "died",
    [[Dies()], [start(), Dies()], [start(headers=STREAM), body(b"data: {}\n\n", more=True), Dies()]],
    ids=["at once", "with its head", "with an opening"],
)
def test_what_has_not_begun_is_asked_of_another(died: list[Any]) -> None:
    engines = Engines([died, died, WHOLE])
    answer = ask(engines)
    assert (answer.status_code, answer.content) == (200, b'{"text":"ab"}')
    assert len(engines.calls) == engines.closed == 3
    assert len({call.body for call in engines.calls}) == 1


def test_no_replica_is_left() -> None:
    engines = Engines([[Dies()]] * ATTEMPTS)
    answer = ask(engines)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "replica_lost")
    assert answer.headers["retry-after"] == "1"
    assert len(engines.calls) == ATTEMPTS


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "PUT"])
def test_what_changes_something_is_asked_once(method: str) -> None:
    engines = Engines([[Dies()], WHOLE])
    answer = ask(engines, "/v1/adapters/formal", method)
    assert answer.status_code == 503
    assert "look whether it was done" in answer.json()["error"]["message"]
    assert len(engines.calls) == 1


@pytest.mark.safety("reliability 12")
def test_a_stream_that_has_begun_ends_with_an_error_event() -> None:
    died = [
        start(headers=STREAM),
        body(b'data: {"n":1}\n\n', more=True),
        Begins(),
        body(b'data: {"n":2}\n\n', more=True),
        Dies(),
    ]
    engines = Engines([died, WHOLE])
    answer = ask(engines)
    assert answer.status_code == 200
    first, second, last = events(answer)
    assert (first, second, last["error"]["code"]) == ({"n": 1}, {"n": 2}, "replica_lost")
    assert len(engines.calls) == 1


def test_the_error_event_has_the_form_of_its_route() -> None:
    died = [start(headers=STREAM), Begins(), body(b'data: {"n":1}\n\n', more=True), Dies()]
    last = events(ask(Engines([died]), "/generate_stream"))[-1]
    assert last["error_type"] == "generation"
    assert "gone" in last["error"]


def test_half_an_answer_that_is_no_stream_is_broken_off() -> None:
    died = [start(), Begins(), body(b'{"te', more=True), Dies()]
    with pytest.raises(Exception, match="gone"):
        ask(Engines([died]))


def test_a_large_body_is_not_sent_by_value() -> None:
    engines = Engines([WHOLE])
    data = bytes(range(256)) * (3 * SMALL // 256)
    ask(engines, "/v1/adapters", json=None, content=data, headers={"content-type": "application/x-tar"})
    (call,) = engines.calls
    assert b"".join(engines.put_pieces) + call.body[-1] == data
    assert len(call.body) == len(engines.put_pieces) + 1
    assert call.adapter == ""


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [("/v1/completions", 5 << 20, 413), ("/v1/adapters", 5 << 20, 200), ("/v1/adapters", 9 << 20, 413)],
)
def test_a_body_is_bounded(path: str, size: int, status: int) -> None:
    engines = Engines([WHOLE])
    answer = ask(engines, path, json=None, content=b"x" * size)
    assert answer.status_code == status
    assert len(engines.calls) == (status == 200)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/fine_tuning/jobs", "/v1/requests/x", "/v1/datasets"])
def test_what_belongs_to_one_data_folder_is_refused(path: str) -> None:
    engines = Engines([WHOLE])
    answer = ask(engines, path, "GET")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_across_replicas")
    assert not engines.calls


@pytest.mark.safety("security 14")
@pytest.mark.parametrize(
    ("host", "local_only", "status"),
    [("127.0.0.1", True, 200), ("::1", True, 200), ("10.0.0.7", True, 403), ("10.0.0.7", False, 200)],
)
def test_without_keys_only_this_machine_is_answered(host: str, local_only: bool, status: int) -> None:
    """Whatever its Host header says: Ray's proxy may listen where others reach it."""
    engines = Engines([WHOLE])
    assert ask(engines, local_only=local_only, client_host=host).status_code == status
    assert len(engines.calls) == (status == 200)


@pytest.mark.safety("security 1")
def test_with_keys_a_body_is_read_of_those_who_have_one(tmp_path: Path) -> None:
    """The replica asks again; the door asks first, so that a stranger's two gigabytes are nobody's."""
    path = tmp_path / "keys.toml"
    secret = add_key(path, "chat", [Scope.GENERATE], None)
    keys = Keyring(path)
    read = []

    async def body() -> Any:
        read.append(1)
        yield b"{}"

    for headers, status, code in (
        ({}, 401, "invalid_api_key"),
        ({"authorization": "Bearer no"}, 401, "invalid_api_key"),
        ({"authorization": f"Bearer {secret}"}, 403, "insufficient_scope"),
    ):
        engines = Engines([WHOLE])
        answer = ask(engines, "/v1/adapters", json=None, content=body(), headers=headers, keys=keys)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert not engines.calls
    assert not read
    engines = Engines([WHOLE])
    assert ask(engines, headers={"authorization": f"Bearer {secret}"}, keys=keys).status_code == 200
    assert (b"authorization", f"Bearer {secret}".encode()) in engines.calls[0].scope["headers"]


def test_bodies_are_bounded_together_and_give_back_what_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorikeet_server.cluster.door.MOST_HELD", 3000)
    engines = Engines([WHOLE] * 4)

    async def asking() -> list[int]:
        door = Door(engines, "demo", Bounds(4 << 20, 8 << 20, True), Gate(None, open_metrics=False))
        transport = httpx.ASGITransport(door)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            sizes = (2000, 4000, 2000, 4000, 2000)
            return [(await client.post("/v1/completions", content=b"x" * size)).status_code for size in sizes]

    assert asyncio.run(asking()) == [200, 503, 200, 503, 200]
    assert len(engines.calls) == 3


@pytest.mark.safety("reliability 3")
@pytest.mark.parametrize("path", ["/health/ready", "/v1/completions", "/metrics"])
def test_where_no_replica_takes_it_there_is_an_answer_all_the_same(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("ALIVE_S", "TAKEN_S"):
        monkeypatch.setattr(f"lorikeet_server.cluster.door.{bound}", 0.01)
    engines = Engines([[]], is_away=True)
    answer = ask(engines, path, "POST" if path == "/v1/completions" else "GET")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_busy")
    assert engines.closed == 1


@pytest.mark.parametrize("model", ["\ud800", "a:" + "1" + 400 * "0", 400 * "9"])
def test_a_strange_model_is_the_replicas_to_refuse(model: str) -> None:
    """Its place is computed from it all the same, and no error of that is the client's."""
    engines = Engines([WHOLE])
    body = json.dumps(
        {"model": model, "prompt": "a", "adapters": [{"name": "x", "weight": 10**400}]}
    ).encode()
    assert ask(engines, json=None, content=body).status_code == 200
    assert order(engines.calls[0].adapter or model, {"a": 0, "b": 0}, 1)


@pytest.mark.safety("security 13")
def test_what_nobody_thought_of_is_an_error_of_the_route(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Engines):
        async def send(self, call: Any) -> Any:
            raise ValueError("secret")
            yield

    answer = ask(Broken([]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "secret" in caplog.text
