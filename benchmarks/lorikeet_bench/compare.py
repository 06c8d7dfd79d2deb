"""Two result files of one kind, line by line: what became worse, beyond what chance explains.

A line is slower when the whole 95 % interval of its ratio, new over old, lies above one plus the
tolerance; a single unlucky round moves the interval, not the verdict. Throughput and goodput of a
serving run are one figure a run and judged as that. What failed more often or is not there any more
is worse too, however quick the rest is. Files of different settings are not compared, and what else
differs (machine, threads, versions) is said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from lorikeet_bench.interval import Interval, ratio_apart
from lorikeet_bench.percentile import percentile
from lorikeet_bench.plan import PlanRefused

KEY = ("names", "arm", "ranks", "batch", "mix")
BASE = ("model_id", "quantization", "device")
SETTINGS: Mapping[str, Sequence[str]] = {
    "latency": (*BASE, "dtype", "adapters", "resident_adapters", "input_len", "output_len"),
    "prefix": (*BASE, "prefix_len", "input_len", "adapter_rank"),
    "scale": (
        *BASE,
        "adapter_rank",
        "num_prompts",
        "max_concurrency",
        "rows_for_few",
        "zipf_skew",
        "input_len",
        "output_len",
    ),
    "serving": (
        "models",
        "num_prompts",
        "request_rate",
        "burstiness",
        "max_concurrency",
        "popularity",
        "skew",
        "prompt_words",
        "reuse_prompts",
        "dialect",
        "output_len",
        "goodput_objectives_ms",
    ),
}
KINDS = frozenset({*SETTINGS, "swap", "fidelity", "versus"})
CIRCUMSTANCES = (
    "cpu_model",
    "cpu_count",
    "threads",
    "torch_version",
    "transformers_version",
    "omp_wait_policy",
    "server",
)
RATES = ("request_throughput", "output_throughput", "request_goodput")  # a run's, the higher the better
TAIL = 99  # percent, of what has enough samples to have such a tail
FEWEST_FOR_TAIL = 100


class Verdict(StrEnum):
    SLOWER = "slower"
    FASTER = "faster"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class Line:
    """One measured quantity in both files; `ratio` is new over old."""

    name: str
    ratio: Interval
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Comparison:
    lines: tuple[Line, ...]
    differing: tuple[str, ...]  # circumstances that are not the same, in words
    lost: tuple[str, ...]  # lines of the old file alone
    added: tuple[str, ...]  # lines of the new file alone
    failures: str  # in words, where the new run has more of them

    @property
    def regressed(self) -> bool:
        slower = any(line.verdict is Verdict.SLOWER for line in self.lines)
        return slower or bool(self.lost) or bool(self.failures) or not self.lines


def read_result(path: Path) -> dict[str, Any]:
    """Raises PlanRefused for what is no result of this suite."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise PlanRefused(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise PlanRefused(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("benchmark") not in KINDS:
        raise PlanRefused(f"{path} is no result of `lorikeet bench`")
    return document


def compare(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> Comparison:
    """Raises PlanRefused for results of different kinds or settings."""
    if old["benchmark"] not in SETTINGS:
        raise PlanRefused(f"{old['benchmark']} results are not compared; {', '.join(SETTINGS)} results are")
    if old["benchmark"] != new["benchmark"]:
        raise PlanRefused(f"one file is a {old['benchmark']} result, the other a {new['benchmark']} result")
    for setting in SETTINGS[old["benchmark"]]:
        if old.get(setting) != new.get(setting):
            raise PlanRefused(
                f"{setting} is {old.get(setting)!r} in one and {new.get(setting)!r} in the other"
            )
    before, after = dict(_samples(old)), dict(_samples(new))
    lines = [
        line
        for name in before
        if name in after
        for line in _times(name, before[name], after[name], tolerance)
    ]
    rates = [name for name in RATES if old.get(name)]
    lines += [_rate(name, old[name], new[name], tolerance) for name in rates if name in new]
    return Comparison(
        tuple(lines),
        tuple(_differing(old, new)),
        tuple(sorted({*before, *rates} - {*after, *new})),
        tuple(sorted(after.keys() - before.keys())),
        _failures(old, new),
    )


def make_table(comparison: Comparison) -> Table:
    """Slower lines first of all."""
    notes = [comparison.failures] if comparison.failures else []
    notes += ["nothing was measured in both"] if not comparison.lines else []
    notes += [f"in the old file only: {each}" for each in comparison.lost]
    notes += [f"in the new file only: {each}" for each in comparison.added]
    notes += [f"not the same: {each}" for each in comparison.differing]
    table = Table(
        title="new / old, times with 95 % intervals",
        caption="\n".join(notes),
        caption_justify="left",
        caption_style="none",
    )
    for heading in ("what", "new / old", ""):
        table.add_column(heading, justify="left" if heading == "what" else "right", no_wrap=True)
    order = list(Verdict)
    for line in sorted(comparison.lines, key=lambda each: order.index(each.verdict)):
        table.add_row(
            line.name, _show(line.ratio), "" if line.verdict is Verdict.SAME else line.verdict.value
        )
    return table


def _show(ratio: Interval) -> str:
    if ratio.low == ratio.high:
        return f"{ratio.value:.3f}"
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def _samples(document: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[float]]]:
    rows = document.get("results") or [document]
    for row in rows:
        name = " ".join(f"{key} {_word(row[key])}" for key in KEY if row.get(key))
        for key, values in row.items():
            if key.startswith("samples_") and values:
                yield f"{name} {key.removeprefix('samples_')}".strip(), values


def _word(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _times(name: str, before: Sequence[float], after: Sequence[float], tolerance: float) -> Iterator[Line]:
    yield _line(name, ratio_apart(after, before), tolerance)
    if min(len(before), len(after)) >= FEWEST_FOR_TAIL:
        tail: Callable[[Sequence[float]], float] = partial(percentile, percent=TAIL)
        yield _line(f"{name} p{TAIL}", ratio_apart(after, before, tail), tolerance)


def _rate(name: str, before: float, after: float, tolerance: float) -> Line:
    """Of one run each, so without an interval."""
    ratio = after / before
    worse, better = ratio * (1 + tolerance) < 1, ratio > 1 + tolerance
    verdict = Verdict.SLOWER if worse else Verdict.FASTER if better else Verdict.SAME
    return Line(name, Interval(ratio, ratio, ratio), verdict)


def _line(name: str, ratio: Interval, tolerance: float) -> Line:
    if ratio.low > 1 + tolerance:
        return Line(name, ratio, Verdict.SLOWER)
    if ratio.high < 1 / (1 + tolerance):
        return Line(name, ratio, Verdict.FASTER)
    return Line(name, ratio, Verdict.SAME)


def _failures(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = old.get("failed", 0), new.get("failed", 0)
    return f"{after} requests failed, {before} before" if after > before else ""


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in CIRCUMSTANCES:
        for name in (key, f"client_{key}"):
            if old.get(name) != new.get(name):
                yield f"{name}, {old.get(name)} and {new.get(name)}"
