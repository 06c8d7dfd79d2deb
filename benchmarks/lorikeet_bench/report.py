"""What a latency run says: one flat document for programs, one table for people.

Key names are those of vLLM's benchmark where the same thing is meant. Times are milliseconds,
throughputs tokens a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import fmean, median, stdev
from typing import Any

from rich.table import Table

from lorikeet_bench.adapter import origin_of
from lorikeet_bench.arms import Bench
from lorikeet_bench.interval import Interval, ratio_of_medians
from lorikeet_bench.label import ADAPTER, BASE, MERGED, Label
from lorikeet_bench.latency import Run
from lorikeet_bench.machine import Machine
from lorikeet_bench.plan import Plan
from lorikeet_bench.target import told
from lorikeet_bench.targets import weigh

SHAPE_KEYS = ("model_type", "num_hidden_layers", "hidden_size", "vocab_size")


@dataclass(frozen=True, slots=True)
class Result:
    """All repetitions of one arm at one batch size; the ratios are of `tpot`, arm over baseline."""

    label: Label
    batch: int
    runs: tuple[Run, ...]
    to_base: Interval | None
    to_merged: Interval | None

    def median_of(self, value: Callable[[Run], float]) -> float:
        return median(value(run) for run in self.runs)

    @property
    def tpot_s(self) -> float:
        return self.median_of(lambda run: run.timed.tpot_s)


def summarise(runs: Sequence[Run], seed: int = 0) -> tuple[Result, ...]:
    """Group by batch size and arm in the order of the runs. Only `adapter` is compared with `merged`."""
    cells: dict[tuple[int, Label], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.batch, run.label), []).append(run)

    def ratio(batch: int, label: Label, baseline: str) -> Interval:
        return tpot_ratio(cells[batch, label], cells[batch, Label(baseline)], seed)

    return tuple(
        Result(
            label,
            batch,
            tuple(group),
            None if label.arm == BASE else ratio(batch, label, BASE),
            ratio(batch, label, MERGED) if label.arm == ADAPTER and (batch, Label(MERGED)) in cells else None,
        )
        for (batch, label), group in cells.items()
    )


def tpot_ratio(above: Sequence[Run], below: Sequence[Run], seed: int = 0) -> Interval:
    """Of two arms at one batch size, round by round."""
    return ratio_of_medians([run.timed.tpot_s for run in above], [run.timed.tpot_s for run in below], seed)


def make_document(
    bench: Bench, plan: Plan, machine: Machine, results: Sequence[Result], started: datetime
) -> dict[str, Any]:
    """Everything measured and everything it was measured on; JSON types only."""
    config = bench.base.model.config.get_text_config()
    runs = [run for result in results for run in result.runs]
    adapters = [adapter for each in bench.sets for adapter in each.adapters]
    return {
        "benchmark": "latency",
        "backend": "lorikeet",
        "date": started.astimezone(UTC).isoformat(timespec="seconds"),
        "model_id": bench.base.name,
        **{key: getattr(config, key, None) for key in SHAPE_KEYS},
        "linear_parameters": sum(s.in_features * s.out_features for s in bench.base.linears.values()),
        "quantization": bench.base.quantization.value,
        "dtype": str(bench.base.compute_dtype).removeprefix("torch."),
        "device": str(bench.base.device),
        "kernel": bench.kernel,
        "base_bytes_by_dtype": dict(bench.base.bytes_by_dtype),
        "merged_bytes_by_dtype": None if bench.merged is None else dict(bench.merged.bytes_by_dtype),
        "adapters": origin_of(bench.sets).value,
        "adapter_names": [adapter.name for adapter in adapters],
        "adapter_origins": [adapter.origin.value for adapter in adapters],
        "adapter_ranks": [adapter.weights.rank for adapter in adapters],
        "resident_adapters": len(adapters),  # in the engine of every arm of ours on the base, named or not
        "input_len": plan.prompt_tokens,
        "output_len": plan.tokens,
        "repetitions": plan.repetitions,
        "seed": plan.seed,
        "detokenised": False,
        "median_bandwidth_gb_s": median(run.bandwidth for run in runs) / 1e9,
        **asdict(machine),
        "results": [result_row(result, plan) for result in results],
        "left_out": list(bench.left_out),
        "targets": [asdict(each) for each in weigh(results, bench, plan)],
    }


def result_row(result: Result, plan: Plan) -> dict[str, Any]:
    """One flat object. Medians, means and deviations are over the repetitions."""
    row: dict[str, Any] = {
        "arm": result.label.arm,
        "rank": max(result.label.ranks, default=0),
        "ranks": list(result.label.ranks),
        "adapters": result.label.adapters,
        "batch": result.batch,
        "completed": result.batch * len(result.runs),
        "total_input_tokens": result.batch * plan.prompt_tokens * len(result.runs),
        "total_output_tokens": sum(run.output_tokens for run in result.runs),
        "duration": sum(run.timed.duration_s for run in result.runs),
        "output_throughput": result.median_of(lambda run: run.output_throughput),
        "prefill_throughput": result.batch
        * plan.prompt_tokens
        / result.median_of(lambda run: run.timed.ttft_s),
        **_spread("ttft", [run.timed.ttft_s for run in result.runs]),
        **_spread("tpot", [run.timed.tpot_s for run in result.runs]),
        "median_bandwidth_gb_s": result.median_of(lambda run: run.bandwidth) / 1e9,
        "samples_tpot_ms": [run.timed.tpot_s * 1e3 for run in result.runs],
        "samples_ttft_ms": [run.timed.ttft_s * 1e3 for run in result.runs],
    }
    for name, interval in (("base", result.to_base), ("merged", result.to_merged)):
        if interval is not None:
            row[f"tpot_ratio_to_{name}"] = interval.value
            row[f"tpot_ratio_to_{name}_low"] = interval.low
            row[f"tpot_ratio_to_{name}_high"] = interval.high
    return row


def make_table(document: Mapping[str, Any], results: Sequence[Result]) -> Table:
    """Fits eighty columns, which is what a pipe gets."""
    table = Table(
        title=f"{document['model_id']} as {document['quantization']}, kernel: {document['kernel']}, "
        f"threads: {document['threads']}",
        caption="\n".join(
            [*_against_merged(results), *told(document), *document["left_out"], _caption(document)]
        ),
        caption_justify="left",
        caption_style="none",
    )
    table.add_column("batch", justify="right")
    table.add_column("arm", no_wrap=True)
    for heading in ("TPOT ms", "tok/s", "TTFT ms", "TPOT / base"):
        table.add_column(heading, justify="right", no_wrap=True)
    for previous, result in zip((None, *results[:-1]), results, strict=True):
        if previous is not None and previous.batch != result.batch:
            table.add_section()
        table.add_row(
            str(result.batch),
            str(result.label),
            f"{result.tpot_s * 1e3:.2f}",
            f"{result.median_of(lambda run: run.output_throughput):.1f}",
            f"{result.median_of(lambda run: run.timed.ttft_s) * 1e3:.1f}",
            "" if result.to_base is None else _show(result.to_base),
        )
    return table


def _against_merged(results: Sequence[Result]) -> list[str]:
    return [
        f"TPOT {result.label} / {MERGED} at batch {result.batch}: {_show(result.to_merged)}"
        for result in results
        if result.to_merged is not None
    ]


def _caption(document: Mapping[str, Any]) -> str:
    ranks = ", ".join(map(str, sorted(set(document["adapter_ranks"]))))
    return (
        f"Medians of {document['repetitions']} interleaved repetitions, ratios with 95 % intervals; "
        f"prompts of {document['input_len']} tokens, {document['output_len']} generated, greedy. "
        f"Adapters: {document['adapters']}, ranks {ranks}. "
        f"Memory copy beside the runs: {document['median_bandwidth_gb_s']:.1f} GB/s (median). "
        f"{document['cpu_model']}, torch {document['torch_version']}, commit {document['commit'] or 'unknown'}."
    )


def _spread(name: str, seconds: Sequence[float]) -> dict[str, float]:
    return {
        f"mean_{name}_ms": fmean(seconds) * 1e3,
        f"median_{name}_ms": median(seconds) * 1e3,
        f"std_{name}_ms": stdev(seconds) * 1e3,
    }


def _show(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
