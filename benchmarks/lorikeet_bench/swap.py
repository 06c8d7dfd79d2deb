"""From a file to a first token: what an adapter that is not there yet costs, and whom it disturbs.

Each round asks for an adapter that nobody has asked for, then for the same again; then does both once
more beside requests that are running. What a load costs those is their longest gap between two tokens
held against their longest one beside the same newcomer when it is on the device already: its prompt
delays them too. The files lie in the page cache, as those of a server that has seen them do.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.mix import BASE_MIX, Mix, Term
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_bench.adapter import fetch, write_random
from lorikeet_bench.arms import NO_TEXT
from lorikeet_bench.interval import Interval, bootstrap, median_of, medians
from lorikeet_bench.machine import Machine
from lorikeet_bench.plan import FEWEST_REPETITIONS, PlanRefused
from lorikeet_bench.target import Target, told
from lorikeet_bench.traffic import Traffic
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.request import Request, Sampling

FILES = 4
RUNNING = 4  # requests beside which an adapter is loaded
LEAD = 4  # tokens that each of them has by then
MOST_COLD_MS, MOST_STALL_STEPS = 50, 1


@dataclass(frozen=True, slots=True)
class SwapPlan:
    """`tokens` each running request generates while an adapter comes. Raises PlanRefused."""

    model: str = "demo"
    quantization: Quantization = Quantization.AUTO
    rank: int = 16
    prompt_tokens: int = 16
    tokens: int = 48
    repetitions: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "--rank": (self.rank, 1),
            "--prompt-tokens": (self.prompt_tokens, 1),
            "--tokens": (self.tokens, 8),
            "--repeat": (self.repetitions, FEWEST_REPETITIONS),
        }
        for option, (value, least) in bounds.items():
            if value < least:
                raise PlanRefused(f"{option} is {value}, it must be at least {least}")


@dataclass(slots=True)
class Times:
    """Seconds, one of each a round."""

    read: list[float]  # file -> checked host tensors, alone
    cold: list[float]  # submission -> first token, adapter on disk
    warm: list[float]  # the same with the adapter on the device
    gap: list[float]  # usual time between two tokens of running requests, nobody beside them
    beside: list[float]  # their longest while a newcomer joins whose adapter is on the device
    stall: list[float]  # their longest while a newcomer joins whose adapter is on disk

    @property
    def stall_in_steps(self) -> Interval:
        """What the load adds to the longest gap, in usual gaps, paired by round."""
        return bootstrap(list(zip(self.stall, self.beside, self.gap, strict=True)), _added_steps)


def run(plan: SwapPlan, machine: Callable[[], Machine], advance: Callable[[str], None]) -> dict[str, Any]:
    """Measure; returns the document. `advance` is called after each round."""
    started = datetime.now(UTC)
    base = load_base(plan.model, plan.quantization.value)
    described = machine()
    with tempfile.TemporaryDirectory(prefix="lorikeet-bench-") as scratch:
        folders = [
            write_random(base, Path(scratch) / str(place), plan.rank, plan.seed + place)
            for place in range(FILES)
        ]
        times = _measure(plan, base, folders, advance)
        size = sum(path.stat().st_size for path in folders[0].iterdir())
    return {
        "benchmark": "swap",
        "backend": "lorikeet",
        "date": started.isoformat(timespec="seconds"),
        "model_id": base.name,
        "quantization": base.quantization.value,
        "device": str(base.device),
        "adapter_rank": plan.rank,
        "adapter_file_bytes": size,
        "running_requests": RUNNING,
        "input_len": plan.prompt_tokens,
        "output_len": plan.tokens,
        "repetitions": plan.repetitions,
        "seed": plan.seed,
        **asdict(described),
        "results": [
            {
                "figure": name,
                "median_ms": median(values) * 1e3,
                "max_ms": max(values) * 1e3,
                "samples_ms": [value * 1e3 for value in values],
            }
            for name, values in asdict(times).items()
        ],
        "targets": [asdict(each) for each in _targets(times)],
    }


def _targets(times: Times) -> tuple[Target, ...]:
    cold = median_of([value * 1e3 for value in times.cold])
    return (
        Target.at_most("first token of an adapter on disk, ms", cold, MOST_COLD_MS),
        Target.at_most("longest gap added by a load, in usual gaps", times.stall_in_steps, MOST_STALL_STEPS),
    )


def _added_steps(rounds: Sequence[tuple[float, float, float]]) -> float:
    stall, beside, gap = medians(rounds)
    return (stall - beside) / gap


NAMES = {
    "read": "file to checked host tensors",
    "cold": "first token, adapter on disk",
    "warm": "first token, adapter on the device",
    "gap": "running requests, usual gap",
    "beside": "longest gap, newcomer's adapter on the device",
    "stall": "longest gap, newcomer's adapter on disk",
}


def make_table(document: dict[str, Any]) -> Table:
    """Fits eighty columns."""
    table = Table(
        title=f"{document['model_id']} as {document['quantization']}, threads: {document['threads']}",
        caption="\n".join([*told(document), _caption(document)]),
        caption_justify="left",
        caption_style="none",
    )
    for heading in ("", "median ms", "longest ms"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for row in document["results"]:
        table.add_row(NAMES[row["figure"]], f"{row['median_ms']:.1f}", f"{row['max_ms']:.1f}")
    return table


def _caption(document: Mapping[str, Any]) -> str:
    return (
        f"{document['repetitions']} interleaved rounds; adapters of rank {document['adapter_rank']}, "
        f"{document['adapter_file_bytes'] / 1e6:.1f} MB each, in the page cache; "
        f"{document['running_requests']} requests running in the last three. {document['cpu_model']}, "
        f"torch {document['torch_version']}, commit {document['commit'] or 'unknown'}."
    )


def _measure(
    plan: SwapPlan, base: BaseModel, folders: Sequence[Path], advance: Callable[[str], None]
) -> Times:
    times = Times([], [], [], [], [], [])
    config = EngineConfig(max_slots=RUNNING + 1, rank_rows=plan.rank, prefix_cache_bytes=0)

    def read(name: str) -> AdapterWeights:
        return fetch(base, folders[int(name) % len(folders)])

    with closing(Engine(base, config, NO_TEXT, read)) as engine:
        ask = _Asker(plan, engine, base)
        ask.first_token(ask.unseen(), loads=1)
        for _ in range(plan.repetitions):
            name = ask.unseen()
            began = time.perf_counter()
            read(name)
            times.read.append(time.perf_counter() - began)
            times.cold.append(ask.first_token(name, loads=1))
            times.warm.append(ask.first_token(name, loads=0))
            times.gap.append(median(ask.gaps_beside(None, loads=0)))
            times.beside.append(max(ask.gaps_beside(name, loads=0)))
            times.stall.append(max(ask.gaps_beside(ask.unseen(), loads=1)))
            advance("measuring")
    return times


class _Asker:
    """Every figure says how many adapters are loaded while it is taken, and is held to that."""

    def __init__(self, plan: SwapPlan, engine: Engine, base: BaseModel) -> None:
        self._plan, self._engine = plan, engine
        self._draw = random.Random(plan.seed)
        self._vocabulary = base.model.config.get_text_config().vocab_size
        self._asked = 0
        self._names = count()

    def unseen(self) -> str:
        """A name that nobody has asked for: one that was, may still be on the device."""
        return str(next(self._names))

    def first_token(self, name: str, *, loads: int) -> float:
        traffic = Traffic(self._engine)
        with self._loading(loads):
            traffic.send(self._request(_alone(name), 1))
            (passage,) = traffic.finish()
        return passage.ttft

    def gaps_beside(self, name: str | None, *, loads: int) -> list[float]:
        """The base's requests' times between two tokens, from the moment `name` is asked for if it is one."""
        traffic = Traffic(self._engine)
        for _ in range(RUNNING):
            traffic.send(self._request(BASE_MIX, self._plan.tokens))
        traffic.until_each_has(LEAD)  # else a resident newcomer's prompt would be computed with theirs
        newcomer = None if name is None else self._request(_alone(name), 1)
        with self._loading(loads):
            if newcomer is not None:
                traffic.send(newcomer)
            passages = traffic.finish()
        return [gap for each in passages if each.request is not newcomer for gap in each.gaps[LEAD - 1 :]]

    @contextmanager
    def _loading(self, loads: int) -> Iterator[None]:
        before = self._engine.stats.loads
        yield
        loaded = self._engine.stats.loads - before
        assert loaded == loads, f"{loaded} adapters were loaded, not {loads}"

    def _request(self, mix: Mix, tokens: int) -> Request:
        self._asked += 1
        prompt = tuple(self._draw.randrange(self._vocabulary) for _ in range(self._plan.prompt_tokens))
        return Request(str(self._asked), prompt, Sampling(max_tokens=tokens, ignore_eos=True), mix)


def _alone(name: str) -> Mix:
    return Mix.of([Term(name, 1.0)])
