"""`lorikeet serve --request-log` as a process: what was answered is kept, by a stop and by a kill."""

from __future__ import annotations

import signal
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from lorikeet_adapters.store import Store
from lorikeet_server.request_log.record import Selection
from lorikeet_server.request_log.records import FILE, Records
from tests.server.process import ServerProcess, lorikeet
from tests.server.world import BASE, World

PATIENCE = 60.0


@pytest.fixture
def process(world: World, tmp_path: Path) -> Iterator[ServerProcess]:
    words = ["--model", str(world.base), "--served-name", BASE, "--quantization", "fp32", "--threads", "1"]
    with closing(ServerProcess(tmp_path, *words, "--request-log", "--request-log-days", "7")) as made:
        yield made


def ask(url: str, prompt: str) -> None:
    body = {"model": BASE, "prompt": prompt, "max_tokens": 3, "temperature": 0}
    assert httpx.post(f"{url}/v1/completions", json=body, timeout=PATIENCE).status_code == 200


def kept(url: str) -> list[Any]:
    return [each["prompt"] for each in httpx.get(f"{url}/v1/requests").json()["data"]]


@pytest.mark.safety("security 17")
def test_what_was_answered_outlives_a_stop_and_a_kill(process: ServerProcess) -> None:
    ask(process.url, "before the stop")
    assert process.end(signal.SIGTERM) == 0
    assert "prompts and answers are kept for 7 days" in process.log
    file = process.data / FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert kept(process.url) == ["before the stop"]
    ask(process.url, "before the kill")
    deadline = time.monotonic() + PATIENCE
    while "before the kill" not in kept(process.url):
        assert time.monotonic() < deadline
    process.end(signal.SIGKILL)
    with closing(Records(process.data)) as records:
        found = [each.prompt for each in records.each(None, Selection())]
    assert found == ["before the stop", "before the kill"]


def test_a_log_that_cannot_be_read_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with Store(tmp_path):
        (tmp_path / FILE).write_bytes(b"something else" * 1000)
    words = ("serve", "--model", "demo", "--port", "0", "--data-dir", str(tmp_path))
    done = lorikeet(*words, "--request-log")
    assert done.returncode == 1
    assert "the request log of the data folder cannot be read" in done.stderr
    assert "loading the base" not in done.stderr
    assert "Traceback" not in done.stderr
