"""What a kept beginning saves: the time to the first token with it and without it, interleaved.

Each prompt is a long beginning, as a system prompt is, and a short tail of its own. The arm `fresh`
has another beginning each time, so nothing of it is kept; `kept` has the one that was computed
before. Both run through one engine, alone, on the base and on one adapter.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.mix import BASE_MIX, Mix, Term
from lorikeet_adapters.quantization import Quantization
from lorikeet_bench.adapter import read_random
from lorikeet_bench.arms import NO_TEXT
from lorikeet_bench.interval import Interval, ratio_of_medians
from lorikeet_bench.machine import Machine
from lorikeet_bench.plan import FEWEST_REPETITIONS, PlanRefused
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.offline import complete
from lorikeet_server.engine.prefix_index import BLOCK
from lorikeet_server.engine.request import Request, Sampling

FRESH, KEPT = "fresh", "kept"
BASE, ADAPTER = "base", "adapter"
MIXES = {BASE: BASE_MIX, ADAPTER: Mix.of([Term(ADAPTER, 1.0)])}


@dataclass(frozen=True, slots=True)
class PrefixPlan:
    """Tokens of the shared beginning and of each prompt's own tail. Raises PlanRefused."""

    model: str = "demo"
    quantization: Quantization = Quantization.AUTO
    prefix_tokens: int = 256
    prompt_tokens: int = 16
    repetitions: int = 20
    rank: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        least = {
            "--prefix-tokens": (self.prefix_tokens, BLOCK),
            "--prompt-tokens": (self.prompt_tokens, 1),
            "--repeat": (self.repetitions, FEWEST_REPETITIONS),
            "--rank": (self.rank, 1),
        }
        for option, (value, bound) in least.items():
            if value < bound:
                raise PlanRefused(f"{option} is {value}, it must be at least {bound}")


@dataclass(frozen=True, slots=True)
class PrefixResult:
    """Seconds to the first token, entry i of both from the same round; `ratio` is fresh over kept."""

    mix: str
    fresh_s: tuple[float, ...]
    kept_s: tuple[float, ...]
    ratio: Interval


def run(plan: PrefixPlan, machine: Callable[[], Machine], advance: Callable[[str], None]) -> dict[str, Any]:
    """Measure; returns the document. `advance` is called after each round."""
    started = datetime.now(UTC)
    base = load_base(plan.model, plan.quantization.value)
    asked = plan.prefix_tokens + plan.prompt_tokens + 1
    if asked > base.context_length:
        raise PlanRefused(
            f"--prefix-tokens and --prompt-tokens make {asked} with the token to generate, "
            f"the context of `{base.name}` holds {base.context_length}"
        )
    described = machine()
    with tempfile.TemporaryDirectory(prefix="lorikeet-bench-") as scratch:
        weights = read_random(base, Path(scratch), plan.rank, plan.seed).weights
        config = EngineConfig(max_slots=2, rank_rows=plan.rank, prefill_tokens=asked)
        engine = Engine(base, config, NO_TEXT, lambda generation: weights)
        try:
            vocabulary = base.model.config.get_text_config().vocab_size
            results = tuple(_measure(engine, plan, vocabulary, name, advance) for name in MIXES)
        finally:
            engine.close()
    return _document(plan, base, described, results, started)


def _measure(
    engine: Engine, plan: PrefixPlan, vocabulary: int, name: str, advance: Callable[[str], None]
) -> PrefixResult:
    draw, mix = random.Random(f"{plan.seed} {name}"), MIXES[name]

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(vocabulary) for _ in range(count))

    shared = tokens(plan.prefix_tokens)
    _first_token(engine, (*shared, *tokens(plan.prompt_tokens)), mix)  # loads, warms up, keeps `shared`
    times: dict[str, list[float]] = {FRESH: [], KEPT: []}
    for _ in range(plan.repetitions):
        for arm, beginning in ((FRESH, tokens(plan.prefix_tokens)), (KEPT, shared)):
            before = engine.stats.prefix_hit_tokens
            times[arm].append(_first_token(engine, (*beginning, *tokens(plan.prompt_tokens)), mix))
            hits = engine.stats.prefix_hit_tokens - before
            assert (hits > 0) is (arm == KEPT), (arm, hits)
        advance(f"measuring {name}")
    ratio = ratio_of_medians(times[FRESH], times[KEPT], plan.seed)
    return PrefixResult(name, tuple(times[FRESH]), tuple(times[KEPT]), ratio)


def _first_token(engine: Engine, prompt: tuple[int, ...], mix: Mix) -> float:
    began = time.perf_counter()
    (answer,) = complete(
        engine, [Request("r", prompt, Sampling(max_tokens=1, ignore_eos=True), mix)]
    ).values()
    assert answer[1].failure is None, answer[1].failure
    return time.perf_counter() - began


def _document(
    plan: PrefixPlan,
    base: BaseModel,
    machine: Machine,
    results: Sequence[PrefixResult],
    started: datetime,
) -> dict[str, Any]:
    return {
        "benchmark": "prefix",
        "backend": "lorikeet",
        "date": started.isoformat(timespec="seconds"),
        "model_id": base.name,
        "quantization": base.quantization.value,
        "device": str(base.device),
        "prefix_len": plan.prefix_tokens,
        "input_len": plan.prefix_tokens + plan.prompt_tokens,
        "adapter_rank": plan.rank,
        "repetitions": plan.repetitions,
        "seed": plan.seed,
        **asdict(machine),
        "results": [
            {
                "mix": each.mix,
                "median_fresh_ttft_ms": median(each.fresh_s) * 1e3,
                "median_kept_ttft_ms": median(each.kept_s) * 1e3,
                "samples_fresh_ttft_ms": [value * 1e3 for value in each.fresh_s],
                "samples_kept_ttft_ms": [value * 1e3 for value in each.kept_s],
                "ttft_ratio_fresh_to_kept": each.ratio.value,
                "ttft_ratio_fresh_to_kept_low": each.ratio.low,
                "ttft_ratio_fresh_to_kept_high": each.ratio.high,
            }
            for each in results
        ],
    }


def make_table(document: dict[str, Any]) -> Table:
    """One row a mix; fits eighty columns."""
    table = Table(
        title=f"{document['model_id']} as {document['quantization']}, threads: {document['threads']}",
        caption=(
            f"Medians of {document['repetitions']} interleaved repetitions, one request at a time, ratios with "
            f"95 % intervals; {document['prefix_len']} of {document['input_len']} prompt tokens are the same. "
            f"{document['cpu_model']}, torch {document['torch_version']}, commit {document['commit'] or 'unknown'}."
        ),
        caption_justify="left",
        caption_style="none",
    )
    for heading in ("mix", "TTFT fresh ms", "TTFT kept ms", "fresh / kept"):
        table.add_column(heading, justify="left" if heading == "mix" else "right", no_wrap=True)
    for row in document["results"]:
        low, high = row["ttft_ratio_fresh_to_kept_low"], row["ttft_ratio_fresh_to_kept_high"]
        table.add_row(
            row["mix"],
            f"{row['median_fresh_ttft_ms']:.2f}",
            f"{row['median_kept_ttft_ms']:.2f}",
            f"{row['ttft_ratio_fresh_to_kept']:.2f} [{low:.2f}, {high:.2f}]",
        )
    return table
