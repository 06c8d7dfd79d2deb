"""Adapters in the body of a request: what arrives is what is served, and what is refused leaves nothing."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from lorikeet_server.api import pace, uploads
from lorikeet_server.api.app import create_app
from tests.adapters.uploads import member, tar_of
from tests.server.keyed import keyed
from tests.server.process import ServerProcess
from tests.server.world import HTTP, LOCAL, Exchange, Server, World, client_of, make_server

ROUTE = "/v1/adapters"
TAR = {"content-type": "application/x-tar"}
FORM = {"x-lorikeet": "1"}
CAP = 300_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def made(world: World, data: Path) -> Iterator[Server]:
    with make_server(world, data, replace(HTTP, max_body_bytes=2000, max_adapter_bytes=CAP)) as server:
        yield server


@pytest.fixture(scope="module")
def sender(made: Server) -> Iterator[TestClient]:
    with client_of(made.app) as client:
        yield client


@pytest.fixture(autouse=True)
def tidy(sender: TestClient, made: Server, data: Path) -> Iterator[None]:
    """After every test nothing waits on the disk, and no upload counts as open."""
    before = generations(sender)
    yield
    sender.delete(f"{ROUTE}/sent")
    assert not list((data / "incoming").iterdir())
    assert not made.app.state.intakes
    assert generations(sender) == before


def generations(client: TestClient) -> dict[str, str]:
    return {each["id"]: each["generation"] for each in client.get(ROUTE).json()["data"]}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")
    }


@pytest.fixture(scope="module")
def files(world: World) -> dict[str, bytes]:
    return files_of(world.adapters["formal"])


def send_form(client: TestClient, files: dict[str, bytes], query: str = "", **fields: str) -> Any:
    parts = {name: (name, content) for name, content in files.items()}
    return client.post(f"{ROUTE}{query}", data=fields, files=parts, headers=FORM)


def send_tar(client: TestClient, files: dict[str, bytes], **fields: str) -> Any:
    return client.post(ROUTE, params=fields, content=tar_of(files, "mine"), headers=TAR)


SENDERS: dict[str, Callable[..., Any]] = {"form": send_form, "tar": send_tar}


@pytest.mark.parametrize("kind", list(SENDERS))
def test_what_arrives_is_what_a_folder_gives(sender: TestClient, files: dict[str, bytes], kind: str) -> None:
    answer = SENDERS[kind](sender, files, name="sent", metadata='{"team": "é"}')
    assert answer.status_code == 201, answer.text
    record = answer.json()
    assert record["generation"] == sender.get(f"{ROUTE}/formal").json()["generation"]
    assert record["source"] == {"type": "upload"}
    assert record["metadata"] == {"team": "é"}
    assert record["warnings"] == []
    again = SENDERS[kind](sender, files, name="sent")
    assert (again.status_code, again.json()) == (200, record)
    body = {"model": "sent", "prompt": "Hello", "max_tokens": 6, "temperature": 0}
    answers = [sender.post("/v1/completions", json={**body, "model": name}) for name in ("sent", "formal")]
    assert answers[0].json()["choices"] == answers[1].json()["choices"]


@pytest.mark.parametrize("kind", list(SENDERS))
def test_other_bytes_need_replace(
    sender: TestClient, world: World, files: dict[str, bytes], kind: str
) -> None:
    send = SENDERS[kind]
    assert send(sender, files, name="sent").status_code == 201
    other = files_of(world.adapters["triage"])
    conflict = send(sender, other, name="sent")
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "adapter_exists")
    assert send(sender, other, name="sent", replace="true").status_code == 201


def test_another_config_is_another_generation(sender: TestClient, files: dict[str, bytes]) -> None:
    config = {**json.loads(files["adapter_config.json"]), "lora_alpha": 7}
    changed = {**files, "adapter_config.json": json.dumps(config).encode()}
    assert send_tar(sender, changed, name="sent").status_code == 201
    assert generations(sender)["sent"] != generations(sender)["formal"]


def test_extras_are_named_in_the_warnings(sender: TestClient, files: dict[str, bytes]) -> None:
    record = send_form(sender, {**files, "tokenizer.json": b"{}"}, name="sent").json()
    assert record["warnings"] == ["the upload's tokenizer.json was ignored"]
    assert sender.get(f"{ROUTE}/sent").json()["warnings"] == record["warnings"]


def test_a_body_without_a_length(sender: TestClient, files: dict[str, bytes]) -> None:
    body = tar_of(files)
    pieces = (body[at : at + 1000] for at in range(0, len(body), 1000))
    assert sender.post(f"{ROUTE}?name=sent", content=pieces, headers=TAR).status_code == 201


WRONG: list[tuple[dict[str, str], str]] = [
    ({}, "name"),
    ({"name": "a", "replace": "yes"}, "the field replace is not valid JSON"),
    ({"name": "a", "replace": "1"}, "replace"),
    ({"name": "a", "metadata": "[]"}, "metadata"),
    ({"name": "a", "metadata": "NaN"}, "NaN"),
    ({"name": "a", "metadata": '{"a": 1, "a": 2}'}, "the same key twice"),
    ({"name": "a", "source": '{"type": "local", "path": "formal"}'}, "source"),
    ({"name": "a", "surprise": "1"}, "surprise"),
    ({"name": "a b"}, "is no adapter name"),
]


@pytest.mark.parametrize("kind", list(SENDERS))
@pytest.mark.parametrize(("fields", "reason"), WRONG, ids=str)
def test_a_wrong_field_is_400_by_name(
    sender: TestClient, files: dict[str, bytes], kind: str, fields: dict[str, str], reason: str
) -> None:
    answer = SENDERS[kind](sender, files, **fields)
    assert answer.status_code == 400, answer.text
    assert reason in answer.json()["error"]["message"]


def test_a_field_that_is_no_text_or_there_twice_is_400(sender: TestClient, files: dict[str, bytes]) -> None:
    for query in ("?name=%ff%ff&name=a", "?name=a&name=b"):
        answer = sender.post(ROUTE + query, content=tar_of(files), headers=TAR)
        assert answer.status_code == 400, answer.text
    form = {"name": (None, b"\xff"), **{name: (name, content) for name, content in files.items()}}
    answer = sender.post(ROUTE, files=form, headers=FORM)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name")
    body = b'--x\r\ncontent-disposition: form-data; name="\xff"\r\n\r\n{\r\n--x--\r\n'
    kind = {"content-type": "multipart/form-data; boundary=x"}
    assert sender.post(ROUTE, content=body, headers=FORM | kind).status_code == 400


@pytest.mark.parametrize("kind", list(SENDERS))
def test_a_broken_adapter_is_422_with_its_reason(
    sender: TestClient, files: dict[str, bytes], data: Path, kind: str
) -> None:
    for change, reason in (
        ({"adapter_model.safetensors": b"version https://git-lfs.github.com/spec/v1\n"}, "Git LFS pointer"),
        ({"adapter_model.safetensors": files["adapter_model.safetensors"][:-1]}, "not fully covered"),
        ({"adapter_config.json": b"{"}, "not JSON"),
        ({"evil.py": b"import os"}, "evil.py"),
    ):
        answer = SENDERS[kind](sender, {**files, **change}, name="sent")
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["code"] == "invalid_adapter"
        assert reason in answer.json()["error"]["message"]
        assert str(data) not in answer.text


@pytest.mark.safety("security 7")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (member("../adapter_config.json", b"{}"), 422),
        (b"\x1f\x8b" + bytes(600), 422),
        (b"", 422),
        (member("adapter_config.json", b"{}")[:700], 422),
    ],
)
def test_a_hostile_tar(sender: TestClient, body: bytes, status: int) -> None:
    answer = sender.post(f"{ROUTE}?name=sent", content=body, headers=TAR)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, "invalid_adapter")


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=a", 'multipart/form-data; boundary="']
)
def test_a_form_without_its_boundary_is_400(sender: TestClient, kind: str) -> None:
    answer = sender.post(ROUTE, content=b"--b\r\n", headers={**FORM, "content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.safety("security 7")
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_cap_is_413(sender: TestClient, files: dict[str, bytes], chunked: bool) -> None:
    big = {**files, "optimizer.pt": bytes(CAP)}
    request = sender.build_request(
        "POST", ROUTE, data={"name": "sent"}, files={k: (k, v) for k, v in big.items()}
    )
    for body, headers in (
        (tar_of(big), TAR),
        (request.read(), {**FORM, "content-type": request.headers["content-type"]}),
    ):
        content: Any = iter([body[:1000], body[1000:]]) if chunked else body
        answer = sender.post(
            ROUTE + ("?name=sent" if headers is TAR else ""), content=content, headers=headers
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert "--max-adapter-bytes" in answer.text


def test_json_keeps_its_own_limit(sender: TestClient) -> None:
    body = {"name": "sent", "source": {"type": "local", "path": "formal"}, "metadata": {"a": "x" * 3000}}
    assert sender.post(ROUTE, json=body).status_code == 413
    fields = send_form(sender, {"adapter_config.json": b"{}"}, name="sent", metadata=json.dumps("x" * 3000))
    assert fields.status_code == 400


@pytest.mark.parametrize("kind", [*SENDERS, "local"])
def test_a_dry_run_tells_and_changes_nothing(
    sender: TestClient, world: World, files: dict[str, bytes], kind: str
) -> None:
    def ask(changes: dict[str, bytes]) -> Any:
        if kind == "tar":
            return send_tar(sender, files | changes, dry_run="true")
        if kind == "form":
            return send_form(sender, files | changes, "?dry_run=true")
        folder = world.root / "tried"
        folder.mkdir()
        for name, content in (files | changes).items():
            (folder / name).write_bytes(content)
        try:
            return sender.post(f"{ROUTE}?dry_run=true", json={"source": {"type": "local", "path": "tried"}})
        finally:
            shutil.rmtree(folder)

    assert ask({}).json() == {"loadable": True, "findings": [], "warnings": []}
    config = json.loads(files["adapter_config.json"])
    answer = ask(
        {"adapter_config.json": json.dumps({**config, "layer_replication": [[0, 1]], "surprise": 1}).encode()}
    )
    assert answer.status_code == 200
    assert answer.json()["loadable"] is False
    assert [(each["code"], each["field"]) for each in answer.json()["findings"]] == [
        ("unknown_key", "surprise"),
        ("unsupported_option", "layer_replication"),
    ]
    assert all(
        set(each) == {"field", "module", "code", "message", "fix"} for each in answer.json()["findings"]
    )
    answer = ask({"adapter_config.json": json.dumps({**config, "r": config["r"] + 1}).encode()})
    assert {each["code"] for each in answer.json()["findings"]} == {"shape_mismatch"}


def test_a_dry_run_may_have_a_name_and_must_be_one(sender: TestClient, files: dict[str, bytes]) -> None:
    assert send_tar(sender, files, dry_run="true", name="sent").json()["loadable"] is True
    assert send_tar(sender, files, dry_run="true", name="a b").status_code == 400
    answer = send_tar(sender, files, dry_run="yes", name="sent")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "dry_run")
    assert send_tar(sender, files, dry_run="false", name="sent").status_code == 201


@pytest.mark.safety("security 15")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "https://evil.example", "x-lorikeet": "1"}, 403),
        ({"origin": LOCAL}, 201),
        ({"x-lorikeet": "1"}, 201),
    ],
)
def test_a_foreign_page_cannot_send_a_form(
    sender: TestClient, files: dict[str, bytes], headers: dict[str, str], status: int
) -> None:
    parts = {name: (name, content) for name, content in files.items()}
    answer = sender.post(ROUTE, data={"name": "sent"}, files=parts, headers=headers)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/adapters/", "/generate"])
def test_other_routes_take_no_files(sender: TestClient, files: dict[str, bytes], path: str) -> None:
    answer = sender.post(path, files={"f": ("f", b"x")}, headers=FORM)
    assert answer.status_code in (400, 404, 405, 422)
    assert answer.status_code != 201


def upload_of(*chunks: bytes, kind: bytes = b"application/x-tar") -> Exchange:
    """An upload whose client stops sending and stays."""
    exchange = Exchange(ROUTE, *chunks, more=True)
    exchange.scope["query_string"] = b"name=sent"
    exchange.scope["headers"] = [(b"host", b"127.0.0.1"), (b"content-type", kind)]
    return exchange


def test_a_client_that_leaves_in_the_middle_leaves_nothing(made: Server, data: Path) -> None:
    async def scenario() -> None:
        exchange = upload_of(member("adapter_model.safetensors", bytes(200_000))[:150_000])
        running = asyncio.ensure_future(exchange.run(made.app))
        while not list((data / "incoming").iterdir()):
            await asyncio.sleep(0)
        exchange.left.set()
        await running
        assert exchange.status == 499

    asyncio.run(scenario())


@pytest.mark.safety("security 10")
def test_a_client_that_falls_silent_is_408(made: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "PATIENCE_S", 0.05)
    exchange = asyncio.run(upload_of(member("adapter_config.json", b"{}")).run(made.app))
    assert exchange.status == 408
    assert json.loads(exchange.body)["error"]["code"] == "body_too_slow"


@pytest.mark.safety("reliability 3")
def test_a_few_uploads_at_once_and_then_503(made: Server) -> None:
    async def scenario() -> None:
        open_ones = [upload_of(bytes(10)) for _ in range(uploads.MAX_INTAKES)]
        running = [asyncio.ensure_future(each.run(made.app)) for each in open_ones]
        while made.app.state.intakes.total() < uploads.MAX_INTAKES:
            await asyncio.sleep(0)
        late = await upload_of(bytes(10)).run(made.app)
        assert (late.status, json.loads(late.body)["error"]["code"]) == (503, "server_busy")
        for each in open_ones:
            each.left.set()
        await asyncio.gather(*running)

    asyncio.run(scenario())


@pytest.mark.safety("security 10")
def test_an_upload_that_never_stops_is_408(made: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it comes: the whole of it has a deadline."""
    monkeypatch.setattr(uploads, "DEADLINE_S", 0.05)
    exchange = asyncio.run(upload_of(member("adapter_config.json", b"{}")).run(made.app))
    assert exchange.status == 408
    assert "0.05 s" in json.loads(exchange.body)["error"]["message"]


@pytest.mark.safety("reliability 3")
def test_a_tenant_has_a_few_uploads_and_leaves_room_for_others(made: Server, tmp_path: Path) -> None:
    with keyed(made, tmp_path, running=False) as house:
        app = house.client.app

        def by(who: str) -> Exchange:
            exchange = upload_of(bytes(10))
            exchange.scope["headers"].append((b"authorization", f"Bearer {house.secrets[who]}".encode()))
            return exchange

        async def scenario() -> None:
            slow = [by("acme") for _ in range(uploads.MAX_TENANT_INTAKES)]
            running = [asyncio.ensure_future(each.run(app)) for each in slow]
            while app.state.intakes["acme"] < uploads.MAX_TENANT_INTAKES:
                await asyncio.sleep(0)
            late = await by("acme").run(app)
            assert (late.status, json.loads(late.body)["error"]["code"]) == (429, "tenant_busy")
            other = by("beta")
            running.append(asyncio.ensure_future(other.run(app)))
            while not app.state.intakes["beta"]:
                await asyncio.sleep(0)
            for each in (*slow, other):
                each.left.set()
            await asyncio.gather(*running)
            assert not app.state.intakes

        asyncio.run(scenario())


def test_a_client_that_still_sends_sees_the_reason(process: ServerProcess) -> None:
    url = httpx.URL(process.url)
    body = member("../adapter_config.json", bytes(30 << 20))
    connection = http.client.HTTPConnection(url.host, url.port, timeout=60)
    with closing(connection):  # it gives up when it cannot send
        connection.request("POST", f"{ROUTE}?name=sent", body, TAR)
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)["error"]["code"]) == (422, "invalid_adapter")


def test_an_upload_is_never_wholly_in_memory(process: ServerProcess) -> None:
    size = 400 << 20
    block = member("adapter_model.safetensors")
    header = block.replace(b"%011o" % 0, b"%011o" % size, 1)
    header = header[:148] + b" " * 8 + header[156:]
    header = header[:148] + b"%06o\0 " % sum(header) + header[156:]

    def body() -> Iterator[bytes]:
        yield member("adapter_config.json", b'{"peft_type": "LORA", "r": 1, "lora_alpha": 1}') + header
        for _ in range(size >> 20):
            yield bytes(1 << 20)
        yield bytes(1024)

    before = peak_of(process)
    answer = httpx.post(f"{process.url}{ROUTE}?name=sent", content=body(), headers=TAR, timeout=110)
    assert answer.status_code == 422, answer.text
    assert "adapter_model.safetensors" in answer.text
    assert peak_of(process) - before < 60 << 20
    assert not list((process.data / "incoming").iterdir())


def peak_of(process: ServerProcess) -> int:
    """The most memory the process has held, in bytes."""
    httpx.get(f"{process.url}/health")
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


@pytest.mark.parametrize("end", ["leaves", "kill -9"])
def test_a_body_shorter_than_promised_leaves_nothing(process: ServerProcess, end: str) -> None:
    url = httpx.URL(process.url)
    incoming = process.data / "incoming"
    with socket.create_connection((url.host, url.port or 0)) as client:
        head = f"POST {ROUTE}?name=sent HTTP/1.1\r\nhost: {url.host}\r\ncontent-type: application/x-tar\r\n"
        client.sendall(head.encode() + b"content-length: 9000000\r\n\r\n")
        client.sendall(member("adapter_model.safetensors", bytes(4 << 20))[: 3 << 20])
        wait_until(lambda: any(each.stat().st_size for each in incoming.iterdir()))
        if end == "kill -9":
            process.end(signal.SIGKILL)
            assert list(incoming.iterdir())
            assert process.url
    wait_until(lambda: not list(incoming.iterdir()))
    assert httpx.get(f"{process.url}/health/live").status_code == 200


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_with_insecure_a_form_needs_no_header(made: Server, files: dict[str, bytes]) -> None:
    services = replace(made.services, http=replace(made.services.http, insecure=True))
    client = TestClient(create_app(services), LOCAL)
    parts = {name: (name, content) for name, content in files.items()}
    answer = client.post(f"{ROUTE}?dry_run=true", files=parts)
    assert answer.json() == {"loadable": True, "findings": [], "warnings": []}
