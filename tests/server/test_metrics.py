"""What Prometheus reads: named by its rules, explained, and equal to what was served."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from prometheus_client import Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_adapters.mix import Mix, Term
from lorikeet_server.engine.request import Finished, FinishReason, Request, Sampling, Timing, Token
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.metrics import Metrics, ladders
from tests.server.world import BASE, Server, client_of, post

ABBREVIATED = re.compile(r"_(s|ms|us|ns|sec|b|kb|mb|gb|m|h|d|milliseconds|minutes|bits|megabytes)(_|$)")
TYPE_WORDS = re.compile(r"_(counter|gauge|histogram|summary)(_|$)")


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(found: dict[str, Metric], family: str, sample: str = "", **labels: str) -> float:
    (one,) = (
        each.value
        for each in found[family].samples
        if each.name == (sample or family) and each.labels.items() >= labels.items()
    )
    return one


def test_counts_are_what_was_served(server: Server) -> None:
    with client_of(server.app) as client:
        whole = {"prompt": "Hello", "max_tokens": 5, "ignore_eos": True}
        post(client, "/v1/completions", {**whole, "model": BASE})
        post(client, "/v1/completions", {**whole, "model": "formal", "stream": True})
        post(client, "/v1/completions", {**whole, "model": "formal+friendly", "prompt": ["Hello", "World"]})
        post(client, "/generate", {"inputs": "Hello", "parameters": {"max_new_tokens": 1}})
        post(client, "/v1/completions", {**whole, "model": "nobody"})
        found = families(client.get("/metrics").text)
    ended = "lorikeet_requests"
    assert sum(each.value for each in found[ended].samples if each.name == "lorikeet_requests_total") == 5
    assert value(found, ended, "lorikeet_requests_total", reason="length") == 5
    assert value(found, "lorikeet_prompt_tokens", "lorikeet_prompt_tokens_total") == 25
    assert value(found, "lorikeet_generated_tokens", "lorikeet_generated_tokens_total") == 21
    route = {"route": "/v1/completions"}
    http = "lorikeet_http_requests"
    assert value(found, http, "lorikeet_http_requests_total", code="200", **route) == 3
    assert value(found, http, "lorikeet_http_requests_total", code="404", **route) == 1
    for name in ("queue_seconds", "time_to_first_token_seconds", "request_seconds", "mix_size"):
        assert value(found, f"lorikeet_{name}", f"lorikeet_{name}_count") == 5
    assert value(found, "lorikeet_mix_size", "lorikeet_mix_size_sum") == 5
    assert value(found, "lorikeet_mix_size", "lorikeet_mix_size_bucket", le="0.0") == 2
    assert value(found, "lorikeet_requests_running") == 0
    assert value(found, "lorikeet_slots") == 8
    assert value(found, "lorikeet_rank_rows_used") == 7
    assert value(found, "lorikeet_adapters_near", state="device") == 2


@pytest.fixture
def used(client: TestClient) -> TestClient:
    """The shared server, after an adapter has been used at least once."""
    body = {"model": "formal", "prompt": "Hello", "max_tokens": 1}
    assert post(client, "/v1/completions", body).status_code == 200
    return client


@pytest.mark.safety("metrics 1")
def test_names_follow_the_rules_of_prometheus(used: TestClient) -> None:
    text = used.get("/metrics").text
    found = families(text)
    assert len(found) > 15
    for name, family in found.items():
        assert re.fullmatch(r"lorikeet_[a-z_]+", name), name
        assert family.documentation.endswith("."), name
        assert not ABBREVIATED.search(name), name
        assert not TYPE_WORDS.search(name), name
        assert (family.type == "counter") is any(each.name.endswith("_total") for each in family.samples), (
            name
        )
        assert not {"le", "quantile"} & {key for each in family.samples for key in each.labels} or (
            family.type == "histogram"
        )
    assert text.count("# HELP") == text.count("# TYPE") == len(found)
    assert "_created" not in text


@pytest.mark.safety("metrics 3")
def test_no_label_comes_from_a_client_or_grows_with_the_adapters(used: TestClient) -> None:
    found = families(used.get("/metrics").text)
    histograms = [family for family in found.values() if family.type == "histogram"]
    assert len(histograms) > 7
    assert not any("adapter" in each.labels for family in histograms for each in family.samples)
    labels = {name: {key for each in family.samples for key in each.labels} for name, family in found.items()}
    assert {key for keys in labels.values() for key in keys} == {
        "route",
        "code",
        "reason",
        "le",
        "version",
        "quantization",
        "state",
        "result",
        "adapter",
        "kind",
    }


@pytest.mark.safety("metrics 1")
def test_the_text_is_what_promtool_would_have(used: TestClient) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    text = used.get("/metrics").text
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.safety("metrics 4")
def test_a_name_cannot_be_registered_twice() -> None:
    metrics = Metrics(EngineStats, "nf4")
    names = [family.name for family in metrics.registry.collect()]
    assert len(set(names)) == len(names)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Counter("lorikeet_requests", "Again.", registry=metrics.registry)


def test_the_time_between_tokens_is_each_requests_own() -> None:
    moments = iter([1.0, 1.5, 2.0, 2.75, 9.0])
    metrics = Metrics(EngineStats, "nf4", clock=lambda: next(moments))
    first, second = (Request(name, (1,), Sampling(max_tokens=3)) for name in "ab")
    for request in (first, second, first, second):  # gaps of 1.0 and 1.25
        metrics.observe(request, Token(request.id, 0, 5, -1.0, "x"))
    metrics.observe(first, Finished("a", FinishReason.LENGTH, 2, timing=Timing(0.0, 0.1, 0.5)))
    metrics.observe(first, Token("a", 0, 5, -1.0, "x"))  # one of that name again: no gap to the old one
    read = metrics.registry.get_sample_value
    assert read("lorikeet_inter_token_seconds_count") == 2
    assert read("lorikeet_inter_token_seconds_sum") == 2.25


@pytest.mark.safety("metrics 2")
def test_the_ladders_hold_vllms() -> None:
    """Its bounds, so that a query over both kinds of server can add buckets up."""
    first = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560)  # fmt: skip
    between = (.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)  # fmt: skip
    whole = (.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)  # fmt: skip
    for ours, theirs in (
        (ladders.FIRST_TOKEN, first),
        (ladders.INTER_TOKEN, between),
        (ladders.WHOLE, whole),
    ):
        assert set(theirs) <= set(ours)
        assert list(ours) == sorted(ours)


def test_every_way_to_end_is_there_before_the_first_ends() -> None:
    read = Metrics(EngineStats, "nf4").registry.get_sample_value
    assert [read("lorikeet_requests_total", {"reason": each.value}) for each in FinishReason] == [0] * 4


@pytest.mark.parametrize("reason", list(FinishReason))
def test_every_way_to_end_is_counted_under_its_name(reason: FinishReason) -> None:
    metrics = Metrics(EngineStats, "nf4")
    request = Request("r", (1, 2, 3), Sampling(max_tokens=2), Mix((Term("a", 1.0), Term("b", -1.0))))
    metrics.observe(request, Token("r", 0, 5, -1.0, "x"))
    metrics.observe(request, Finished("r", reason, 1, timing=Timing(None, None, 0.5)))
    read = metrics.registry.get_sample_value
    assert read("lorikeet_requests_total", {"reason": reason.value}) == 1
    assert read("lorikeet_prompt_tokens_total") == 3
    assert read("lorikeet_generated_tokens_total") == 1
    assert read("lorikeet_mix_size_sum") == 2
    assert read("lorikeet_request_seconds_sum") == 0.5
    assert read("lorikeet_queue_seconds_count") == 0, "it was never admitted"
    assert read("lorikeet_time_to_first_token_seconds_count") == 0, "it never had a token"


def test_the_gauges_are_the_engines_last_word() -> None:
    stats = EngineStats()
    metrics = Metrics(lambda: stats, "nf4")
    read = metrics.registry.get_sample_value
    assert read("lorikeet_requests_waiting", {"reason": "slot"}) == 0
    stats = EngineStats(
        running=1,
        waiting=2,
        waiting_adapter=3,
        slots=4,
        rows_used=5,
        rows=6,
        cache_bytes=7,
        adapter_bytes=8,
        adapters={"a": AdapterState.DEVICE, "b": AdapterState.DEVICE, "c": AdapterState.LOADING},
    )
    assert read("lorikeet_requests_running") == 1
    assert read("lorikeet_requests_waiting", {"reason": "slot"}) == 2
    assert read("lorikeet_requests_waiting", {"reason": "adapter"}) == 3
    assert read("lorikeet_slots") == 4
    assert read("lorikeet_rank_rows_used") == 5
    assert read("lorikeet_rank_rows") == 6
    assert read("lorikeet_kv_cache_bytes") == 7
    assert read("lorikeet_adapter_bytes") == 8
    assert read("lorikeet_adapters_near", {"state": "device"}) == 2
    assert read("lorikeet_adapters_near", {"state": "loading"}) == 1


def test_build_info_says_what_runs() -> None:
    samples = Metrics(EngineStats, "nf4").registry.collect()
    (info,) = (each for family in samples for each in family.samples if each.name == "lorikeet_build_info")
    assert info.value == 1
    assert info.labels["quantization"] == "nf4"


VISIBLE = {
    "requests by route and code": "lorikeet_http_requests",
    "endings": "lorikeet_requests",
    "running": "lorikeet_requests_running",
    "waiting by reason": "lorikeet_requests_waiting",
    "queue wait": "lorikeet_queue_seconds",
    "time to the first token": "lorikeet_time_to_first_token_seconds",
    "between tokens": "lorikeet_inter_token_seconds",
    "end to end": "lorikeet_request_seconds",
    "prompt tokens": "lorikeet_prompt_tokens",
    "generated tokens": "lorikeet_generated_tokens",
    "prefix hits": "lorikeet_prefix_hit_tokens",
    "slots": "lorikeet_slots",
    "rows used": "lorikeet_rank_rows_used",
    "rows": "lorikeet_rank_rows",
    "adapters by tier": "lorikeet_adapters_near",
    "loads by result": "lorikeet_adapter_load_failures",
    "load time": "lorikeet_adapter_load_seconds",
    "evictions": "lorikeet_adapter_evictions",
    "mixes by size": "lorikeet_mix_size",
    "disconnects": "lorikeet_client_disconnects",
    "rejections by reason": "lorikeet_rejections",
    "build info": "lorikeet_build_info",
}


@pytest.mark.safety("metrics 5")
@pytest.mark.parametrize("name", VISIBLE.values(), ids=VISIBLE)
def test_what_an_operator_must_see_is_there(name: str) -> None:
    registry = Metrics(EngineStats, "nf4").registry
    assert name in {each.name for each in registry.collect()}
