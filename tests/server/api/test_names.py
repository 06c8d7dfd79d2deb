"""A request for generation names registered adapters: whatever else it sends is a name that nobody has."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.world import BASE, World, post

HOSTILE = [
    "/etc/passwd",
    "../formal",
    "a/../../formal",
    "%2e%2e/formal",
    "..%2fformal",
    "C:\\formal",
    "\\\\host\\share",
    "formal\0",
    "formal/",
    "./formal",
    "~/formal",
    "http://169.254.169.254/latest",
    "file:///etc/passwd",
    "s3://bucket/key",
    "org/adapter@main",
    "hf:org/adapter",
    "ｆormal",  # a full-width f
    "formаl",  # a Cyrillic a
    "x" * 4096,
]
TOUCHED: list[tuple[str, str]] = []
watching = False
JOBS = "jobs"  # the supervisor's thread


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if threading.current_thread().name == JOBS:
        return  # looks through the folders of jobs now and then, whatever clients ask
    if watching and event in ("open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo"):
        TOUCHED.append((event, str(arguments[0])))


sys.addaudithook(_hear)  # hears every open and connect of the process; there is no way to remove one


@contextmanager
def touched() -> Iterator[list[tuple[str, str]]]:
    """What of files and of the network was touched meanwhile."""
    global watching
    TOUCHED.clear()
    watching = True
    try:
        yield TOUCHED
    finally:
        watching = False


def bodies(name: str, root: str) -> Iterator[tuple[str, dict[str, Any]]]:
    text = {"prompt": "Hello", "max_tokens": 1}
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    for each in (name, f"{root}/{name}"):
        yield "/v1/completions", {"model": each, **text}
        yield "/v1/chat/completions", {"model": each, **chat}
        yield "/v1/completions", {"model": BASE, "adapters": [{"name": each, "weight": 1.0}], **text}
        yield "/generate", {"inputs": "Hello", "parameters": {"adapter_id": each, "max_new_tokens": 1}}


@pytest.mark.safety("security 3")
@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:24])
def test_what_is_no_registered_name_is_refused_and_nothing_is_opened(
    client: TestClient, world: World, name: str
) -> None:
    for path, body in bodies(name, str(world.root)):
        with touched() as found:
            answer = post(client, path, body)
        assert answer.status_code in (400, 404, 422), answer.text
        assert found == []


@pytest.mark.safety("security 3")
@pytest.mark.parametrize("source", ["local", "hub", "s3", "pbase", "http://169.254.169.254/"])
def test_a_source_that_a_client_names_has_no_effect(client: TestClient, source: str) -> None:
    parameters = {"adapter_id": "org/adapter", "adapter_source": source, "max_new_tokens": 1}
    with touched() as found:
        answer = post(client, "/generate", {"inputs": "Hello", "parameters": parameters})
    assert answer.status_code == 404
    assert found == []
