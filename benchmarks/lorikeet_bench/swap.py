"""From a file to a first token: what an adapter that is not there yet costs, and whom it disturbs.

Each round asks for an adapter that nobody has asked for, then for the same again; then does so once
more beside requests that are running, whose longest gap between two tokens is held against their
usual one. The files lie in the page cache, as those of a server that has seen them do.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
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
from lorikeet_bench.machine import Machine
from lorikeet_bench.plan import FEWEST_REPETITIONS, PlanRefused
from lorikeet_bench.traffic import closed_loop
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.request import Request, Sampling

FILES = 4
RUNNING = 4  # requests beside which an adapter is loaded


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
    gap: list[float]  # usual time between two tokens of running requests
    stall: list[float]  # their longest while an adapter comes


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
    }


NAMES = {
    "read": "file to checked host tensors",
    "cold": "first token, adapter on disk",
    "warm": "first token, adapter on the device",
    "gap": "running requests, usual gap",
    "stall": "running requests, longest gap",
}


def make_table(document: dict[str, Any]) -> Table:
    """Fits eighty columns."""
    table = Table(
        title=f"{document['model_id']} as {document['quantization']}, threads: {document['threads']}",
        caption=(
            f"{document['repetitions']} rounds; adapters of rank {document['adapter_rank']}, "
            f"{document['adapter_file_bytes'] / 1e6:.1f} MB each, in the page cache; "
            f"{document['running_requests']} requests running beside the last two. {document['cpu_model']}, "
            f"torch {document['torch_version']}, commit {document['commit'] or 'unknown'}."
        ),
        caption_justify="left",
        caption_style="none",
    )
    for heading in ("", "median ms", "longest ms"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for row in document["results"]:
        table.add_row(NAMES[row["figure"]], f"{row['median_ms']:.1f}", f"{row['max_ms']:.1f}")
    return table


def _measure(
    plan: SwapPlan, base: BaseModel, folders: Sequence[Path], advance: Callable[[str], None]
) -> Times:
    times = Times([], [], [], [], [])
    config = EngineConfig(max_slots=RUNNING + 1, rank_rows=plan.rank, prefix_cache_bytes=0)

    def read(name: str) -> AdapterWeights:
        return fetch(base, folders[int(name) % len(folders)])

    with closing(Engine(base, config, NO_TEXT, read)) as engine:
        ask = _Asker(plan, engine, base)
        ask.first_token("0")
        for turn in range(1, plan.repetitions + 1):
            began = time.perf_counter()
            read(str(turn))
            times.read.append(time.perf_counter() - began)
            times.cold.append(ask.first_token(str(turn)))
            times.warm.append(ask.first_token(str(turn)))
            usual, _ = ask.gaps_beside(None)
            _, longest = ask.gaps_beside(str(turn + 1))
            times.gap.append(usual)
            times.stall.append(longest)
            advance("measuring")
    return times


class _Asker:
    def __init__(self, plan: SwapPlan, engine: Engine, base: BaseModel) -> None:
        self._plan, self._engine = plan, engine
        self._draw = random.Random(plan.seed)
        self._vocabulary = base.model.config.get_text_config().vocab_size
        self._asked = 0

    def first_token(self, name: str) -> float:
        passages, _ = closed_loop(self._engine, [self._request(_alone(name), 1)], 1)
        return passages[0].ttft

    def gaps_beside(self, name: str | None) -> tuple[float, float]:
        """(median, longest) gap of the base's requests, while `name` is asked for if it is one."""
        running = [self._request(BASE_MIX, self._plan.tokens) for _ in range(RUNNING)]
        # Asked for last: prompts of the others are then done before its rows come.
        beside = [] if name is None else [self._request(_alone(name), 1)]
        passages, _ = closed_loop(self._engine, [*running, *beside], RUNNING + 1)
        ours = {each.id for each in running}
        gaps = [gap for each in passages if each.request.id in ours for gap in each.gaps]
        return median(gaps), max(gaps)

    def _request(self, mix: Mix, tokens: int) -> Request:
        self._asked += 1
        prompt = tuple(self._draw.randrange(self._vocabulary) for _ in range(self._plan.prompt_tokens))
        return Request(str(self._asked), prompt, Sampling(max_tokens=tokens, ignore_eos=True), mix)


def _alone(name: str) -> Mix:
    return Mix.of([Term(name, 1.0)])
