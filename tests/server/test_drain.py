"""Told to stop under load: every client gets one proper ending, nothing is traced back, the exit code is 0."""

from __future__ import annotations

import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.process import ServerProcess
from tests.server.world import BASE, CONTEXT, World, events_of

pytestmark = pytest.mark.safety("reliability 1")

CLIENTS = 32
LONG = 230  # tokens of each request; one slot serves them one after the other, for many seconds
SOON = 60
Start = Callable[[int], ServerProcess]


@pytest.fixture
def start(world: World, tmp_path: Path) -> Iterator[Start]:
    made: list[ServerProcess] = []

    def make(drain_seconds: int) -> ServerProcess:
        words = ["--model", world.base, "--served-name", BASE, "--quantization", "fp32", "--threads", 1]
        limits = ["--max-slots", 1, "--max-model-len", CONTEXT, "--drain-seconds", drain_seconds]
        adapter = ["--adapter", f"formal={world.adapters['formal']}"]
        made.append(ServerProcess(tmp_path, *map(str, [*words, *limits, *adapter])))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ask(url: str, number: int) -> httpx.Response:
    """Chat and native, whole and streamed, base and adapter, in turn."""
    model = (BASE, "formal")[number // 4 % 2]
    chat = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    chat |= {"max_tokens": LONG, "ignore_eos": True}
    native = {"inputs": "Hello", "parameters": {"max_new_tokens": LONG, "ignore_eos_token": True}}
    path, body = (
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "stream": True}),
        ("/generate", native),
        ("/generate_stream", native),
    )[number % 4]
    return httpx.post(url + path, json=body, timeout=SOON, trust_env=False)


def ending_of(answer: httpx.Response) -> str:
    """How one client's answer ended; fails on what is not whole, or in no form of ours."""
    said = answer.text
    if answer.headers["content-type"].startswith("text/event-stream"):
        assert said.endswith("\n\n")
        last = events_of(said)[-1]
        if last == "[DONE]":
            return "complete"
    else:
        assert answer.headers["content-type"] == "application/json"
        assert answer.status_code in (200, 503)
        last = answer.json()
    if "error" in last:
        return code_of(last)
    assert last.get("generated_text") or last["choices"][0]["message"]["content"]
    return "complete"


def code_of(said: Any) -> str:
    if isinstance(said["error"], dict):
        return str(said["error"]["code"])
    assert said["error_type"] == "generation"  # LoRAX's and TGI's form has no code
    return "aborted" if "is stopping and ended the request" in said["error"] else said["error"]


def taken_in(url: str) -> float:
    """Generation requests that the engine has heard of, those that have ended included."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics", trust_env=False).text)
    wanted = {"lorikeet_requests_running", "lorikeet_requests_waiting", "lorikeet_requests_total"}
    samples = (sample for each in families for sample in each.samples)
    return sum(sample.value for sample in samples if sample.name in wanted)


@contextmanager
def under_load(process: ServerProcess) -> Iterator[list[Future[httpx.Response]]]:
    url = process.url
    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(ask, url, number) for number in range(CLIENTS)]
        deadline = time.monotonic() + SOON
        while taken_in(url) < CLIENTS:
            assert time.monotonic() < deadline
        yield asked


def test_the_deadline_ends_what_still_runs(start: Start) -> None:
    process = start(1)
    with under_load(process) as asked:
        assert process.end(signal.SIGTERM) == 0
        endings = Counter(ending_of(each.result()) for each in asked)
    assert set(endings) <= {"complete", "aborted"}
    assert endings["aborted"] > CLIENTS / 2
    assert "waiting up to 1 s for " in process.log
    assert "Traceback" not in process.log
    assert "ERROR" not in process.log


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)])
def test_until_then_new_work_is_refused_and_a_second_signal_ends_the_wait(
    start: Start, number: signal.Signals
) -> None:
    process = start(600)
    url = process.url
    with under_load(process) as asked:
        process.send(number)
        process.until_it_says("stopping: ")
        refused = ask(url, 0)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) > 0
        assert ask(url, 2).status_code == 503
        assert "takes no new requests" in ask(url, 3).json()["error"]
        ready = httpx.get(f"{url}/health/ready", trust_env=False)
        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
        assert httpx.get(f"{url}/health/live", trust_env=False).status_code == 200
        assert process.end(number) == 0
        endings = Counter(ending_of(each.result()) for each in asked)
    assert set(endings) <= {"complete", "aborted"}
    assert endings["aborted"] > CLIENTS / 2
    assert "Traceback" not in process.log


def test_clients_that_neither_write_nor_read_hold_nothing_up(start: Start) -> None:
    """One has sent half a body, one half a head, one idles on an open connection."""
    process = start(600)
    host, port = process.url.removeprefix("http://").split(":")
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    sent = [head + b"content-length: 1000\r\n\r\n{", head, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"]
    with ExitStack() as wires:
        for words in sent:
            wire = wires.enter_context(socket.create_connection((host, int(port)), timeout=SOON))
            wire.sendall(words)
        heard = b""
        while not heard.endswith(b'{"status":"ok"}'):
            heard += wire.recv(4096)
        assert process.end(signal.SIGTERM) == 0
    assert "waiting up to 600 s for 0 requests" in process.log
    assert "Traceback" not in process.log
