"""The arms of a comparison: an engine and the mix each row of a batch carries."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.mix import BASE_MIX, Mix, Term
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_bench.adapter import BenchAdapter, collect
from lorikeet_bench.merged import load_merged
from lorikeet_bench.plan import Plan, PlanRefused
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.roster import Vocabulary

BASE, ADAPTER, MERGED, BLEND, MIXED = "base", "adapter", "merged", "blend", "mixed"
BLEND_WEIGHTS = (0.7, 0.3)
# Text is not made: it would cost every arm the same and is not what is compared.
NO_TEXT = Vocabulary(decode=lambda ids: "", eos=frozenset())


@dataclass(frozen=True, slots=True)
class Arm:
    """Row i of a batch carries `mixes[i % len(mixes)]`."""

    name: str
    engine: Engine
    mixes: tuple[Mix, ...]

    def runs_at(self, batch: int) -> bool:
        """One row of several mixes would be another arm under a second name."""
        return len(self.mixes) == 1 or batch > 1

    def rows(self, batch: int) -> tuple[Mix, ...]:
        return tuple(self.mixes[row % len(self.mixes)] for row in range(batch))


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything a run holds while it measures. `vocabulary` is the number of token ids."""

    base: BaseModel
    merged: BaseModel
    adapters: tuple[BenchAdapter, ...]
    arms: tuple[Arm, ...]
    vocabulary: int


@contextmanager
def open_bench(plan: Plan) -> Iterator[Bench]:
    """Load base, adapters and merged copy, and build the arms; everything is given back at the end.

    All unmerged arms share one engine with every adapter resident, so `base` pays what a server's
    base request pays beside adapters it does not name. Raises RefusedError with one line of reason.
    """
    with tempfile.TemporaryDirectory(prefix="lorikeet-bench-") as folder:
        scratch = Path(folder)
        base = load_base(plan.model, plan.quantization.value)
        _check_length(plan, base)
        adapters = collect(plan, base, scratch)
        merged = load_merged(base, adapters[0].folder, scratch)
        held = {f"{index}-{adapter.name}": adapter.weights for index, adapter in enumerate(adapters)}
        engine, merged_engine = make_engine(base, held, plan), make_engine(merged, {}, plan)
        try:
            vocabulary = base.model.config.get_text_config().vocab_size
            yield Bench(base, merged, adapters, _arms(engine, merged_engine, list(held)), vocabulary)
        finally:
            engine.close()
            merged_engine.close()


def make_engine(base: BaseModel, adapters: Mapping[str, AdapterWeights], plan: Plan) -> Engine:
    """Room for every row and adapter at once: nothing waits, nothing is evicted, prompts take one step."""
    largest = max(plan.batches)
    config = EngineConfig(
        max_slots=largest,
        rank_rows=max(sum(weights.rank for weights in adapters.values()), 1),
        prefill_tokens=largest * plan.prompt_tokens,
        prefix_cache_bytes=0,  # every round has the same prompts, and each must be computed
    )
    return Engine(base, config, NO_TEXT, adapters.__getitem__)


def _arms(engine: Engine, merged_engine: Engine, names: Sequence[str]) -> tuple[Arm, ...]:
    alone = tuple(Mix.of([Term(name, 1.0)]) for name in names)
    blend = Mix.of(Term(name, weight) for name, weight in zip(names, BLEND_WEIGHTS, strict=False))
    return (
        Arm(BASE, engine, (BASE_MIX,)),
        Arm(ADAPTER, engine, alone[:1]),
        Arm(MERGED, merged_engine, (BASE_MIX,)),
        Arm(BLEND, engine, (blend,)),
        Arm(MIXED, engine, alone),
    )


def _check_length(plan: Plan, base: BaseModel) -> None:
    asked = plan.prompt_tokens + plan.tokens
    if asked > base.context_length:
        raise PlanRefused(
            f"--prompt-tokens and --tokens make {asked}, the context of `{base.name}` holds {base.context_length}"
        )
