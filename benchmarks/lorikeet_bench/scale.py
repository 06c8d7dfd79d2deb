"""What the number of adapters that requests may name costs: one to a thousand under Zipf traffic.

Each number runs three times: with rows for all of them, so that nothing is ever evicted; with rows for
a few, so that the rest come back from memory again and again; and with rows for a few and none kept in
memory, so that they come from their files. Before a pass every name was asked for once, as it was on a
server that runs for a while; where nothing is kept, another pass goes before. Files are few and shared
by many names; each load reads and checks its file as any load does. The engine is measured, not the
registry before it: names are its generations, and none is registered anywhere.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_bench.adapter import fetch, write_random
from lorikeet_bench.arms import NO_TEXT
from lorikeet_bench.interval import Interval, ratio_of_medians
from lorikeet_bench.machine import Machine
from lorikeet_bench.percentile import percentile
from lorikeet_bench.plan import FEWEST_REPETITIONS, PlanRefused
from lorikeet_bench.target import Target, told
from lorikeet_bench.traffic import Passage, closed_loop
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.request import Request, Sampling

FILES = 8
LEAST_RATIO = 0.9
ALL, FEW, READ = "all", "few", "few, read"


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """`few` adapters fit at once in the arm that evicts; the first of `names` is what others are compared with.

    Raises PlanRefused.
    """

    model: str = "demo"
    quantization: Quantization = Quantization.AUTO
    names: tuple[int, ...] = (8, 1, 64, 1000)
    few: int = 16
    rank: int = 8
    requests: int = 200
    at_once: int = 8
    tokens: int = 16
    prompt_tokens: int = 16
    skew: float = 1.0
    repetitions: int = FEWEST_REPETITIONS
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise PlanRefused("--names wants one or more different numbers, like 8,64,1000")
        bounds = {
            "--names": (min(self.names), 1),
            "--few": (self.few, self.at_once),  # else a batch could not hold its adapters
            "--rank": (self.rank, 1),
            "--requests": (self.requests, 1),
            "--tokens": (self.tokens, 1),
            "--prompt-tokens": (self.prompt_tokens, 1),
            "--repeat": (self.repetitions, FEWEST_REPETITIONS),
        }
        for option, (value, least) in bounds.items():
            if value < least:
                raise PlanRefused(f"{option} is {value}, it must be at least {least}")


@dataclass(frozen=True, slots=True)
class Round:
    """One pass of all requests. Times in seconds."""

    seconds: float
    tokens: int
    ttft: tuple[float, ...]
    loads: int
    returns: int  # from memory
    evictions: int
    touched: int  # distinct adapters that the pass asked for
    resident: int  # adapters on the device after it


def run(plan: ScalePlan, machine: Callable[[], Machine], advance: Callable[[str], None]) -> dict[str, Any]:
    """Measure; returns the document. `advance` is called after each of `steps(plan)` passes."""
    started = datetime.now(UTC)
    base = load_base(plan.model, plan.quantization.value)
    described = machine()
    with tempfile.TemporaryDirectory(prefix="lorikeet-bench-") as scratch:
        folders = [
            write_random(base, Path(scratch) / str(place), plan.rank, plan.seed + place)
            for place in range(FILES)
        ]
        rounds = _measure(plan, base, folders, advance)
    return {
        "benchmark": "scale",
        "backend": "lorikeet",
        "date": started.isoformat(timespec="seconds"),
        "model_id": base.name,
        "quantization": base.quantization.value,
        "device": str(base.device),
        "adapter_rank": plan.rank,
        "distinct_files": FILES,
        "rows_for_few": plan.few * plan.rank,
        "zipf_skew": plan.skew,
        "num_prompts": plan.requests,
        "max_concurrency": plan.at_once,
        "input_len": plan.prompt_tokens,
        "output_len": plan.tokens,
        "repetitions": plan.repetitions,
        "seed": plan.seed,
        **asdict(described),
        "results": _rows(plan, rounds),
        "targets": [asdict(each) for each in _targets(plan, rounds)],
    }


def steps(plan: ScalePlan) -> int:
    """How often `run` will call `advance`."""
    return len(_cells(plan)) * (1 + plan.repetitions)


def make_table(document: dict[str, Any]) -> Table:
    """One row an arm and number; fits eighty columns."""
    first = document["results"][0]["names"]
    table = Table(
        title=f"{document['model_id']} as {document['quantization']}, threads: {document['threads']}",
        caption="\n".join([*told(document), _caption(document, first)]),
        caption_justify="left",
        caption_style="none",
    )
    for heading in (
        "names",
        "rows",
        "tok/s",
        "TTFT ms",
        "back",
        "read",
        f"tok/s over {first}",
    ):
        table.add_column(heading, justify="left" if heading == "rows" else "right", no_wrap=True)
    for row in document["results"]:
        ratio = "throughput_ratio"
        table.add_row(
            str(row["names"]),
            row["arm"],
            f"{row['output_throughput']:.1f}",
            f"{row['p50_ttft_ms']:.1f}",
            f"{row['returns_a_pass']:.0f}",
            f"{row['loads_a_pass']:.0f}",
            f"{row[ratio]:.2f} [{row[f'{ratio}_low']:.2f}, {row[f'{ratio}_high']:.2f}]",
        )
    return table


def _caption(document: dict[str, Any], first: int) -> str:
    return (
        f"Medians of {document['repetitions']} interleaved passes of {document['num_prompts']} requests, "
        f"{document['max_concurrency']} at once, Zipf({document['zipf_skew']:g}), rank {document['adapter_rank']}; "
        "back: returns from memory, and read: reads of files, in a pass; few rows are "
        f"{document['rows_for_few']}. Ratios with 95 % intervals, over {first} names with "
        f"rows for all. {document['cpu_model']}, torch {document['torch_version']}, "
        f"commit {document['commit'] or 'unknown'}."
    )


Cell = tuple[int, str]


def _cells(plan: ScalePlan) -> list[tuple[int, str, int]]:
    """(names, arm, adapters that fit); where all fit into the few rows, there is one arm only."""
    cells = []
    for names in plan.names:
        cells.append((names, ALL, names))
        if names > plan.few:
            cells += [(names, FEW, plan.few), (names, READ, plan.few)]
    return cells


def _measure(
    plan: ScalePlan, base: BaseModel, folders: Sequence[Path], advance: Callable[[str], None]
) -> dict[Cell, list[Round]]:
    """Engines take turns on the one base: each attaches for its pass and lets go."""
    rounds: dict[Cell, list[Round]] = {}

    def read(name: str) -> AdapterWeights:
        return fetch(base, folders[int(name) % len(folders)])

    for turn in range(1 + plan.repetitions):
        for names, arm, fitting in _cells(plan):
            config = EngineConfig(
                max_slots=plan.at_once,
                rank_rows=fitting * plan.rank,
                host_adapter_bytes=0 if arm == READ else -1,
                prefix_cache_bytes=0,
            )
            with closing(Engine(base, config, NO_TEXT, read)) as engine:
                if arm != READ:
                    closed_loop(engine, _each_once(names), plan.at_once)
                _pass(plan, engine, base, names, f"warm-up {turn}")
                found = _pass(plan, engine, base, names, str(turn))
            if turn:  # the first is warm-up
                rounds.setdefault((names, arm), []).append(found)
            advance(f"{names} names, rows for {arm}")
    return rounds


def _pass(plan: ScalePlan, engine: Engine, base: BaseModel, names: int, seed: str) -> Round:
    before = engine.stats
    passages, seconds = closed_loop(engine, _requests(plan, base, names, seed), plan.at_once)
    after = engine.stats
    tokens = sum(len(each.tokens) for each in passages)
    return Round(
        seconds,
        tokens,
        _ttft(passages),
        after.loads - before.loads,
        after.host_hits - before.host_hits,
        after.evictions - before.evictions,
        len({each.request.mix for each in passages}),
        sum(state is AdapterState.DEVICE for state in after.adapters.values()),
    )


def _ttft(passages: Sequence[Passage]) -> tuple[float, ...]:
    return tuple(each.ttft for each in passages)


def _requests(plan: ScalePlan, base: BaseModel, names: int, seed: str) -> list[Request]:
    """Other ones for another seed."""
    draw = random.Random(f"{plan.seed} {seed}")
    vocabulary = base.model.config.get_text_config().vocab_size
    weights = [(place + 1) ** -plan.skew for place in range(names)]
    sampling = Sampling(max_tokens=plan.tokens, ignore_eos=True)
    return [
        Request(
            str(number),
            tuple(draw.randrange(vocabulary) for _ in range(plan.prompt_tokens)),
            sampling,
            Mix.of([Term(str(chosen), 1.0)]),
        )
        for number, chosen in enumerate(draw.choices(range(names), weights, k=plan.requests))
    ]


def _each_once(names: int) -> list[Request]:
    """As short as can be; the last names are those asked for most."""
    sampling = Sampling(max_tokens=1)
    order = range(names - 1, -1, -1)
    return [Request(f"once {name}", (0,), sampling, Mix.of([Term(str(name), 1.0)])) for name in order]


def _over_first(plan: ScalePlan, rounds: dict[Cell, list[Round]], group: Sequence[Round]) -> Interval:
    first = rounds[plan.names[0], ALL]
    above, below = ([each.tokens / each.seconds for each in some] for some in (group, first))
    return ratio_of_medians(above, below, plan.seed)


def _targets(plan: ScalePlan, rounds: dict[Cell, list[Round]]) -> Iterator[Target]:
    """The most names over the first number of them."""
    for (names, arm), group in rounds.items():
        if names == max(plan.names) != plan.names[0]:
            name = f"throughput of {names} names over {plan.names[0]}, rows for {arm}"
            yield Target.at_least(name, _over_first(plan, rounds, group), LEAST_RATIO)


def _rows(plan: ScalePlan, rounds: dict[Cell, list[Round]]) -> list[dict[str, Any]]:
    rows = []
    for (names, arm), group in rounds.items():
        ratio = _over_first(plan, rounds, group)
        ttft = [value * 1e3 for each in group for value in each.ttft]
        rows.append(
            {
                "names": names,
                "arm": arm,
                "output_throughput": median(each.tokens / each.seconds for each in group),
                "p50_ttft_ms": percentile(ttft, 50),
                "p99_ttft_ms": percentile(ttft, 99),
                "loads_a_pass": median(each.loads for each in group),
                "returns_a_pass": median(each.returns for each in group),
                "evictions_a_pass": median(each.evictions for each in group),
                "touched_a_pass": median(each.touched for each in group),
                "resident_after": median(each.resident for each in group),
                "throughput_ratio": ratio.value,
                "throughput_ratio_low": ratio.low,
                "throughput_ratio_high": ratio.high,
                "samples_pass_s": [each.seconds for each in group],
                **{
                    f"samples_p{percent}_ttft_ms": [percentile(each.ttft, percent) * 1e3 for each in group]
                    for percent in (50, 99)
                },
            }
        )
    return rows
