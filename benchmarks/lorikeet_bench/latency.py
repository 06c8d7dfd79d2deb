"""The interleaved measurement: every round runs every arm once, so that drift meets all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lorikeet_bench.arms import Bench
from lorikeet_bench.label import Label
from lorikeet_bench.plan import Plan
from lorikeet_bench.probe import BandwidthProbe
from lorikeet_bench.timed import Prompts, Timed

Advance = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One batch run to its end; `bandwidth` is the probe's bytes a second just before."""

    label: Label
    batch: int
    timed: Timed
    bandwidth: float

    @property
    def output_tokens(self) -> int:
        return sum(len(row) for row in self.timed.tokens)

    @property
    def output_throughput(self) -> float:
        """Tokens a second from the first submission to the last token."""
        return self.output_tokens / self.timed.duration_s


def measure(bench: Bench, plan: Plan, probe: BandwidthProbe, advance: Advance) -> tuple[Run, ...]:
    """Warm every arm up once at every batch size, then run the rounds: A B C, A B C, ...

    `advance` is called after each batch, warm-up included, with what was run.
    """
    prompts = make_prompts(plan, bench.vocabulary)
    cells = [(arm, batch) for batch in plan.batches for arm in bench.arms if arm.distinct <= batch]
    for arm, batch in cells:  # loads adapters, grows caches, lets quantised layers repack
        arm.run(prompts[:batch], plan.tokens)
        advance(f"warming up {arm.label}")
    runs: list[Run] = []
    for _ in range(plan.repetitions):
        for arm, batch in cells:
            bandwidth = probe.read()
            runs.append(Run(arm.label, batch, arm.run(prompts[:batch], plan.tokens), bandwidth))
            advance(f"measuring {arm.label}")
    return tuple(runs)


def make_prompts(plan: Plan, vocabulary: int) -> Prompts:
    """The same random token ids for every arm, another prompt for every row."""
    generator = torch.Generator().manual_seed(plan.seed)
    ids = torch.randint(vocabulary, (max(plan.batches), plan.prompt_tokens), generator=generator)
    return [tuple(row) for row in ids.tolist()]


def count_batches(bench: Bench, plan: Plan) -> int:
    """How often `measure` will call `advance`."""
    cells = sum(arm.distinct <= batch for arm in bench.arms for batch in plan.batches)
    return cells * (1 + plan.repetitions)
