"""The interleaved measurement: every round runs every arm once, so that drift meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from lorikeet_bench.arms import Arm, Bench
from lorikeet_bench.plan import Plan, PlanRefused
from lorikeet_bench.probe import BandwidthProbe
from lorikeet_server.engine.offline import complete
from lorikeet_server.engine.request import Finished, Request, Sampling

Prompts = Sequence[tuple[int, ...]]
Advance = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One batch run to its end.

    `ttft_s` is the time until every row has its first token, `tpot_s` the mean time between a
    row's tokens after that, both in seconds. `tokens[i]` are the ids of row i. `bandwidth` is the
    probe's bytes a second just before.
    """

    arm: str
    batch: int
    ttft_s: float
    tpot_s: float
    duration_s: float
    tokens: tuple[tuple[int, ...], ...]
    bandwidth: float

    @property
    def output_tokens(self) -> int:
        return sum(len(row) for row in self.tokens)

    @property
    def output_throughput(self) -> float:
        """Tokens a second from the first submission to the last token."""
        return self.output_tokens / self.duration_s


def measure(bench: Bench, plan: Plan, probe: BandwidthProbe, advance: Advance) -> tuple[Run, ...]:
    """Warm every arm up once at every batch size, then run the rounds: A B C, A B C, ...

    `advance` is called after each batch, warm-up included, with what was run.
    """
    prompts = make_prompts(plan, bench.vocabulary)
    cells = [(arm, batch) for batch in plan.batches for arm in bench.arms if arm.runs_at(batch)]
    for arm, batch in cells:  # loads adapters, grows caches, lets quantised layers repack
        run_batch(arm, prompts[:batch], plan.tokens, probe)
        advance(f"warming up {arm.name}")
    runs: list[Run] = []
    for _ in range(plan.repetitions):
        for arm, batch in cells:
            runs.append(run_batch(arm, prompts[:batch], plan.tokens, probe))
            advance(f"measuring {arm.name}")
    return tuple(runs)


def make_prompts(plan: Plan, vocabulary: int) -> Prompts:
    """The same random token ids for every arm, another prompt for every row."""
    generator = torch.Generator().manual_seed(plan.seed)
    ids = torch.randint(vocabulary, (max(plan.batches), plan.prompt_tokens), generator=generator)
    return [tuple(row) for row in ids.tolist()]


def count_batches(bench: Bench, plan: Plan) -> int:
    """How often `measure` will call `advance`."""
    cells = sum(arm.runs_at(batch) for arm in bench.arms for batch in plan.batches)
    return cells * (1 + plan.repetitions)


def run_batch(arm: Arm, prompts: Prompts, tokens: int, probe: BandwidthProbe) -> Run:
    """Probe, then complete one batch, greedy, `tokens` tokens a row whatever they are."""
    sampling = Sampling(max_tokens=tokens, ignore_eos=True)
    requests = [
        Request(str(row), prompt, sampling, mix)
        for row, (prompt, mix) in enumerate(zip(prompts, arm.rows(len(prompts)), strict=True))
    ]
    bandwidth = probe.read()
    started = time.perf_counter()
    answers = complete(arm.engine, requests)
    duration = time.perf_counter() - started
    endings = [_complete(arm, ending, tokens) for _, ending in answers.values()]
    first = [_seconds(ending.timing.first_token) for ending in endings]
    between = [
        (ending.timing.total - start) / (tokens - 1) for ending, start in zip(endings, first, strict=True)
    ]
    ids = tuple(tuple(token.token_id for token in row) for row, _ in answers.values())
    return Run(arm.name, len(prompts), max(first), fmean(between), duration, ids, bandwidth)


def _complete(arm: Arm, ending: Finished, tokens: int) -> Finished:
    if ending.failure is not None:
        raise PlanRefused(f"the arm {arm.name} cannot be measured: {ending.failure.message}")
    assert ending.completion_tokens == tokens, (arm.name, ending)
    return ending


def _seconds(value: float | None) -> float:
    assert value is not None, "a request that ended by length has a first token"
    return value
