"""The engine's last word, read when Prometheus scrapes; nothing is copied between scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_server.engine.stats import EngineStats

GAUGES: dict[str, tuple[str, Callable[[EngineStats], float]]] = {
    "lorikeet_requests_running": ("Requests that hold a slot.", lambda now: now.running),
    "lorikeet_slots": ("Slots there are.", lambda now: now.slots),
    "lorikeet_rank_rows_used": ("Rank rows that adapters hold.", lambda now: now.rows_used),
    "lorikeet_rank_rows": ("Rank rows there are.", lambda now: now.rows),
    "lorikeet_kv_cache_bytes": ("Bytes of the key-value slots.", lambda now: now.cache_bytes),
    "lorikeet_kv_cache_limit_bytes": (
        "Most bytes the key-value slots may take.",
        lambda now: now.cache_limit,
    ),
    "lorikeet_prefix_cache_bytes": ("Bytes of kept prompts.", lambda now: now.prefix_bytes),
    "lorikeet_step_age_seconds": ("How long the engine's present step has taken.", lambda now: now.step_age),
    "lorikeet_adapter_bytes": ("Bytes of the rank rows.", lambda now: now.adapter_bytes),
    "lorikeet_adapter_host_bytes": (
        "Bytes of adapters kept in memory for their return.",
        lambda now: now.host_adapter_bytes,
    ),
}
COUNTERS: dict[str, tuple[str, Callable[[EngineStats], float]]] = {
    "lorikeet_steps": ("Steps of the engine that computed something.", lambda now: now.steps),
    "lorikeet_prefix_prompt_tokens": (
        "Prompt tokens of requests that were begun.",
        lambda now: now.prompt_tokens,
    ),
    "lorikeet_prefix_hit_tokens": (
        "Those of them that were kept from before.",
        lambda now: now.prefix_hit_tokens,
    ),
    "lorikeet_preemptions": (
        "Requests that gave their slot back and computed their tokens again.",
        lambda now: now.preemptions,
    ),
    "lorikeet_adapter_loads": ("Adapters read from the disk.", lambda now: now.loads),
    "lorikeet_adapter_host_hits": (
        "Adapters asked for again that were still in memory.",
        lambda now: now.host_hits,
    ),
    "lorikeet_adapter_load_failures": ("Reads of adapters that failed.", lambda now: now.failed_loads),
    "lorikeet_adapter_evictions": ("Adapters that made room for others.", lambda now: now.evictions),
}


class EngineFacts(Collector):
    """`stats` is called at each scrape."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        now = self._stats()
        waiting = GaugeMetricFamily(
            "lorikeet_requests_waiting", "Requests not yet admitted.", labels=["reason"]
        )
        waiting.add_metric(["slot"], now.waiting)
        waiting.add_metric(["adapter"], now.waiting_adapter)
        yield waiting
        for name, (text, read) in GAUGES.items():
            yield GaugeMetricFamily(name, text, value=read(now))
        for name, (text, read) in COUNTERS.items():
            yield CounterMetricFamily(name, text, value=read(now))
        adapters = GaugeMetricFamily(
            "lorikeet_adapters_near", "Adapters off the disk, by state.", labels=["state"]
        )
        states = list(now.adapters.values())
        for state in sorted({AdapterState.LOADING, AdapterState.HOST, AdapterState.DEVICE, *states}):
            adapters.add_metric([state], states.count(state))
        yield adapters
