"""Facts of the engine and of HTTP as Prometheus metrics, on a registry of our own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lorikeet_server.engine.request import Event, Finished, FinishReason, Request, Token
from lorikeet_server.engine.stats import EngineStats

# vLLM's ladders with finer low ends, so that a small base on a CPU shows up too.
FIRST_TOKEN_BUCKETS = (.001, .002, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)  # fmt: skip
TOTAL_BUCKETS = (.01, .025, .05, .1, .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240)  # fmt: skip
MIX_BUCKETS = (0, 1, 2, 3, 4, 8, 16)


disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, which no dashboard reads


class Metrics:
    """Counts events; `stats` is read when Prometheus scrapes."""

    def __init__(self, stats: Callable[[], EngineStats], quantization: str) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.http = Counter(
            "lorikeet_http_requests",
            "HTTP responses by route and status code.",
            ["route", "code"],
            registry=own,
        )
        self._ended = Counter(
            "lorikeet_requests", "Generation requests that ended, by reason.", ["reason"], registry=own
        )
        for reason in FinishReason:
            self._ended.labels(reason)  # a zero is there before the first
        self._prompt = Counter(
            "lorikeet_prompt_tokens", "Prompt tokens of requests that ended.", registry=own
        )
        self._generated = Counter("lorikeet_generated_tokens", "Tokens generated.", registry=own)
        self._queue = Histogram(
            "lorikeet_queue_seconds",
            "Submission to first prefill.",
            buckets=FIRST_TOKEN_BUCKETS,
            registry=own,
        )
        self._first = Histogram(
            "lorikeet_time_to_first_token_seconds",
            "Submission to first token.",
            buckets=FIRST_TOKEN_BUCKETS,
            registry=own,
        )
        self._total = Histogram(
            "lorikeet_request_seconds", "Submission to last token.", buckets=TOTAL_BUCKETS, registry=own
        )
        self._mix = Histogram(
            "lorikeet_mix_size", "Adapters in a request's mix.", buckets=MIX_BUCKETS, registry=own
        )
        build = Gauge(
            "lorikeet_build_info",
            "Always 1; the labels say what runs.",
            ["version", "quantization"],
            registry=own,
        )
        build.labels(version("lorikeet"), quantization).set(1)
        self.registry.register(_EngineCollector(stats))

    def observe(self, request: Request, event: Event) -> None:
        if isinstance(event, Token):
            self._generated.inc()
        elif isinstance(event, Finished):
            self._finished(request, event)

    def _finished(self, request: Request, event: Finished) -> None:
        self._ended.labels(event.reason).inc()
        self._prompt.inc(len(request.prompt))
        self._mix.observe(len(request.mix.terms))
        self._total.observe(event.timing.total)
        if event.timing.queued is not None:
            self._queue.observe(event.timing.queued)
        if event.timing.first_token is not None:
            self._first.observe(event.timing.first_token)


class _EngineCollector(Collector):
    """Reads the engine's last stats at scrape time; nothing is copied between scrapes."""

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
        plain = {
            "lorikeet_requests_running": ("Requests that hold a slot.", now.running),
            "lorikeet_slots": ("Slots there are.", now.slots),
            "lorikeet_rank_rows_used": ("Rank rows that adapters hold.", now.rows_used),
            "lorikeet_rank_rows": ("Rank rows there are.", now.rows),
            "lorikeet_kv_cache_bytes": ("Bytes of the key-value slots.", now.cache_bytes),
            "lorikeet_prefix_cache_bytes": ("Bytes of kept prompts.", now.prefix_bytes),
            "lorikeet_step_age_seconds": ("How long the engine's present step has taken.", now.step_age),
            "lorikeet_adapter_bytes": ("Bytes of the rank rows.", now.adapter_bytes),
        }
        for name, (text, value) in plain.items():
            yield GaugeMetricFamily(name, text, value=value)
        counted = {
            "lorikeet_prefix_prompt_tokens": (
                "Prompt tokens of requests that were begun.",
                now.prompt_tokens,
            ),
            "lorikeet_prefix_hit_tokens": (
                "Those of them that were kept from before.",
                now.prefix_hit_tokens,
            ),
            "lorikeet_preemptions": (
                "Requests that gave their slot back and computed their tokens again.",
                now.preemptions,
            ),
            "lorikeet_adapter_loads": ("Adapters read from the disk.", now.loads),
            "lorikeet_adapter_load_failures": ("Reads of adapters that failed.", now.failed_loads),
            "lorikeet_adapter_evictions": ("Adapters that made room for others.", now.evictions),
        }
        for name, (text, value) in counted.items():
            yield CounterMetricFamily(name, text, value=value)
        adapters = GaugeMetricFamily(
            "lorikeet_adapters_near", "Adapters off the disk, by state.", labels=["state"]
        )
        states = list(now.adapters.values())
        for state in sorted(set(states)):
            adapters.add_metric([state], states.count(state))
        yield adapters
