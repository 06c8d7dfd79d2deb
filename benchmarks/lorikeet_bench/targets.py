"""What we hold a latency run to, printed beside what was measured.

Every figure compares two arms of one run at one batch size by their median times per token, or a
time with the bytes it must move and the copy bandwidth measured beside it; all by rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lorikeet_bench.arms import Bench, EngineArm
from lorikeet_bench.interval import Interval, bootstrap, medians, ratio_of_medians
from lorikeet_bench.label import ADAPTER, BASE, BLEND, MERGED, MIXED, PEFT, TRANSFORMERS, Label
from lorikeet_bench.latency import Run
from lorikeet_bench.plan import Plan
from lorikeet_bench.target import Target

if TYPE_CHECKING:
    from lorikeet_bench.report import Result

FULL_BATCH = 8  # smaller batches have no target against PEFT and transformers


def weigh(results: Sequence[Result], bench: Bench, plan: Plan) -> tuple[Target, ...]:
    """Every target whose arms were measured."""
    found: list[Target] = []
    for batch in plan.batches:
        arms = {each.label: _Arm(each.runs) for each in results if each.batch == batch}
        found += _against_ourselves(arms, batch)
        found += _against_peers(arms, batch)
        found += _rows(arms, batch, bench)
        if batch == 1:
            found.append(_share_of_bandwidth(arms[Label(BASE)], _bytes_a_step(bench)))
    return tuple(found)


class _Arm:
    """Round by round: seconds a token, and the copy bandwidth just before."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.seconds = [run.timed.tpot_s for run in runs]
        self.bandwidth = [run.bandwidth for run in runs]

    def over(self, other: _Arm) -> Interval:
        return ratio_of_medians(self.seconds, other.seconds)


Arms = Mapping[Label, _Arm]


def _against_ourselves(arms: Arms, batch: int) -> Iterator[Target]:
    merged = arms.get(Label(MERGED))
    if merged is not None:
        name = f"LoRA on but unused, speed over off, batch {batch}"
        yield Target.at_least(name, merged.over(arms[Label(BASE)]), 0.99)
    for label, arm in arms.items():
        if label.arm == ADAPTER and merged is not None:
            yield Target.at_most(f"{label} / merged, time, batch {batch}", arm.over(merged), 1.05)
        if label.arm == BLEND and (alone := Label(ADAPTER, (sum(label.ranks),))) in arms:
            name = f"{label} over {alone}, speed, batch {batch}"
            yield Target.at_least(name, arms[alone].over(arm), 0.97)


def _against_peers(arms: Arms, batch: int) -> Iterator[Target]:
    if batch < FULL_BATCH:
        return
    for label, arm in arms.items():
        ours = Label(MIXED, label.ranks)
        if label.arm == PEFT and ours in arms:
            yield Target.at_least(f"{ours} over PEFT's, speed, batch {batch}", arm.over(arms[ours]), 10)
        if label.arm == TRANSFORMERS:
            name = f"base over transformers' generate, speed, batch {batch}"
            yield Target.at_least(name, arm.over(arms[Label(BASE)]), 1.5)


def _rows(arms: Arms, batch: int, bench: Bench) -> Iterator[Target]:
    """Against the bytes of the very adapters of the arm, at the bandwidth measured beside it."""
    base = arms[Label(BASE)]
    for ours in bench.arms:
        if not isinstance(ours, EngineArm) or ours.label.arm != MIXED or ours.label not in arms:
            continue
        size, arm = _rows_bytes(bench, ours), arms[ours.label]

        def steps_over_roof(rounds: Sequence[tuple[float, float, float]], size: int = size) -> float:
            mixed, alone, bandwidth = medians(rounds)
            return (mixed - alone) * bandwidth / size

        found = bootstrap(list(zip(arm.seconds, base.seconds, arm.bandwidth, strict=True)), steps_over_roof)
        name = f"rows of {ours.label}, added time / bytes over bandwidth, batch {batch}"
        yield Target.at_most(name, found, 2)


def _rows_bytes(bench: Bench, arm: EngineArm) -> int:
    named = {generation for mix in arm.mixes for generation in mix.adapters}
    return sum(bench.held[each].bytes for each in named)


def _share_of_bandwidth(base: _Arm, size: int) -> Target:
    """The time that reading `size` bytes takes, over the time of a step."""

    def share(rounds: Sequence[tuple[float, float]]) -> float:
        seconds, bandwidth = medians(rounds)
        return size / bandwidth / seconds

    found = bootstrap(list(zip(base.seconds, base.bandwidth, strict=True)), share)
    return Target.at_least("base at batch 1, share of the bandwidth", found, 0.65)


def _bytes_a_step(bench: Bench) -> int:
    """All weights but an embedding that is not also the head: of it a step reads one row a token."""
    model = bench.base.model
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    tied = head is not None and head.weight is embedding
    whole = sum(bench.base.bytes_by_dtype.values())
    return whole - (0 if tied else embedding.numel() * embedding.element_size())
