"""What happened to requests, counted on the event loop; and the registry that holds every metric once."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from lorikeet_server.engine.request import Event, Finished, FinishReason, Request, Token
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.metrics import ladders
from lorikeet_server.metrics.adapters import AdapterCounts, Names, NoNames
from lorikeet_server.metrics.engine import EngineFacts
from lorikeet_server.metrics.jobs import JobFacts, Jobs, NoJobs
from lorikeet_server.metrics.loads import LoadTimes
from lorikeet_server.metrics.request_log import Log, LogFacts, NoLog

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, which no dashboard reads

# Why a request was answered with an error, by its status; what is not here is `failed` from 500 on, else `refused`.
REFUSED, FAILED = "refused", "failed"
REASONS = {
    401: "unauthorised",
    403: "unauthorised",
    404: "unknown",
    405: "unknown",
    408: "slow",
    409: "conflict",
    412: "conflict",
    413: "too_large",
    424: FAILED,  # TGI's, on its routes
    429: "overloaded",
    503: "overloaded",
    504: "late",
}


def reason_of(status: int) -> str:
    return REASONS.get(status, FAILED if status >= 500 else REFUSED)


class Metrics:
    """Counts events; `stats` is read when Prometheus scrapes. `names` says which adapter a generation is."""

    def __init__(
        self,
        stats: Callable[[], EngineStats],
        quantization: str,
        *,
        names: Names | None = None,
        loads: LoadTimes | None = None,
        jobs: Jobs | None = None,
        log: Log | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._spoken: dict[str, float] = {}  # when each request's last token came
        self._add_http()
        self._add_counters()
        self._add_histograms()
        build = Gauge(
            "lorikeet_build_info",
            "Always 1; the labels say what runs.",
            ["version", "quantization"],
            registry=self.registry,
        )
        build.labels(version("lorikeet"), quantization).set(1)
        self._adapters = AdapterCounts(names or NoNames())
        self.registry.register(self._adapters)
        self.registry.register((loads or LoadTimes()).histogram)
        self.registry.register(JobFacts(jobs or NoJobs()))
        self.registry.register(LogFacts(log or NoLog()))
        self.registry.register(EngineFacts(stats))

    def observe(self, request: Request, event: Event) -> None:
        if isinstance(event, Token):
            self._token(request)
        elif isinstance(event, Finished):
            self._finished(request, event)

    def reject(self, status: int) -> None:
        """A request was answered with this status of 400 or more."""
        self._rejections.labels(reason_of(status)).inc()

    def _add_http(self) -> None:
        own = self.registry
        self.http = Counter(
            "lorikeet_http_requests",
            "HTTP responses by route and status code.",
            ["route", "code"],
            registry=own,
        )
        self.disconnects = Counter(
            "lorikeet_client_disconnects",
            "Clients that left before their answer was complete.",
            registry=own,
        )
        self._rejections = Counter(
            "lorikeet_rejections",
            "Requests answered with an error, by reason.",
            ["reason"],
            registry=own,
        )
        for reason in {*REASONS.values(), REFUSED, FAILED}:
            self._rejections.labels(reason)  # a zero is there before the first

    def _add_counters(self) -> None:
        own = self.registry
        self._ended = Counter(
            "lorikeet_requests", "Generation requests that ended, by reason.", ["reason"], registry=own
        )
        for reason in FinishReason:
            self._ended.labels(reason)
        self._prompt = Counter(
            "lorikeet_prompt_tokens", "Prompt tokens of requests that ended.", registry=own
        )
        self._generated = Counter("lorikeet_generated_tokens", "Tokens generated.", registry=own)

    def _add_histograms(self) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"lorikeet_{name}", text, buckets=buckets, registry=self.registry)

        self._queue = histogram("queue_seconds", "Submission to first prefill.", ladders.WHOLE)
        self._first = histogram(
            "time_to_first_token_seconds", "Submission to first token.", ladders.FIRST_TOKEN
        )
        self._between = histogram(
            "inter_token_seconds",
            "From one token of a request to its next, as they leave the engine.",
            ladders.INTER_TOKEN,
        )
        self._total = histogram("request_seconds", "Submission to last token.", ladders.WHOLE)
        self._prompt_size = histogram("request_prompt_tokens", "Tokens of a prompt.", ladders.TOKENS)
        self._answer_size = histogram("request_generated_tokens", "Tokens of an answer.", ladders.TOKENS)
        self._mix = histogram("mix_size", "Adapters in a request's mix.", ladders.MIX)

    def _token(self, request: Request) -> None:
        self._generated.inc()
        now = self._clock()
        before = self._spoken.get(request.id)
        if before is not None:
            self._between.observe(now - before)
        self._spoken[request.id] = now

    def _finished(self, request: Request, event: Finished) -> None:
        self._spoken.pop(request.id, None)
        prompt, generated = len(request.prompt), event.completion_tokens
        self._ended.labels(event.reason).inc()
        self._prompt.inc(prompt)
        self._prompt_size.observe(prompt)
        self._answer_size.observe(generated)
        self._adapters.count(request.mix.adapters, prompt, generated)
        self._mix.observe(len(request.mix.terms))
        self._total.observe(event.timing.total)
        if event.timing.queued is not None:
            self._queue.observe(event.timing.queued)
        if event.timing.first_token is not None:
            self._first.observe(event.timing.first_token)
