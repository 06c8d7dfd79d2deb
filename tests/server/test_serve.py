"""The server as its operator meets it: a process that starts, is killed, refuses to start, and stops."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lorikeet_adapters.store import Store
from lorikeet_server.cli import main
from lorikeet_server.config import HttpConfig
from lorikeet_server.engine.tokenizer import load_tokenizer
from lorikeet_server.keyring import add_key
from lorikeet_server.serve import listen
from tests.server.process import ServerProcess, lorikeet
from tests.server.world import BASE, RANKS, World, events_of

MIXES = [BASE, "formal", "friendly", "formal:0.7+friendly:0.3", "triage+formal:-0.5"]
VARIANTS = 60  # more than can be registered before the kill
TEXT: dict[str, Any] = {
    "prompt": "Where is my parcel?",
    "max_tokens": 16,
    "ignore_eos": True,
    "temperature": 0,
}


@pytest.fixture
def client(process: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=process.url, timeout=60, trust_env=False) as made:
        for name in RANKS:
            register(made, name, name)
        yield made


def register(client: httpx.Client, name: str, path: str) -> httpx.Response:
    return client.post("/v1/adapters", json={"name": name, "source": {"type": "local", "path": path}})


def ended(client: httpx.Client) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    (family,) = (each for each in families if each.name == "lorikeet_requests")
    return {each.labels["reason"]: each.value for each in family.samples}


def test_it_holds_the_base_in_nf4_and_has_tested_itself(client: httpx.Client, process: ServerProcess) -> None:
    info = client.get("/info").json()
    assert info["quantization"] == "nf4"
    assert "uint8" in info["bytes_by_dtype"]
    assert info["self_test"]["difference_std"] <= info["self_test"]["bound_std"]
    first, *_ = process.log.splitlines()
    assert "loading the base" in first
    assert "ready after" in process.log


def test_twenty_streams_over_five_mixes_end_once_each(client: httpx.Client) -> None:
    before = ended(client)

    def ask(number: int) -> list[Any]:
        body = {**TEXT, "model": MIXES[number % len(MIXES)], "stream": True}
        answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return events_of(answer.text)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))
    for events in answers:
        assert events.count("[DONE]") == 1
        assert events[-1] == "[DONE]"
        reasons = [choice["finish_reason"] for event in events[:-1] for choice in event["choices"]]
        assert [each for each in reasons if each] == ["length"]
    after = ended(client)
    assert after["length"] - before["length"] == 20
    assert {reason: after[reason] - before[reason] for reason in ("stop", "aborted", "failed")} == {
        "stop": 0,
        "aborted": 0,
        "failed": 0,
    }


def test_clients_that_hang_up_free_their_slots(client: httpx.Client) -> None:
    body = {**TEXT, "model": "formal", "max_tokens": 230, "stream": True}
    before = ended(client)["aborted"]
    for _ in range(3):
        with client.stream("POST", "/v1/completions", json=body) as answer:
            next(answer.iter_bytes())
    deadline = time.monotonic() + 20
    while ended(client)["aborted"] < before + 3:
        assert time.monotonic() < deadline, "the engine still computes for clients that have gone"
    assert {each["leases"] for each in client.get("/v1/adapters").json()["data"]} == {0}


@pytest.mark.safety("security 10")
def test_bodies_over_the_limit_are_413_on_the_wire(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 10_000

    headers = {"content-type": "application/json"}
    assert client.post("/v1/completions", content=b" " * 100_001, headers=headers).status_code == 413
    assert client.post("/v1/completions", content=endless(), headers=headers).status_code == 413


@pytest.mark.safety("security 2", "security 10")
@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\nhost: x/skip?\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n",
        b"GET http://evil.example/v1/models HTTP/1.1\r\nhost: evil.example\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET /v1/models?" + b"a" * 1_000_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 200_000 + b"\r\n",
        b"POST /v1/models HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x/skip?\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ],
    ids=[
        "path in the host",
        "two hosts",
        "absolute form",
        "no host",
        "huge header",
        "no request",
        "huge line",
        "many headers",
        "negative length",
        "two lengths",
        "websocket",
    ],
)
def test_raw_requests_that_are_not_plain_are_refused(process: ServerProcess, head: bytes) -> None:
    host, port = process.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as wire:
        try:
            wire.sendall(head)
            answer = wire.recv(4096)
        except ConnectionError:
            return  # closed before it had read everything
    assert answer.split(b" ")[1:2] in ([b"400"], [b"403"], [b"405"], [b"431"], []), answer
    assert b'"data"' not in answer


@pytest.mark.safety("reliability 6")
def test_what_was_acknowledged_survives_a_kill(process: ServerProcess, world: World) -> None:
    """Registrations run while the process is killed; each acknowledged one is there afterwards and serves."""
    url, acknowledged = process.url, list[str]()
    enough = threading.Event()
    for number in range(VARIANTS):
        make_variant(world, number)

    def keep_registering() -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            for number in range(VARIANTS):
                try:
                    answer = register(client, f"killed-{number}", f"variant-{number}")
                except httpx.TransportError:
                    return
                assert answer.status_code == 201, answer.text
                acknowledged.append(answer.json()["generation"])
                if number == 6:
                    enough.set()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(keep_registering)
        assert enough.wait(60)
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        running.result()
    with httpx.Client(base_url=process.url, timeout=60, trust_env=False) as client:
        found = {each["id"]: each["generation"] for each in client.get("/v1/adapters").json()["data"]}
        names = [name for name in found if name.startswith("killed-")]
        assert len(acknowledged) <= len(names) <= len(acknowledged) + 1
        for number, generation in enumerate(acknowledged):
            assert found[f"killed-{number}"] == generation
        for name in names:  # the one that was not acknowledged, too, is whole or absent
            answer = client.post("/v1/completions", json={**TEXT, "model": name, "max_tokens": 1})
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-lorikeet-generation"] == found[name]
    assert not list((process.data / "incoming").iterdir())


def make_variant(world: World, number: int) -> None:
    """The same weights under another alpha are another generation."""
    folder = world.root / f"variant-{number}"
    shutil.copytree(world.adapters["triage"], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": number + 100}))


@pytest.mark.safety("reliability 1")
def test_sigterm_lets_a_stream_finish_and_exits_with_0(process: ServerProcess) -> None:
    body = {**TEXT, "model": BASE, "max_tokens": 80, "stream": True}
    with httpx.stream("POST", f"{process.url}/v1/completions", json=body, timeout=60) as answer:
        pieces = answer.iter_text()
        text = next(pieces)
        with ThreadPoolExecutor(1) as pool:
            code = pool.submit(process.end, signal.SIGTERM)
            text += "".join(pieces)
            assert code.result() == 0
    assert events_of(text)[-1] == "[DONE]"
    assert "Traceback" not in process.log


# What cannot be served ends with one line and exit code 1.


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on standard error of `lorikeet serve` in this process, which must exit with 1."""
    monkeypatch.setattr(sys, "argv", ["lorikeet", "serve", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lorikeet: ")
    return line


Refusal = tuple[pytest.MonkeyPatch, pytest.CaptureFixture[str]]


@pytest.fixture
def attempt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    return monkeypatch, capsys


@pytest.mark.safety("security 14")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_a_public_address_without_keys_is_refused(attempt: Refusal, host: str) -> None:
    assert "--insecure" in refusal(*attempt, "--host", host)


def test_keys_that_protect_nothing_are_refused(attempt: Refusal, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    assert "lorikeet keys new" in refusal(*attempt, "--host", "0.0.0.0", "--api-keys", str(file))
    add_key(file, "ops", ["admin"], None)
    assert "say one" in refusal(*attempt, "--insecure", "--api-keys", str(file))
    file.write_text("[[keys]]\nnome = 1\n")
    assert "nome" in refusal(*attempt, "--api-keys", str(file))
    for flag in ("--make-key", "--open-metrics"):
        assert "--api-keys" in refusal(*attempt, flag)


@pytest.mark.safety("security 14")
def test_the_first_start_of_the_container(world: World, tmp_path: Path) -> None:
    """On 0.0.0.0 with a key that is made once and printed once; the next start prints none."""
    file = tmp_path / "keys.toml"
    words = ["--host", "0.0.0.0", "--api-keys", str(file), "--make-key", "--access-log"]
    server = ServerProcess(tmp_path, "--model", str(world.base), "--threads", "1", *words)
    try:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        (secret,) = re.findall(r"lk-[A-Za-z0-9_-]{43}", server.output)
        assert httpx.get(f"{url}/v1/models").status_code == 401
        headers = {"authorization": f"Bearer {secret}", "host": "lorikeet.example"}
        for path in ("/v1/models", "/v1/adapters", "/metrics"):
            assert httpx.get(f"{url}{path}", headers=headers).status_code == 200
        done = lorikeet("keys", "new", "--tenant", "acme", LORIKEET_API_KEYS=str(file))
        until(lambda: httpx.get(f"{url}/info", headers={"authorization": f"Bearer {done.stdout.strip()}"}))
        server.end(signal.SIGTERM)
        lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
        assert {(each["status"], each["key"]) for each in lines} >= {
            (401, None),
            (200, "first"),
            (200, "acme-1"),
        }
        assert secret not in server.log
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert server.url
        assert "lk-" not in server.output
    finally:
        server.close()


def until(ask: Callable[[], httpx.Response]) -> None:
    """The file of keys is looked at once a second."""
    deadline = time.monotonic() + 30.0
    while ask().status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_address_that_is_not_ours_is_refused(attempt: Refusal, tmp_path: Path) -> None:
    line = refusal(*attempt, "--host", "192.0.2.1", "--insecure", "--data-dir", str(tmp_path))
    assert "cannot listen on 192.0.2.1" in line


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "meta"])
def test_an_unknown_device_is_refused(attempt: Refusal, world: World, tmp_path: Path, device: str) -> None:
    words = ["--model", str(world.base), "--port", "0", "--data-dir", str(tmp_path)]
    assert "none of auto, cpu, cuda, cuda:N" in refusal(*attempt, *words, "--device", device)


def test_a_data_folder_in_use_is_refused_with_its_holders_address(attempt: Refusal, tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.announce("http://127.0.0.1:1234")
        line = refusal(*attempt, "--port", "0", "--data-dir", str(tmp_path))
    assert "in use" in line
    assert "http://127.0.0.1:1234" in line


def test_a_data_folder_that_cannot_be_one_is_refused(attempt: Refusal, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below"):
        assert "data folder" in refusal(*attempt, "--port", "0", "--data-dir", str(tmp_path / path))


def test_a_broken_catalogue_is_refused(attempt: Refusal, tmp_path: Path) -> None:
    Store(tmp_path).close()
    (tmp_path / "catalogue.sqlite").write_bytes(b"no database at all" * 100)
    assert "catalogue" in refusal(*attempt, "--port", "0", "--data-dir", str(tmp_path))


@pytest.mark.parametrize("kind", ["empty folder", "nowhere", "config no JSON", "no weights"])
def test_a_folder_that_is_no_model_is_refused(
    attempt: Refusal, tmp_path: Path, world: World, kind: str
) -> None:
    model = tmp_path / "model"
    if kind != "nowhere":
        model.mkdir()
    if kind == "config no JSON":
        (model / "config.json").write_text("{")
    if kind == "no weights":
        shutil.copy(world.base / "config.json", model)
    line = refusal(*attempt, "--port", "0", "--data-dir", str(tmp_path / "data"), "--model", str(model))
    assert "model" in line


def test_a_refused_start_gives_the_data_folder_back(attempt: Refusal, tmp_path: Path) -> None:
    refusal(*attempt, "--port", "0", "--data-dir", str(tmp_path), "--model", str(tmp_path))
    Store(tmp_path).close()


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        ("formal", "NAME=FOLDER"),
        ("a=/nowhere", "does not exist"),
        ("=x", "x"),
        (f"{BASE}={{root}}/formal", "base model's"),
    ],
)
def test_an_adapter_that_cannot_be_registered_at_start_is_refused(
    attempt: Refusal, world: World, tmp_path: Path, adapter: str, reason: str
) -> None:
    words = ["--port", "0", "--data-dir", str(tmp_path), "--model", str(world.base), "--quantization", "fp32"]
    assert reason in refusal(*attempt, *words, "--adapter", adapter.format(root=world.root))


def test_transformers_does_not_warn_of_what_we_refuse(attempt: Refusal, tmp_path: Path) -> None:
    heard: list[logging.LogRecord] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record)

    tokenizer, ear = load_tokenizer("demo"), Ear()
    spoken = logging.getLogger("transformers.tokenization_utils_base")
    spoken.addHandler(ear)
    try:
        refusal(*attempt, "--port", "0", "--model", str(tmp_path))  # whatever comes of it, it began
        tokenizer.encode("Hello " * 4000)
        spoken.warning("something else")
    finally:
        spoken.removeHandler(ear)
    assert [each.getMessage() for each in heard] == ["something else"]


def test_an_occupied_port_is_refused_before_anything_is_made(attempt: Refusal, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refusal(*attempt, "--port", port, "--data-dir", str(tmp_path / "data"))
    assert line.startswith(f"lorikeet: cannot listen on 127.0.0.1:{port}: ")
    assert not (tmp_path / "data").exists()


def test_a_port_is_occupied_from_the_moment_a_server_starts(attempt: Refusal, tmp_path: Path) -> None:
    """Not only once it has loaded its base: two would load theirs, and one would find out afterwards."""
    listener, http = listen(HttpConfig(port=0))
    with listener:
        line = refusal(*attempt, "--port", str(http.port), "--data-dir", str(tmp_path / "data"))
    assert "cannot listen on" in line


def test_a_refusal_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    """In a process of its own: nothing that is imported on the way writes a second line."""
    done = lorikeet("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), "--model", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith("is no model folder: it has no config.json")
