"""The same facts under vLLM's names, for gateways and dashboards that know those.

On a path of its own: the colon in these names breaks Prometheus' rules, and nothing should be scraped twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_server.engine.prefix_index import BLOCK
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
        # Pickers of endpoints hash prompts by this size: it is that of the prefixes that are kept.
        text = f"Always 1; the labels say how large the cache is, in blocks of {BLOCK} tokens."
        blocks = {"block_size": str(BLOCK), "num_gpu_blocks": str(now.cache_cells // BLOCK)}
        yield self._gauge("vllm:cache_config_info", text, 1, **blocks)
        yield from (self._renamed(each) for each in self._from.registry.collect() if each.name in RENAMED)

    def _gauge(self, name: str, text: str, value: float, **more: str) -> Metric:
        family = GaugeMetricFamily(name, text)
        family.add_sample(name, self._labels | more, value)
        return family

    def _loras(self, now: EngineStats) -> Metric:
        """Running is what is on the device, whether asked for or not; waiting is asked for and not yet there.

        The gateways' model server protocol means what could serve a request now. vLLM names only what requests
        run on, and an adapter that nobody uses in this moment would draw no request to where it is.
        """
        on_device = {each for each, state in now.adapters.items() if state is AdapterState.DEVICE}
        running = self._named(on_device)
        waiting = self._named(self._from.in_use - on_device) - running
        family = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "The time of this scrape in seconds since the epoch; the labels name adapters on the device and awaited.",
            labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
        )
        named = [",".join(sorted(names)) for names in (running, waiting)]
        family.add_metric([str(now.rows), *named], self._from.clock())
        return family

    def _named(self, generations: Iterable[str]) -> set[str]:
        """Merges made for a request and what is private to tenants have no name here."""
        found = (self._from.names.name_of(each) for each in generations)
        return {name for name in found if name is not None}

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
