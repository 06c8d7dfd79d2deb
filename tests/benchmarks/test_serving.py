"""The client counts what a server sends, and calls nothing whole that is not."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lorikeet_bench.client import read_stream
from lorikeet_bench.plan import PlanRefused
from lorikeet_bench.serving import WARM_UP, Session, drive
from lorikeet_bench.serving_report import Objectives, percentile, summarise
from lorikeet_bench.workload import Workload


def piece(text: str, finish: str | None = None, **more: object) -> str:
    return json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": finish}], **more})


def stamped(*lines: str, first: float = 10.0, gap: float = 0.5) -> list[tuple[float, str]]:
    return [(first + gap * place, line) for place, line in enumerate(lines)]


USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}})


def test_times_and_counts_are_read_from_the_stream() -> None:
    done = read_stream("m", 9.0, 13.0, stamped(piece("a"), piece(""), piece("b", "length"), USAGE, "[DONE]"))
    assert not done.error
    assert (done.ttft, done.e2e) == (1.0, 2.0)
    assert done.gaps == (1.0,), "the empty piece is none that anybody sees"
    assert (done.input_tokens, done.tokens, done.counted) == (7, 5, True)
    assert done.tpot == 1.0 / 4


def test_without_usage_pieces_are_counted_and_it_is_said() -> None:
    done = read_stream("m", 9.0, 13.0, stamped(piece("a"), piece("b", "stop")))
    assert (done.tokens, done.counted, done.error) == (2, False, "")


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ([], "no text"),
        ([piece("", "stop"), "[DONE]"], "no text"),
        ([piece("a"), "[DONE]"], "finish_reason"),
        ([piece("a"), json.dumps({"error": {"message": "the engine died"}})], "the engine died"),
    ],
)
def test_a_broken_stream_is_an_error(lines: Sequence[str], word: str) -> None:
    assert word in read_stream("m", 0.0, 1.0, stamped(*lines)).error


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_percentiles_are_the_usual_ones(values: list[float]) -> None:
    wanted = statistics.quantiles(values, n=100, method="inclusive")
    for percent in (50, 90, 95, 99):
        assert percentile(values, percent) == pytest.approx(wanted[percent - 1], rel=1e-9, abs=1e-9)


def test_figures_count_whole_answers_only() -> None:
    quick = read_stream("m", 9.9, 11.0, stamped(piece("a"), piece("b", "stop"), gap=0.1))
    slow = read_stream("n", 5.0, 11.0, stamped(piece("a"), piece("b", "stop"), gap=0.9))
    broken = read_stream("n", 5.0, 11.0, stamped(piece("a")))
    document = summarise(Session((quick, slow, broken), 2.0, 3), Objectives.parse("ttft:200,tpot:150"))
    assert (document["completed"], document["failed"]) == (2, 1)
    assert document["request_throughput"] == 1.0
    assert document["output_throughput"] == 2.0
    assert document["request_goodput"] == 0.5
    assert document["mean_ttft_ms"] == pytest.approx((100 + 5000) / 2)
    assert document["p99_itl_ms"] == pytest.approx(100 + 0.99 * 800)
    assert document["tokens_counted_by"] == "pieces"
    with pytest.raises(PlanRefused, match="finish_reason"):
        summarise(Session((broken,), 2.0, 1), Objectives.parse(""))


@pytest.mark.parametrize("text", ["ttft", "ttft:x", "ttft:0", "itl:5", "e2el:inf", "tpot:-1"])
def test_an_objective_nobody_can_keep_is_refused(text: str) -> None:
    with pytest.raises(PlanRefused, match="--goodput"):
        Objectives.parse(text)


class Peer:
    """A small server of another make: it counts who is under way, and fails every fourth request to `poor`."""

    def __init__(self) -> None:
        self.under_way = self.peak = 0
        self.asked: list[dict[str, Any]] = []

    def app(self) -> Starlette:
        routes = [Route("/v1/models", self.models), Route("/v1/completions", self.complete, methods=["POST"])]
        return Starlette(routes=routes)

    async def models(self, http: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "rich"}, {"id": "poor"}]})

    async def complete(self, http: Request) -> Response:
        body = await http.json()
        self.asked.append(body)
        if body["model"] == "poor" and body["max_tokens"] > 2 and len(self.asked) % 4 == 0:
            return JSONResponse({"error": {"message": "come back later"}}, 503)
        return StreamingResponse(self.stream(body["max_tokens"]), media_type="text/event-stream")

    async def stream(self, tokens: int) -> AsyncIterator[str]:
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)
        for place in range(tokens):
            await asyncio.sleep(0)
            yield f"data: {piece('x', 'length' if place == tokens - 1 else None)}\n\n"
        yield "data: [DONE]\n\n"
        self.under_way -= 1


@contextmanager
def listening(peer: Peer) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(peer.app(), port=0, log_level="error", lifespan="off"))
    socket = server.config.bind_socket()
    thread = Thread(target=server.run, args=([socket],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        socket.close()


@pytest.mark.parametrize("rate", [None, 2000.0], ids=["closed", "open"])
def test_a_server_of_another_make_is_driven_and_its_failures_counted(rate: float | None) -> None:
    peer, seen = Peer(), []
    workload = Workload(("rich", "poor"), requests=40, tokens=6, concurrency=3, rate=rate)
    with listening(peer) as url:
        session = asyncio.run(drive(url, workload, advance=seen.append))
    assert len(peer.asked) == 40 + 2 * WARM_UP
    assert sorted(each.sent for each in session.exchanges) == sorted(each.sent for each in seen)
    document = summarise(session, Objectives.parse(""))
    refused = [each for each in session.exchanges if each.error]
    assert refused
    assert {each.model for each in refused} == {"poor"}
    assert document["errors"] == {"503: come back later": len(refused)}
    assert document["completed"] == 40 - len(refused)
    assert document["total_output_tokens"] == 6 * document["completed"]
    if rate is None:
        assert session.peak <= 3
        assert peer.peak <= 3


def test_a_server_that_is_not_there_and_a_model_it_has_not_are_refused() -> None:
    with listening(Peer()) as url, pytest.raises(PlanRefused, match="lists rich, poor"):
        asyncio.run(drive(url, Workload(("nobody",))))
    with pytest.raises(PlanRefused, match="no OpenAI-compatible server"):
        asyncio.run(drive(url, Workload(("rich",))))
