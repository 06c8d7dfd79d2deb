"""The same facts under vLLM's names, for gateways and dashboards that know those.

On a path of its own: the colon in these names breaks Prometheus' rules, and nothing should be scraped twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.metrics.adapters import Names

# Ours by family: vLLM's name, and what it calls the label `reason`.
RENAMED: dict[str, tuple[str, str]] = {
    "lorikeet_requests_waiting": ("vllm:num_requests_waiting_by_reason", "reason"),
    "lorikeet_requests": ("vllm:request_success", "finished_reason"),
    "lorikeet_prompt_tokens": ("vllm:prompt_tokens", ""),
    "lorikeet_generated_tokens": ("vllm:generation_tokens", ""),
    "lorikeet_prefix_prompt_tokens": ("vllm:prefix_cache_queries", ""),
    "lorikeet_prefix_hit_tokens": ("vllm:prefix_cache_hits", ""),
    "lorikeet_preemptions": ("vllm:num_preemptions", ""),
    "lorikeet_time_to_first_token_seconds": ("vllm:time_to_first_token_seconds", ""),
    "lorikeet_inter_token_seconds": ("vllm:inter_token_latency_seconds", ""),
    "lorikeet_request_seconds": ("vllm:e2e_request_latency_seconds", ""),
    "lorikeet_queue_seconds": ("vllm:request_queue_time_seconds", ""),
    "lorikeet_request_prompt_tokens": ("vllm:request_prompt_tokens", ""),
    "lorikeet_request_generated_tokens": ("vllm:request_generation_tokens", ""),
}


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the facts come from. `in_use` are the generations that open requests name."""

    model: str
    registry: CollectorRegistry
    stats: Callable[[], EngineStats]
    names: Names
    in_use: frozenset[str]
    clock: Callable[[], float] = time.time


class VllmFacts(Collector):
    """`max_lora` is what the rank rows hold of rank-1 adapters at most: a bound that is never reached first."""

    def __init__(self, sources: Sources) -> None:
        self._from = sources
        self._labels = {"model_name": sources.model, "engine": "0"}

    def collect(self) -> Iterator[Metric]:
        now = self._from.stats()
        yield self._loras(now)
        yield self._gauge("vllm:num_requests_running", "Requests that hold a slot.", now.running)
        waiting = now.waiting + now.waiting_adapter
        yield self._gauge("vllm:num_requests_waiting", "Requests not yet admitted.", waiting)
        share = min(now.cache_bytes / now.cache_limit, 1.0) if now.cache_limit else 0.0
        text = "Share of the bytes for keys and values that are allocated, from 0 to 1."
        yield self._gauge("vllm:kv_cache_usage_perc", text, share)
        text = "Always 1; the labels say how large the cache is, in blocks of one token."
        blocks = {"block_size": "1", "num_gpu_blocks": str(now.cache_cells)}
        yield self._gauge("vllm:cache_config_info", text, 1, **blocks)
        yield from (self._renamed(each) for each in self._from.registry.collect() if each.name in RENAMED)

    def _gauge(self, name: str, text: str, value: float, **more: str) -> Metric:
        family = GaugeMetricFamily(name, text)
        family.add_sample(name, self._labels | more, value)
        return family

    def _loras(self, now: EngineStats) -> Metric:
        """An adapter that open requests name runs when it is on the device and waits until it is."""
        running: set[str] = set()
        waiting: set[str] = set()
        for generation in self._from.in_use:
            name = self._from.names.name_of(generation)
            if name is not None:
                on_device = now.adapters.get(generation) is AdapterState.DEVICE
                (running if on_device else waiting).add(name)
        family = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "The time of this scrape in seconds since the epoch; the labels name the adapters in use.",
            labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
        )
        named = [",".join(sorted(names)) for names in (running, waiting - running)]
        family.add_metric([str(now.rows), *named], self._from.clock())
        return family

    def _renamed(self, ours: Metric) -> Metric:
        name, reason = RENAMED[ours.name]
        made = Metric(name, ours.documentation, ours.type)
        for sample in ours.samples:
            labels = {(reason if key == "reason" else key): value for key, value in sample.labels.items()}
            made.add_sample(name + sample.name.removeprefix(ours.name), self._labels | labels, sample.value)
        return made


def vllm_registry(sources: Sources) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(VllmFacts(sources))
    return registry
