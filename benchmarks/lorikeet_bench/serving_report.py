"""What a serving run says, in the flat keys of vLLM's benchmark: times in milliseconds, throughputs a second.

`ttft` time to the first text, `tpot` mean time between tokens after it, `itl` each gap between
pieces of text as the client saw them, `e2el` to the end of the answer; in an open loop all from the
moment the request was due, and `send_lag` is how much later than that it was sent. An answer whose
text came in one piece has no `tpot` and no `itl`: it counts in neither. Requests that failed count in
`failed` and in nothing else; goodput counts whole answers that kept every objective.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import fmean, median, pstdev
from typing import Any

from rich.table import Table

from lorikeet_bench.exchange import Exchange
from lorikeet_bench.machine import Machine
from lorikeet_bench.percentile import percentile
from lorikeet_bench.plan import PlanRefused
from lorikeet_bench.serving import Session
from lorikeet_bench.workload import Workload

PERCENTILES = (50, 90, 95, 99)
FIGURES = ("ttft", "tpot", "itl", "e2el")
SHOWN_ERRORS = 5


@dataclass(frozen=True, slots=True)
class Objectives:
    """Bounds in milliseconds by figure; an answer is good that keeps all of them."""

    bounds: Mapping[str, float]

    @classmethod
    def parse(cls, text: str) -> Objectives:
        """Read `ttft:200,tpot:50,e2el:5000`; an empty text sets none. Raises PlanRefused."""
        bounds: dict[str, float] = {}
        for part in filter(None, text.split(",")):
            figure, _, bound = part.partition(":")
            try:
                value = float(bound)
            except ValueError:
                value = 0.0
            if figure not in ("ttft", "tpot", "e2el") or not 0 < value < float("inf"):
                raise PlanRefused(f"--goodput has {part!r}; write ttft:200,tpot:50,e2el:5000 in milliseconds")
            bounds[figure] = value
        return cls(bounds)

    def kept_by(self, each: Exchange) -> bool:
        figures = {"ttft": each.ttft, "tpot": each.tpot, "e2el": each.e2e}
        return all(_within(figures[name], bound) for name, bound in self.bounds.items())


def _within(seconds: float | None, bound: float) -> bool:
    """What is not known is not kept."""
    return seconds is not None and seconds * 1e3 <= bound


def summarise(session: Session, objectives: Objectives) -> dict[str, Any]:
    """The figures of one session. Raises PlanRefused when not one answer is whole."""
    whole = [each for each in session.exchanges if not each.error]
    errors = Counter(each.error for each in session.exchanges if each.error)
    if not whole:
        raise PlanRefused(f"no request was answered: {errors.most_common(1)[0][0]}")
    tokens, prompt = sum(each.tokens for each in whole), sum(each.input_tokens for each in whole)
    figures: dict[str, list[float]] = {
        "ttft": [each.ttft for each in whole],
        "tpot": [tpot for each in whole if (tpot := each.tpot) is not None],
        "itl": [gap for each in whole for gap in each.gaps],
        "e2el": [each.e2e for each in whole],
    }
    document: dict[str, Any] = {
        "completed": len(whole),
        "failed": sum(errors.values()),
        "errors": dict(errors.most_common(SHOWN_ERRORS)),
        "duration": session.seconds,
        "total_input_tokens": prompt,
        "total_output_tokens": tokens,
        "tokens_counted_by": "server" if all(each.counted for each in whole) else "pieces",
        "request_throughput": len(whole) / session.seconds,
        "output_throughput": tokens / session.seconds,
        "total_token_throughput": (tokens + prompt) / session.seconds,
        "max_concurrent_requests": session.peak,
        "cached_input_tokens": _cached(whole),
        "server": dict(session.server),
        "completed_by_model": dict(Counter(each.model for each in whole)),
    }
    if objectives.bounds:
        good = sum(objectives.kept_by(each) for each in whole)
        document["request_goodput"] = good / session.seconds
        document["goodput_objectives_ms"] = dict(objectives.bounds)
    document |= _sending(session)
    for name in FIGURES:
        document |= _spread(name, figures[name])
    for name in ("ttft", "tpot", "e2el"):
        document[f"samples_{name}_ms"] = [round(each * 1e3, 3) for each in figures[name]]
    # Of every gap there are too many to keep; the mean of an answer's is its TPOT, this is its worst.
    document["samples_longest_gap_ms"] = [round(max(each.gaps) * 1e3, 3) for each in whole if each.gaps]
    return document


def make_document(
    url: str, workload: Workload, summary: Mapping[str, Any], machine: Machine, started: datetime
) -> dict[str, Any]:
    """The figures, what was sent, and where the client ran; JSON types only."""
    return {
        "benchmark": "serving",
        "url": url,
        "date": started.astimezone(UTC).isoformat(timespec="seconds"),
        "models": list(workload.models),
        "num_prompts": workload.requests,
        "request_rate": "inf" if workload.rate is None else workload.rate,
        "burstiness": workload.burstiness,
        "max_concurrency": workload.concurrency if workload.rate is None else None,
        "popularity": workload.popularity.value,
        "skew": workload.skew,
        "prompt_words": workload.prompt_words,
        "output_len": workload.tokens,
        "seed": workload.seed,
        "nonce": workload.nonce,
        "reuse_prompts": not workload.nonce,
        "dialect": workload.dialect.value,
        **summary,
        **{f"client_{key}": value for key, value in asdict(machine).items()},
    }


def make_table(document: Mapping[str, Any]) -> Table:
    """Fits eighty columns."""
    loop = (
        f"{document['max_concurrency']} at once"
        if document["request_rate"] == "inf"
        else f"{document['request_rate']:g} arriving a second"
    )
    failed = "".join(f"\nfailed, {count} times: {error}" for error, count in document["errors"].items())
    good = "" if "request_goodput" not in document else f", {document['request_goodput']:.2f} good"
    table = Table(
        title=f"{document['url']}: {document['num_prompts']} requests, {loop}",
        caption=(
            f"{document['completed']} whole, {document['failed']} failed; {document['request_throughput']:.2f} "
            f"requests/s{good}; {document['output_throughput']:.1f} tokens/s generated "
            f"(counted by {document['tokens_counted_by']}); {len(document['models'])} models, "
            f"{document['popularity']}; at most {document['max_concurrent_requests']} under way. "
            f"{_kept(document)}{_lag(document)}ITL is per piece of text.{failed}"
        ),
        caption_justify="left",
        caption_style="none",
    )
    table.add_column("ms")
    for heading in ("mean", *(f"p{percent}" for percent in PERCENTILES)):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in FIGURES:
        row = [document[f"mean_{name}_ms"], *(document[f"p{each}_{name}_ms"] for each in PERCENTILES)]
        table.add_row(name.upper(), *("" if value is None else f"{value:.1f}" for value in row))
    return table


def _cached(whole: Sequence[Exchange]) -> int | None:
    """Prompt tokens that the server had from before; None where it does not say."""
    told = [each.cached_tokens for each in whole if each.cached_tokens is not None]
    return sum(told) if told else None


def _sending(session: Session) -> dict[str, float | None]:
    lags = [each.send_lag * 1e3 for each in session.exchanges]
    sent = sorted(each.sent for each in session.exchanges)
    return {
        "p99_send_lag_ms": percentile(lags, 99),
        "max_send_lag_ms": max(lags),
        "achieved_request_rate": (len(sent) - 1) / (sent[-1] - sent[0]) if sent[-1] > sent[0] else None,
    }


def _kept(document: Mapping[str, Any]) -> str:
    cached = document["cached_input_tokens"]
    return "" if cached is None else f"{cached} of {document['total_input_tokens']} prompt tokens were kept. "


def _lag(document: Mapping[str, Any]) -> str:
    rate = document["achieved_request_rate"]
    if document["request_rate"] == "inf" or rate is None:
        return ""
    return (
        f"Sent {rate:.2f} a second, {document['p99_send_lag_ms']:.1f} ms late "
        f"(p99), {document['max_send_lag_ms']:.1f} at most; times count from when they were due. "
    )


def _spread(name: str, seconds: Sequence[float]) -> dict[str, float | None]:
    """None where nothing was measured."""
    values = [each * 1e3 for each in seconds]
    if not values:
        kinds = ("mean", "median", "std", *(f"p{each}" for each in PERCENTILES))
        return {f"{kind}_{name}_ms": None for kind in kinds}
    return {
        f"mean_{name}_ms": fmean(values),
        f"median_{name}_ms": median(values),
        f"std_{name}_ms": pstdev(values),
        **{f"p{each}_{name}_ms": percentile(values, each) for each in PERCENTILES},
    }
