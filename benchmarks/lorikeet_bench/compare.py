"""Two result files of one kind, line by line: what became slower, beyond what chance explains.

A line is slower when the whole 95 % interval of its ratio, new over old, lies above one plus the
tolerance; a single unlucky round moves the interval, not the verdict. Files of different settings
are not compared, and what else differs (machine, threads, versions) is said first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.table import Table

from lorikeet_bench.interval import Interval, ratio_of_medians_apart
from lorikeet_bench.plan import PlanRefused

KEY = ("registered", "arm", "ranks", "batch", "mix")
SETTINGS = {
    "latency": ("model_id", "quantization", "input_len", "output_len"),
    "prefix": ("model_id", "quantization", "prefix_len", "input_len", "adapter_rank"),
    "scale": ("model_id", "quantization", "adapter_rank", "num_prompts", "input_len", "output_len"),
    "serving": (
        "models",
        "num_prompts",
        "request_rate",
        "burstiness",
        "max_concurrency",
        "popularity",
        "output_len",
    ),
}
KINDS = frozenset({*SETTINGS, "swap", "fidelity"})
CIRCUMSTANCES = (
    "cpu_model",
    "cpu_count",
    "threads",
    "torch_version",
    "transformers_version",
    "omp_wait_policy",
)


class Verdict(StrEnum):
    SLOWER = "slower"
    FASTER = "faster"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class Line:
    """One measured quantity in both files; `ratio` is new over old, of times."""

    name: str
    ratio: Interval
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Comparison:
    lines: tuple[Line, ...]
    differing: tuple[str, ...]  # circumstances that are not the same, in words
    missing: tuple[str, ...]  # lines of one file alone

    @property
    def regressed(self) -> bool:
        return any(line.verdict is Verdict.SLOWER for line in self.lines)


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
    lines = tuple(_line(name, before[name], after[name], tolerance) for name in before if name in after)
    return Comparison(lines, tuple(_differing(old, new)), tuple(sorted(before.keys() ^ after.keys())))


def make_table(comparison: Comparison) -> Table:
    """Slower lines first of all."""
    notes = [f"not the same: {each}" for each in comparison.differing]
    notes += [f"in one file only: {each}" for each in comparison.missing]
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
        ratio = line.ratio
        shown = f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
        table.add_row(line.name, shown, "" if line.verdict is Verdict.SAME else line.verdict.value)
    return table


def _samples(document: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[float]]]:
    rows = document.get("results") or [document]
    for row in rows:
        name = " ".join(f"{key} {_word(row[key])}" for key in KEY if row.get(key))
        for key, values in row.items():
            if key.startswith("samples_") and values:
                yield f"{name} {key.removeprefix('samples_')}".strip(), values


def _word(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _line(name: str, before: Sequence[float], after: Sequence[float], tolerance: float) -> Line:
    ratio = ratio_of_medians_apart(after, before)
    if ratio.low > 1 + tolerance:
        return Line(name, ratio, Verdict.SLOWER)
    if ratio.high < 1 / (1 + tolerance):
        return Line(name, ratio, Verdict.FASTER)
    return Line(name, ratio, Verdict.SAME)


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in CIRCUMSTANCES:
        for name in (key, f"client_{key}"):
            if old.get(name) != new.get(name):
                yield f"{name}, {old.get(name)} and {new.get(name)}"
