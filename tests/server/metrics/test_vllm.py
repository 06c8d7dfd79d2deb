"""GET /metrics/vllm as the gateways read it: their names, their labels, our facts."""

from __future__ import annotations

import time
from dataclasses import replace

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_server.engine.prefix_index import BLOCK
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.metrics import Metrics
from lorikeet_server.metrics.vllm import RENAMED, Sources, vllm_registry
from tests.server.metrics.test_adapters import Known
from tests.server.world import BASE, Server, client_of, post

# What gateways and vLLM's own dashboard look for.
WANTED = {
    "vllm:lora_requests_info",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_requests_waiting_by_reason",
    "vllm:kv_cache_usage_perc",
    "vllm:cache_config_info",
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds",
    "vllm:prompt_tokens",
    "vllm:generation_tokens",
    "vllm:request_success",
    "vllm:prefix_cache_queries",
    "vllm:prefix_cache_hits",
    "vllm:num_preemptions",
    "vllm:request_prompt_tokens",
    "vllm:request_generation_tokens",
}


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_a_server_has_every_name_with_the_models_name(server: Server) -> None:
    with client_of(server.app) as client:
        body = {"model": "formal", "prompt": "Hello", "max_tokens": 3, "ignore_eos": True}
        assert post(client, "/v1/completions", body).status_code == 200
        answer = client.get("/metrics/vllm")
        ours = families(client.get("/metrics").text)
    assert answer.headers["content-type"].startswith("text/plain")
    found = families(answer.text)
    assert found.keys() == WANTED
    assert not any(name.startswith("vllm") for name in ours)
    for name, family in found.items():
        for each in family.samples:
            labelled = each.labels.items() >= {"model_name": BASE, "engine": "0"}.items()
            assert labelled is (name != "vllm:lora_requests_info"), each
    (generated,) = found["vllm:generation_tokens"].samples
    assert (generated.name, generated.value) == ("vllm:generation_tokens_total", 3)
    ended = {each.labels["finished_reason"]: each.value for each in found["vllm:request_success"].samples}
    assert ended == {"stop": 0, "length": 1, "aborted": 0, "failed": 0}
    (info,) = found["vllm:lora_requests_info"].samples
    assert abs(info.value - time.time()) < 60
    assert info.labels == {
        "max_lora": "512",
        "running_lora_adapters": "formal",  # its request is over, its rows are still there
        "waiting_lora_adapters": "",
    }
    (usage,) = found["vllm:kv_cache_usage_perc"].samples
    assert 0 < usage.value <= 1


def test_every_family_that_is_renamed_exists() -> None:
    names = {family.name for family in Metrics(EngineStats, "nf4").registry.collect()}
    assert RENAMED.keys() <= names


def test_adapters_run_on_the_device_and_wait_until_they_are_there() -> None:
    stats = EngineStats(
        rows=64,
        adapters={"b": AdapterState.DEVICE, "a": AdapterState.DEVICE, "c": AdapterState.LOADING},
    )
    in_use = frozenset({"a", "b", "c", "d", "merge-1"})
    names = Known({"a", "b", "c", "d", "unused"})
    sources = Sources("m", CollectorRegistry(), lambda: stats, names, in_use, lambda: 1234.5)

    def info() -> tuple[dict[str, str], float]:
        text = generate_latest(vllm_registry(sources)).decode()
        (sample,) = families(text)["vllm:lora_requests_info"].samples
        return sample.labels, sample.value

    assert info() == (
        {"max_lora": "64", "running_lora_adapters": "a,b", "waiting_lora_adapters": "c,d"},
        1234.5,
    )
    sources = replace(sources, in_use=frozenset())
    assert info()[0] == {"max_lora": "64", "running_lora_adapters": "a,b", "waiting_lora_adapters": ""}


def test_the_size_of_the_cache_is_told_in_the_blocks_that_prompts_are_kept_in() -> None:
    stats = EngineStats(cache_cells=BLOCK * 100 + 3)
    sources = Sources("m", CollectorRegistry(), lambda: stats, Known(), frozenset())
    text = generate_latest(vllm_registry(sources)).decode()
    (sample,) = families(text)["vllm:cache_config_info"].samples
    assert (sample.labels["block_size"], sample.labels["num_gpu_blocks"]) == (str(BLOCK), "100")


def test_the_cache_is_never_more_than_full() -> None:
    for allocated, limit, share in ((50, 100, 0.5), (150, 100, 1.0), (0, 0, 0.0)):
        stats = EngineStats(cache_bytes=allocated, cache_limit=limit)
        sources = Sources("m", CollectorRegistry(), lambda now=stats: now, Known(), frozenset())
        read = vllm_registry(sources).get_sample_value
        assert read("vllm:kv_cache_usage_perc", {"model_name": "m", "engine": "0"}) == share
