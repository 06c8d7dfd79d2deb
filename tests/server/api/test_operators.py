"""What operators do to adapters after registering them: history, roll back, pins, compare-and-swap, deletion."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from anyio import CapacityLimiter, to_thread
from starlette.testclient import TestClient

from lorikeet_adapters.mix import Term
from lorikeet_server.api import adapters as routes
from lorikeet_server.api import backstage
from lorikeet_server.api.envelope import NATIVE_PATHS
from lorikeet_server.api.lobby import ALWAYS
from lorikeet_server.api.operations import OPERATIONS
from lorikeet_server.engine.config import EngineConfig
from tests.server.world import BASE, CONTEXT, RANKS, Exchange, Server, World, client_of, make_server, post

ROUTE = "/v1/adapters"
TEXT = "/v1/completions"
GREEDY: dict[str, Any] = {"prompt": "Hello", "temperature": 0, "ignore_eos": True, "max_tokens": 4}


@pytest.fixture
def own(server: Server) -> Iterator[TestClient]:
    """A client of a server that the test may change as it likes."""
    with client_of(server.app) as client:
        yield client


def register(client: TestClient, name: str, path: str, more: Any = None, **headers: str) -> Any:
    body = {"name": name, "source": {"type": "local", "path": path}, **(more or {})}
    return post(client, ROUTE, body, **{key.replace("_", "-"): value for key, value in headers.items()})


def generation(client: TestClient, name: str) -> str:
    return str(client.get(f"{ROUTE}/{name}").json()["generation"])


def text(client: TestClient, model: str) -> Any:
    answer = post(client, TEXT, {**GREEDY, "model": model})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


def code(answer: Any) -> tuple[int, str]:
    if answer.status_code == 409:
        assert answer.headers["x-should-retry"] == "false", "OpenAI's client would repeat it"
    return answer.status_code, answer.json()["error"]["code"]


def test_a_bad_replacement_is_rolled_back_and_the_old_text_comes_back(own: TestClient) -> None:
    old, formal = generation(own, "formal"), text(own, "formal")
    new = register(own, "formal", "friendly", {"replace": True}).json()["generation"]
    assert text(own, "formal") == text(own, "friendly") != formal
    assert own.get(f"{ROUTE}/formal").json()["generations"] == [new, old]
    answer = post(own, f"{ROUTE}/activate/formal", {"generation": old})
    assert answer.status_code == 200
    assert answer.json()["generation"] == old
    assert answer.headers["etag"] == f'"{old}"'
    assert text(own, "formal") == formal
    page = own.get(f"{ROUTE}/history/formal").json()
    assert [(each["event"], each["generation"]) for each in page["data"]] == [
        ("rolled_back", old),
        ("replaced", new),
        ("registered", old),
    ]
    assert page["has_more"] is False
    first = own.get(f"{ROUTE}/history/formal?limit=2").json()
    assert first["has_more"] is True
    rest = own.get(f"{ROUTE}/history/formal?after={first['data'][-1]['id']}").json()
    assert first["data"] + rest["data"] == page["data"]


def test_activating_what_is_not_there(own: TestClient) -> None:
    for name, wanted, expected in (
        ("formal", "0" * 64, (404, "generation_not_found")),
        ("nobody", "0" * 64, (404, "model_not_found")),
        ("formal", "xyz", (400, "invalid_request")),
    ):
        assert code(post(own, f"{ROUTE}/activate/{name}", {"generation": wanted})) == expected
    assert code(own.get(f"{ROUTE}/history/nobody")) == (404, "model_not_found")
    assert code(own.get(f"{ROUTE}/history/formal?after=x")) == (400, "invalid_request")


def test_if_match(own: TestClient) -> None:
    old, other = generation(own, "formal"), generation(own, "friendly")
    assert code(register(own, "formal", "triage", if_match=other)) == (412, "generation_mismatch")
    assert code(register(own, "new", "triage", if_match="*")) == (412, "generation_mismatch")
    assert code(register(own, "formal", "triage", if_match="abc")) == (400, "invalid_request")
    assert code(own.delete(f"{ROUTE}/formal", headers={"if-match": other})) == (412, "generation_mismatch")
    assert generation(own, "formal") == old
    assert register(own, "formal", "triage", if_match=f'"{old}"').status_code == 201
    assert register(own, "formal", "triage", if_match=old).status_code == 200, "sent again: it is as wanted"
    now = generation(own, "formal")
    changed = own.patch(f"{ROUTE}/formal", json={"metadata": {"by": "me"}}, headers={"if-match": now})
    assert changed.json()["metadata"] == {"by": "me"}
    assert own.delete(f"{ROUTE}/formal", headers={"if-match": now}).status_code == 200


@pytest.mark.safety("reliability 7")
def test_an_idempotency_key_answers_once(own: TestClient) -> None:
    first = register(own, "new", "formal", idempotency_key="k1")
    own.delete(f"{ROUTE}/new")
    again = register(own, "new", "formal", idempotency_key="k1")
    assert (again.status_code, again.json()) == (first.status_code, first.json()) == (201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert own.get(f"{ROUTE}/new").status_code == 404, "nothing was done"
    assert code(register(own, "other", "formal", idempotency_key="k1")) == (422, "idempotency_key_reused")
    assert code(register(own, "new", "formal", idempotency_key="a b")) == (400, "invalid_request")
    assert register(own, "new", "formal", idempotency_key="k2").status_code == 201
    failed = register(own, "new", "triage", idempotency_key="k3")
    assert code(failed) == (409, "adapter_exists")
    own.delete(f"{ROUTE}/new")
    assert register(own, "new", "triage", idempotency_key="k3").status_code == 201, "a refusal is not kept"


@pytest.mark.safety("reliability 7")
def test_of_two_requests_at_once_under_one_key_the_second_gets_the_answer_of_the_first(
    server: Server,
) -> None:
    async def ask(path: str) -> tuple[int, bytes]:
        body = {"name": "twice", "source": {"type": "local", "path": path}}
        exchange = Exchange(ROUTE, json.dumps(body).encode())
        exchange.scope["headers"].append((b"idempotency-key", b"k4"))
        await exchange.run(server.app)
        return exchange.status, exchange.body

    async def scenario() -> None:
        first, second, other = await asyncio.gather(ask("formal"), ask("formal"), ask("triage"))
        assert first == second
        assert first[0] == 201, "by itself the second would be a 200: the same bytes have this name"
        assert (other[0], json.loads(other[1])["error"]["code"]) == (422, "idempotency_key_reused")

    asyncio.run(scenario())
    assert not server.app.state.turns._users, "nothing is kept of keys that nobody waits for"


def test_what_is_misspelt_in_a_query_is_refused_and_not_done(own: TestClient) -> None:
    body = {"name": "mistake", "source": {"type": "local", "path": "formal"}}
    for query, named in (("dryrun=true", "dryrun"), ("name=a", "name"), ("dry_run=true&x=1", "x")):
        answer = post(own, f"{ROUTE}?{query}", body)
        assert code(answer) == (400, "invalid_request")
        assert answer.json()["error"]["param"] == named
    assert own.get(f"{ROUTE}/mistake").status_code == 404


@pytest.mark.parametrize("operation", sorted(OPERATIONS), ids=" ".join)
def test_no_operation_takes_a_parameter_that_the_document_does_not_name(
    client: TestClient, operation: tuple[str, str]
) -> None:
    """Probes and scrapers alone may send what they like."""
    method, path = operation
    named = path.replace("{name}", "formal").replace("{id}", "ftjob-1")
    answer = client.request(method, f"{named}?colour=red", headers={"content-type": "application/json"})
    if path in ALWAYS:
        assert answer.status_code == 200
    else:
        assert answer.status_code == (422 if path in NATIVE_PATHS else 400)
        assert "colour" in answer.text


@pytest.mark.parametrize("headers", [{"idempotency-key": "a b"}, {"if-match": "abc"}], ids=str)
def test_a_dry_run_refuses_headers_that_the_registration_would(
    client: TestClient, headers: dict[str, str]
) -> None:
    body = {"name": "new", "source": {"type": "local", "path": "formal"}}
    assert code(post(client, f"{ROUTE}?dry_run=true", body, **headers)) == (400, "invalid_request")


def test_a_pinned_adapter_is_brought_up_and_stays(server: Server, own: TestClient) -> None:
    """`server` has 512 rank rows; a pin alone loads the adapter, without a request."""
    answer = own.patch(f"{ROUTE}/formal", json={"pinned": True})
    assert answer.json()["pinned"] is True
    text(own, BASE)  # a step later
    while own.get(f"{ROUTE}/formal").json()["tier"] != "device":
        text(own, BASE)
    assert own.patch(f"{ROUTE}/formal", json={"pinned": False}).json()["pinned"] is False


def test_a_patch_changes_what_it_names_and_refuses_the_rest(own: TestClient) -> None:
    before = own.get(f"{ROUTE}/formal").json()
    assert own.patch(f"{ROUTE}/formal", json={}).json() == before
    for body, param in (
        ({"tenants": ["a/b"]}, "tenants"),
        ({"pinned": 1}, "pinned"),
        ({"name": "x"}, "name"),
    ):
        answer = own.patch(f"{ROUTE}/formal", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert code(own.patch(f"{ROUTE}/nobody", json={"pinned": True})) == (404, "model_not_found")


def test_too_many_pins_are_refused(server: Server, own: TestClient) -> None:
    server.registry.attach(server.engine.retire, server.engine.pin, rows=RANKS["formal"])
    assert own.patch(f"{ROUTE}/formal", json={"pinned": True}).status_code == 200
    assert code(own.patch(f"{ROUTE}/friendly", json={"pinned": True})) == (409, "pins_too_large")


def test_a_deletion_says_what_came_free_of_device_and_disk(server: Server, own: TestClient) -> None:
    text(own, "formal")
    record = own.get(f"{ROUTE}/formal").json()
    assert record["tier"] == "device"
    assert record["last_used"] >= record["created"]
    found = server.registry.locate(record["generation"])
    size = found.weights.stat().st_size
    freed = own.delete(f"{ROUTE}/formal").json()["freed"]
    assert freed["device"] == record["bytes"]
    assert freed["host"] == record["bytes"]  # fp32 on both sides
    assert freed["disk"] > size
    assert not found.weights.exists()
    assert record["generation"] not in server.engine.runner.rank_rows.resident


def test_a_deletion_waits_and_gives_up_without_a_trace(
    server: Server, own: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = own.get(f"{ROUTE}/formal").json()
    mix = server.registry.lease([Term("formal", 1.0)])
    monkeypatch.setattr(routes, "DELETE_WAIT_S", 0.05)
    answer = own.delete(f"{ROUTE}/formal")
    assert code(answer) == (409, "adapter_in_use")
    server.registry.release(mix)
    after = own.get(f"{ROUTE}/formal").json()
    assert {**after, "last_used": None} == before
    assert text(own, "formal")


def test_while_a_deletion_waits_the_record_says_so(server: Server, own: TestClient) -> None:
    mix = server.registry.lease([Term("formal", 1.0)])
    waiting = threading.Event()
    condition = server.registry._usage._changed
    wait_for = condition.wait_for
    condition.wait_for = lambda *words: (waiting.set(), wait_for(*words))[1]  # type: ignore[method-assign,assignment]
    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(own.delete, f"{ROUTE}/formal")
        assert waiting.wait(30)
        assert own.get(f"{ROUTE}/formal").json()["state"] == "retired"
        assert "formal" not in {each["id"] for each in own.get("/v1/models").json()["data"]}
        assert code(post(own, TEXT, {**GREEDY, "model": "formal"})) == (404, "model_not_found")
        assert code(register(own, "formal", "friendly", {"replace": True})) == (409, "adapter_in_use")
        server.registry.release(mix)
        assert deleting.result(30).status_code == 200


def test_pages(own: TestClient) -> None:
    names = sorted(RANKS)
    whole = own.get(ROUTE).json()
    assert [each["id"] for each in whole["data"]] == names
    assert whole["has_more"] is False
    first = own.get(f"{ROUTE}?limit=2").json()
    assert [each["id"] for each in first["data"]] == names[:2]
    assert first["has_more"] is True
    rest = own.get(f"{ROUTE}?limit=2&after={names[1]}").json()
    assert [each["id"] for each in rest["data"]] == names[2:]
    assert rest["has_more"] is False
    assert own.get(f"{ROUTE}?after=zzz").json()["data"] == []
    for query in ("limit=0", "limit=1001", "limit=x", "limit=-1", "limit=%F0", "order=desc"):
        assert code(own.get(f"{ROUTE}?{query}")) == (400, "invalid_request"), query


def test_an_idempotency_key_knows_an_upload_by_its_bytes(own: TestClient, world: World) -> None:
    def upload(folder: str) -> Any:
        names = ("adapter_config.json", "adapter_model.safetensors")
        files = {name: (name, (world.adapters[folder] / name).read_bytes()) for name in names}
        headers = {"idempotency-key": "u1", "x-lorikeet": "1"}
        return own.post(ROUTE, data={"name": "new"}, files=files, headers=headers)

    first = upload("formal")
    assert first.status_code == 201, first.text
    again = upload("formal")
    assert (again.status_code, again.json()) == (201, first.json())
    assert code(upload("friendly")) == (422, "idempotency_key_reused")


def test_a_start_with_fewer_rows_than_are_pinned_serves_all_the_same(world: World, tmp_path: Path) -> None:
    for rows in (512, max(RANKS.values())):
        config = EngineConfig(max_slots=2, max_model_len=CONTEXT, rank_rows=rows)
        with make_server(world, tmp_path, engine=config) as server, client_of(server.app) as client:
            for name in RANKS:
                client.patch(f"{ROUTE}/{name}", json={"pinned": True})
            assert text(client, BASE)
            answers = [post(client, TEXT, {**GREEDY, "model": name}).status_code for name in RANKS]
            assert 200 in answers, "those whose pins have room"


def test_what_operators_wait_for_keeps_no_request_waiting(server: Server, own: TestClient) -> None:
    """Requests have one thread of their own here; registering and deleting would each hold it."""
    assert own.portal is not None
    own.portal.call(_leave_one_thread)
    mix = server.registry.lease([Term("formal", 1.0)])
    begun = threading.Event()
    condition = server.registry._usage._changed
    wait_for = condition.wait_for
    condition.wait_for = lambda *words: (begun.set(), wait_for(*words))[1]  # type: ignore[method-assign,assignment]
    with ThreadPoolExecutor(2) as pool:
        deleting = pool.submit(own.delete, f"{ROUTE}/formal")
        assert begun.wait(30)
        with server.registry._admitting:  # as while another adapter is checked
            registering = pool.submit(register, own, "new", "triage")
            assert text(own, BASE)
        assert registering.result(30).status_code == 201
        assert not deleting.done()
        server.registry.release(mix)
        assert deleting.result(30).status_code == 200


async def _leave_one_thread() -> None:
    to_thread.current_default_thread_limiter().total_tokens = 1


@pytest.mark.safety("reliability 3")
def test_no_more_registrations_wait_than_are_allowed(
    server: Server, own: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backstage, "WAITING", 2)
    limiter = CapacityLimiter(backstage.CHECKING)
    own.app.state.backstage.checking = limiter  # type: ignore[attr-defined]
    with ThreadPoolExecutor(backstage.CHECKING + 2) as pool, server.registry._admitting:
        waiting = [
            pool.submit(register, own, f"new-{number}", "triage") for number in range(backstage.CHECKING + 2)
        ]
        while limiter.statistics().tasks_waiting < 2:
            assert not any(each.done() for each in waiting)
        refused = register(own, "late", "triage")
        assert code(refused) == (503, "server_busy")
        assert int(refused.headers["retry-after"]) > 0
        assert text(own, BASE)
    assert {each.result().status_code for each in waiting} == {201}
