"""The client counts what a server sends, and calls nothing whole that is not."""

from __future__ import annotations

import asyncio
import io
import json
import statistics
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from threading import Thread
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from typer.testing import CliRunner

from lorikeet_bench.cli import bench
from lorikeet_bench.exchange import Exchange, Recording
from lorikeet_bench.machine import describe_machine
from lorikeet_bench.markdown import render
from lorikeet_bench.percentile import percentile
from lorikeet_bench.plan import PlanRefused
from lorikeet_bench.serving import WARM_UP, Session, drive
from lorikeet_bench.serving_report import Objectives, make_document, make_table, summarise
from lorikeet_bench.workload import Dialect, Workload


def piece(text: str, finish: str | None = None, **more: object) -> str:
    return json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": finish}], **more})


def read_stream(model: str, sent: float, ended: float, lines: Sequence[tuple[float, str]]) -> Exchange:
    return Recording(model, sent, sent, ended, lines).read()


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
        ([piece("a", "stop"), json.dumps({"error": "overloaded", "error_type": "overloaded"})], "overloaded"),
        ([piece("a", "stop"), '{"choices": ['], "cannot be read"),
        ([piece("a", "stop"), "null"], "cannot be read"),
        ([piece("a", "stop"), '{"choices": null}'], "cannot be read"),
        ([piece("a", "stop"), '{"choices": [null]}'], "cannot be read"),
        ([piece("a", "stop"), '{"choices": [], "usage": 7}'], "cannot be read"),
        ([piece("a", "stop"), "[" * 100_000], "cannot be read"),
    ],
)
def test_a_broken_stream_is_an_error(lines: Sequence[str], word: str) -> None:
    assert word in read_stream("m", 0.0, 1.0, stamped(*lines)).error


@given(
    st.text()
    | st.recursive(
        st.none() | st.booleans() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(["choices", "usage", "error", "text", "finish_reason", "completion_tokens"]),
                x,
            )
        ),
    ).map(json.dumps)
)
def test_whatever_a_server_says_costs_no_more_than_its_own_answer(line: str) -> None:
    done = read_stream("m", 0.0, 1.0, [(0.5, piece("a", "stop")), (0.7, line)])
    assert isinstance(done.tokens, int)
    summarise(
        Session((done, read_stream("m", 0.0, 1.0, [(0.5, piece("a", "stop"))])), 1.0, 1), Objectives({})
    )


def test_an_answer_in_one_piece_has_no_time_between_tokens() -> None:
    """Sixty-four tokens in one piece are not sixty-four tokens in no time."""
    whole = read_stream("m", 0.0, 5.0, [(5.0, piece("a", "length")), (5.0, USAGE)])
    assert (whole.tokens, whole.tpot, whole.gaps) == (5, None, ())
    document = summarise(Session((whole,), 5.0, 1), Objectives.parse("tpot:1000"))
    assert [document[f"mean_{name}_ms"] for name in ("ttft", "tpot", "itl")] == [5000, None, None]
    assert document["request_goodput"] == 0.0
    workload = Workload(("m",), rate=1.0)
    full = make_document("http://x", workload, document, describe_machine(), datetime.now(UTC))
    console = Console(file=io.StringIO(), width=80)
    console.print(make_table(full))
    assert "TPOT" in render({"one": full}, {})


def test_tokens_without_text_at_the_end_are_in_the_time_they_took() -> None:
    """What is generated past an end of turn has ids and no text; the last line says when it was done."""
    lines = [(1.0, piece("a")), (2.0, piece("b")), (5.0, piece("", "length")), (5.0, USAGE)]
    done = read_stream("m", 0.0, 5.0, lines)
    assert (done.tpot, done.e2e, done.gaps) == (1.0, 5.0, (1.0,))


def test_what_the_server_had_kept_is_counted_where_it_says() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    told = read_stream("m", 0.0, 1.0, stamped(piece("a", "stop", usage=usage)))
    silent = read_stream("m", 0.0, 1.0, stamped(piece("a", "stop"), USAGE))
    assert (told.cached_tokens, silent.cached_tokens) == (4, None)
    assert summarise(Session((told, told), 1.0, 1), Objectives({}))["cached_input_tokens"] == 8
    assert summarise(Session((silent,), 1.0, 1), Objectives({}))["cached_input_tokens"] is None


def test_a_late_client_shortens_no_times() -> None:
    late = Recording("m", 1.0, 3.0, 5.0, [(4.0, piece("a", "stop"))]).read()
    assert (late.ttft, late.e2e, late.send_lag) == (3.0, 3.0, 2.0)
    document = summarise(Session((late,), 4.0, 1), Objectives({}))
    assert (document["max_send_lag_ms"], document["p99_send_lag_ms"]) == (2000, 2000)


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
        routes = [
            Route("/v1/models", self.models),
            Route("/info", self.info),
            Route("/v1/completions", self.complete, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    async def info(self, http: Request) -> Response:
        return JSONResponse({"model_id": "peer", "version": "3", "secret": "no fact of ours"})

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
    socket.listen()  # at once: the thread may come to it later than the first client
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
    warm_up = {each["prompt"] for each in peer.asked if each["max_tokens"] == 2}
    assert len(warm_up) == 2 * WARM_UP
    assert not warm_up & {each["prompt"] for each in peer.asked if each["max_tokens"] > 2}
    assert session.server == {"model_id": "peer", "version": "3"}
    assert all((each.send_lag > 0) is (rate is not None) for each in session.exchanges)
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


class Narrow(Peer):
    """It lists no model and refuses what OpenAI has not, as transformers' own server does of a local folder."""

    async def models(self, http: Request) -> Response:
        return JSONResponse({"object": "list", "data": []})

    async def complete(self, http: Request) -> Response:
        known = {"model", "prompt", "max_tokens", "temperature", "stream", "stream_options"}
        if unknown := (await http.json()).keys() - known:
            return JSONResponse({"detail": f"Unexpected fields in the request: {unknown}"}, 422)
        return await super().complete(http)


def test_a_server_that_knows_openais_fields_alone_is_driven_plainly() -> None:
    workload = Workload(("rich",), requests=8, tokens=4, concurrency=2)
    with listening(Narrow()) as url:
        with pytest.raises(PlanRefused, match="ignore_eos"):
            asyncio.run(drive(url, workload))
        session = asyncio.run(drive(url, replace(workload, dialect=Dialect.PLAIN)))
    assert not [each.error for each in session.exchanges if each.error]


class Numbered(Peer):
    """It knows adapters by their number and lists its base alone, as llama.cpp's server does."""

    async def models(self, http: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "rich"}]})


def test_a_server_that_numbers_its_adapters_is_asked_by_number() -> None:
    peer = Numbered()
    workload = Workload(("rich", "3"), requests=4, tokens=4, concurrency=2, dialect=Dialect.LLAMA_CPP)
    with listening(peer) as url:
        asyncio.run(drive(url, workload))
        with pytest.raises(PlanRefused, match="does not list the model 3"):
            asyncio.run(drive(url, replace(workload, dialect=Dialect.FULL)))
    asked = {(each["model"], json.dumps(each.get("lora"))) for each in peer.asked}
    assert asked == {("rich", "null"), ("3", '[{"id": 3, "scale": 1.0}]')}


def test_two_servers_take_turns_and_are_compared() -> None:
    slow, quick = Peer(), Peer()
    with listening(slow) as first, listening(quick) as second:
        options = ["--url", first, "--models", "rich", "--against", second, "--against-models", "rich"]
        more = ["--requests", "6", "--tokens", "5", "--concurrency", "2", "--rounds", "5", "--wanted", "1000"]
        done = CliRunner().invoke(bench, ["versus", *options, *more])
        assert done.exit_code == 0, done.output
        document = json.loads(done.stdout.splitlines()[-1])
        with pytest.raises(PlanRefused, match="at least 5"):
            CliRunner().invoke(bench, ["versus", *options, "--rounds", "2"], catch_exceptions=False)
    ours, theirs = document["results"]
    assert (ours["url"], theirs["url"], ours["completed"], theirs["failed"]) == (first, second, 30, 0)
    samples = [each["samples_output_throughput"] for each in (ours, theirs)]
    assert [len(each) for each in samples] == [5, 5]
    ratio = document["ratios"]["output_throughput"]
    assert ratio["value"] == pytest.approx(statistics.median(samples[0]) / statistics.median(samples[1]))
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    assert document["targets"][0]["standing"] == "MISSED"
    assert "first / second" in done.stdout
    prompts = [each["prompt"] for each in slow.asked if each["max_tokens"] == 5]
    assert len(prompts) == len(set(prompts)) == 6 * 6, "no round meets the prompts of another"


def test_a_server_that_is_not_there_and_a_model_it_has_not_are_refused() -> None:
    with listening(Peer()) as url, pytest.raises(PlanRefused, match="lists rich, poor"):
        asyncio.run(drive(url, Workload(("nobody",))))
    with pytest.raises(PlanRefused, match="no OpenAI-compatible server"):
        asyncio.run(drive(url, Workload(("rich",))))
