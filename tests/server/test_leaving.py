"""A crowd that asks for very much and leaves: the next request does not pay for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from tests.crowd import metric
from tests.server.process import ServerProcess
from tests.tiny import make_model, make_tokenizer, save_adapter

POSITIONS = 32_768
WANTED = 10_000
STAYS_S = 0.5
ANSWERED_S = 5.0
PATHS = ("/v1/completions", "/generate", "/generate_stream", "/v1/chat/completions")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("leaving")
    base = make_model("llama")
    base.config.max_position_embeddings = POSITIONS
    base.save_pretrained(folder / "base")
    make_tokenizer().save_pretrained(folder / "base")
    adapters = [save_adapter(folder / "base", folder / name, rank=4, seed=1) for name in "xy"]
    named = [word for path in adapters for word in ("--adapter", f"{path.name}={path}")]
    words = ("--model", str(folder / "base"), "--quantization", "fp32", "--threads", "1", *named)
    with closing(ServerProcess(folder, *words)) as process:
        yield process


def body_of(number: int) -> tuple[str, dict[str, object]]:
    path, name = PATHS[number % len(PATHS)], ("x", "y", "base")[number % 3]
    if path.startswith("/generate"):
        own = {} if name == "base" else {"adapter_id": name}
        parameters = {"max_new_tokens": WANTED, "ignore_eos_token": True, **own}
        return path, {"inputs": f"Number {number}", "parameters": parameters}
    asked = (
        {"messages": [{"role": "user", "content": f"Number {number}"}]} if "chat" in path else {"prompt": "N"}
    )
    more = {"max_tokens": WANTED, "ignore_eos": True, "stream": number % 2 == 0}
    return path, {"model": name, **asked, **more}


async def crowd(url: str, clients: int) -> None:
    """Ask, read what comes, and break the connection off half a second later."""

    async def one(http: httpx.AsyncClient, number: int) -> None:
        path, body = body_of(number)
        async with http.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for _ in answer.aiter_raw():
                pass
        raise AssertionError("nobody should have got to the end")

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
        asked = [asyncio.create_task(one(http, number)) for number in range(clients)]
        done, _ = await asyncio.wait(asked, timeout=STAYS_S)
        assert not done, [each.exception() for each in done]
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


@pytest.mark.safety("reliability 4")
@pytest.mark.timeout(120)
def test_after_two_hundred_clients_have_left_a_short_request_is_answered(server: ServerProcess) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        http.post("/v1/completions", json={"model": "x", "prompt": "Warm", "max_tokens": 1})
        asyncio.run(crowd(server.url, clients=200))
        began = time.monotonic()
        answer = http.post("/v1/completions", json={"model": "y", "prompt": "Short", "max_tokens": 4})
        assert answer.status_code == 200
        assert time.monotonic() - began < ANSWERED_S
        held = [metric(server.url, f"lorikeet_requests_{what}") for what in ("running", "waiting")]
        assert held == [0, 0]
        for name in "xy":
            assert http.get(f"/v1/adapters/{name}").json()["leases"] == 0
            removed = http.delete(f"/v1/adapters/{name}", headers={"content-type": "application/json"})
            assert removed.json()["freed"]["device"] is not None
        assert metric(server.url, "lorikeet_rank_rows_used") == 0
