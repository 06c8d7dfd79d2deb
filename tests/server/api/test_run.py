"""A client that leaves costs nothing more: its slot, its lease and its reader are gone at once."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lorikeet_server.engine.config import EngineConfig
from tests.server.world import (
    BASE,
    CONTEXT,
    Exchange,
    Script,
    Scripted,
    Server,
    World,
    finished,
    make_server,
    token,
    with_requests,
)

ROUTES = ["/v1/chat/completions", "/v1/completions", "/generate", "/generate_stream"]
SOON = 20.0


def body_of(path: str, tokens: int, **more: Any) -> bytes:
    if path.startswith("/generate"):
        parameters = {"max_new_tokens": tokens, "ignore_eos_token": True, "adapter_id": "formal"}
        return json.dumps({"inputs": "Hello", "parameters": parameters}).encode()
    content = (
        {"prompt": "Hello"}
        if path == "/v1/completions"
        else {"messages": [{"role": "user", "content": "Hello"}]}
    )
    body = {"model": "formal", "max_tokens": tokens, "ignore_eos": True, **content, **more}
    return json.dumps(body).encode()


def play(server: Server, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario while the application of `server` is up."""

    async def main() -> None:
        async with server.app.router.lifespan_context(server.app):
            await asyncio.wait_for(scenario(), SOON)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def after_one_more(server: Server) -> None:
    """Commands are obeyed in order: when a later request has ended, an earlier cancellation has been heard."""
    last = await Exchange("/v1/completions", body_of("/v1/completions", 1)).run(server.app)
    assert last.status == 200
    assert server.engine.stats.running == server.engine.stats.waiting == 0
    assert set(server.leases().values()) == {0}


def ended(server: Server, reason: str) -> float:
    return (
        server.services.metrics.registry.get_sample_value("lorikeet_requests_total", {"reason": reason})
        or 0.0
    )


@pytest.mark.safety("reliability 4")
@pytest.mark.parametrize("path", ROUTES)
def test_leaving_in_mid_answer_frees_the_slot(server: Server, path: str) -> None:
    streaming = {"stream": True} if path.startswith("/v1") else {}

    async def scenario() -> None:
        exchange = Exchange(path, body_of(path, CONTEXT - 60, **streaming))
        answering = asyncio.create_task(exchange.run(server.app))
        await until(lambda: server.engine.stats.running == 1)
        if path != "/generate":
            await exchange.said.wait()
        exchange.left.set()
        await answering
        await after_one_more(server)
        assert ended(server, "aborted") == 1
        assert exchange.status == (499 if path == "/generate" else 200)
        assert b"[DONE]" not in exchange.body

    play(server, scenario)


@pytest.mark.safety("reliability 4")
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_leaving_before_a_whole_answer_is_ready_frees_the_slots(server: Server, path: str) -> None:
    more = {"prompt": ["One", "Two", "Three"]} if path == "/v1/completions" else {}

    async def scenario() -> None:
        exchange = Exchange(path, body_of(path, CONTEXT - 60, **more))
        answering = asyncio.create_task(exchange.run(server.app))
        count = 3 if more else 1
        await until(lambda: server.engine.stats.running == count)
        assert server.leases()["formal"] == count
        exchange.left.set()
        await answering
        assert (exchange.status, exchange.body) == (499, b"")
        await after_one_more(server)
        assert ended(server, "aborted") == count

    play(server, scenario)


@pytest.mark.safety("reliability 4")
def test_leaving_while_waiting_for_a_slot_leaves_the_line(world: World, tmp_path: Path) -> None:
    config = EngineConfig(max_slots=1, max_model_len=CONTEXT)

    async def scenario() -> None:
        path = "/v1/completions"
        first, second = (Exchange(path, body_of(path, CONTEXT - 60, stream=True)) for _ in range(2))
        tasks = [asyncio.create_task(first.run(server.app))]
        await first.said.wait()
        tasks.append(asyncio.create_task(second.run(server.app)))
        await until(lambda: server.leases()["formal"] == 2)
        second.left.set()
        await tasks[1]
        assert second.body == b""
        first.left.set()
        await tasks[0]
        await after_one_more(server)
        assert ended(server, "aborted") == 2

    with make_server(world, tmp_path / "one-slot", engine=config) as server:
        play(server, scenario)


def test_leaving_in_the_middle_of_the_body_is_no_error_of_ours(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        exchange = Exchange("/v1/completions", b'{"model": ', more=True)
        exchange.left.set()
        await exchange.run(server.app)
        assert exchange.status == 499

    with caplog.at_level(logging.WARNING):
        play(server, scenario)
    assert not caplog.records


def test_many_that_leave_do_not_delay_one_that_stays(server: Server) -> None:
    async def scenario() -> None:
        path = "/v1/completions"
        leaving = [Exchange(path, body_of(path, CONTEXT - 60)) for _ in range(40)]
        tasks = [asyncio.create_task(each.run(server.app)) for each in leaving]
        await until(lambda: server.engine.stats.running == 8)
        for each in leaving:
            each.left.set()
        await asyncio.gather(*tasks)
        await after_one_more(server)
        assert ended(server, "aborted") == 40
        assert server.engine.stats.steps < 60

    play(server, scenario)


def test_one_prompt_that_fails_ends_its_siblings(server: Server) -> None:
    """The first fails at once, the second would never end by itself."""

    scripts = iter([Script(RuntimeError("first")), Script()])
    made = Scripted(lambda _: next(scripts))

    async def scenario() -> None:
        app = with_requests(server.services, made)
        body = {"model": BASE, "prompt": ["One", "Two"], "max_tokens": 4}
        exchange = await Exchange("/v1/completions", json.dumps(body).encode()).run(app)
        assert exchange.status == 500
        assert all(script.closed for script in made.scripts)

    asyncio.run(asyncio.wait_for(scenario(), SOON))


@pytest.mark.parametrize("path", ROUTES)
def test_every_stream_is_closed_once_it_is_answered(server: Server, path: str) -> None:
    made = Scripted(lambda request: Script(token(request), finished(request)))

    async def scenario() -> None:
        exchange = await Exchange(path, body_of(path, 4)).run(with_requests(server.services, made))
        assert exchange.status == 200
        assert all(script.closed for script in made.scripts)

    asyncio.run(asyncio.wait_for(scenario(), SOON))
