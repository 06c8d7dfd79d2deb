"""What we hold ourselves to, printed beside what was measured, met or not.

Every figure compares two arms of one run at one batch size by their median times per token, or a
time with the bytes it must move and the copy bandwidth measured beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from lorikeet_bench.adapter import AdapterSet
from lorikeet_bench.arms import Bench
from lorikeet_bench.label import ADAPTER, BASE, BLEND, MERGED, MIXED, PEFT, TRANSFORMERS, Label
from lorikeet_bench.plan import Plan

if TYPE_CHECKING:
    from lorikeet_bench.report import Result

FULL_BATCH = 8  # smaller batches have no target against PEFT and transformers


@dataclass(frozen=True, slots=True)
class Target:
    """`wanted` is a bound in words; `value` has no unit."""

    name: str
    value: float
    wanted: str
    met: bool

    @classmethod
    def at_least(cls, name: str, value: float, bound: float) -> Target:
        return cls(name, value, f">= {bound:g}", value >= bound)

    @classmethod
    def at_most(cls, name: str, value: float, bound: float) -> Target:
        return cls(name, value, f"<= {bound:g}", value <= bound)


def weigh(results: Sequence[Result], bench: Bench, plan: Plan) -> tuple[Target, ...]:
    """Every target whose arms were measured."""
    bandwidth = median(run.bandwidth for result in results for run in result.runs)
    found: list[Target] = []
    for batch in plan.batches:
        seconds = {each.label: each.tpot_s for each in results if each.batch == batch}
        found += _against_ourselves(seconds, batch)
        found += _against_peers(seconds, batch)
        for each in bench.sets:
            found += _rows(seconds, batch, each, _rows_bytes(bench, each), bandwidth)
        if batch == 1:
            roof = _bytes_a_step(bench) / bandwidth
            found.append(
                Target.at_least("base at batch 1, share of the bandwidth", roof / seconds[Label(BASE)], 0.65)
            )
    return tuple(found)


def _against_ourselves(seconds: Mapping[Label, float], batch: int) -> Iterator[Target]:
    base, merged = seconds[Label(BASE)], seconds[Label(MERGED)]
    yield Target.at_least(f"LoRA on but unused, speed over off, batch {batch}", merged / base, 0.99)
    for label, value in seconds.items():
        if label.arm == ADAPTER:
            yield Target.at_most(f"{label} / merged, time, batch {batch}", value / merged, 1.05)
        if label.arm == BLEND and (twice := Label(ADAPTER, 2 * label.rank, 1)) in seconds:
            name = f"{label} over {twice}, speed, batch {batch}"
            yield Target.at_least(name, seconds[twice] / value, 0.97)


def _against_peers(seconds: Mapping[Label, float], batch: int) -> Iterator[Target]:
    if batch < FULL_BATCH:
        return
    for label, value in seconds.items():
        ours = Label(MIXED, label.rank, label.adapters)
        if label.arm == PEFT and ours in seconds:
            yield Target.at_least(f"{ours} over PEFT's, speed, batch {batch}", value / seconds[ours], 10)
        if label.arm == TRANSFORMERS:
            name = f"base over transformers' generate, speed, batch {batch}"
            yield Target.at_least(name, value / seconds[Label(BASE)], 1.5)


def _rows(
    seconds: Mapping[Label, float], batch: int, adapters: AdapterSet, size: int, bandwidth: float
) -> Iterator[Target]:
    """`size` bytes are one adapter's, on average."""
    for label, value in seconds.items():
        if label.arm == MIXED and label.rank == adapters.rank:
            least = label.adapters * size / bandwidth
            name = f"rows of {label}, added time / bytes over bandwidth, batch {batch}"
            yield Target.at_most(name, (value - seconds[Label(BASE)]) / least, 2)


def _rows_bytes(bench: Bench, adapters: AdapterSet) -> int:
    each = [
        sum(rows.a.numel() + rows.b.numel() for rows in adapter.weights.modules.values())
        for adapter in adapters.adapters
    ]
    return sum(each) * bench.base.compute_dtype.itemsize // len(each)


def _bytes_a_step(bench: Bench) -> int:
    """All weights but an embedding that is not also the head: of it a step reads one row a token."""
    model = bench.base.model
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    tied = head is not None and head.weight is embedding
    whole = sum(bench.base.bytes_by_dtype.values())
    return whole - (0 if tied else embedding.numel() * embedding.element_size())
