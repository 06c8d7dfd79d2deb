"""The arms of a comparison. Ours are an engine and the mix each row of a batch carries."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.mix import BASE_MIX, Mix, Term
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_bench.adapter import AdapterSet, collect
from lorikeet_bench.label import ADAPTER, BASE, BLEND, MERGED, MERGED_16, MIXED, Label
from lorikeet_bench.merged import CannotMerge, hold_merged, write_merged
from lorikeet_bench.peers import open_peers
from lorikeet_bench.plan import Plan, PlanRefused
from lorikeet_bench.timed import Prompts, Timed
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.offline import complete
from lorikeet_server.engine.request import Finished, Request, Sampling
from lorikeet_server.engine.roster import Vocabulary

BLEND_WEIGHTS = (0.7, 0.3)
HELD_SMALLER = (Quantization.NF4, Quantization.INT8)
# Text is not made: it would cost every arm the same and is not what is compared.
NO_TEXT = Vocabulary(decode=lambda ids: "", eos=frozenset())


class Arm(Protocol):
    """One thing that is measured."""

    @property
    def label(self) -> Label: ...

    @property
    def distinct(self) -> int:
        """Rows a batch must have for the arm to be what its label says."""

    def run(self, prompts: Prompts, tokens: int) -> Timed:
        """Complete one batch, greedy, `tokens` tokens a row whatever they are."""


@dataclass(frozen=True, slots=True)
class EngineArm:
    """Row i of a batch carries `mixes[i % len(mixes)]`."""

    label: Label
    engine: Engine
    mixes: tuple[Mix, ...]

    @property
    def distinct(self) -> int:
        return len(self.mixes)

    def rows(self, batch: int) -> tuple[Mix, ...]:
        return tuple(self.mixes[row % len(self.mixes)] for row in range(batch))

    def run(self, prompts: Prompts, tokens: int) -> Timed:
        sampling = Sampling(max_tokens=tokens, ignore_eos=True)
        requests = [
            Request(str(row), prompt, sampling, mix)
            for row, (prompt, mix) in enumerate(zip(prompts, self.rows(len(prompts)), strict=True))
        ]
        started = time.perf_counter()
        answers = complete(self.engine, requests)
        duration = time.perf_counter() - started
        endings = [self._complete(ending, tokens) for _, ending in answers.values()]
        first = [_seconds(ending.timing.first_token) for ending in endings]
        last = [ending.timing.total for ending in endings]
        ids = tuple(tuple(token.token_id for token in row) for row, _ in answers.values())
        return Timed.of(first, last, duration, ids)

    def _complete(self, ending: Finished, tokens: int) -> Finished:
        if ending.failure is not None:
            raise PlanRefused(f"the arm {self.label} cannot be measured: {ending.failure.message}")
        assert ending.completion_tokens == tokens, (self.label, ending)
        return ending


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything a run holds while it measures. `vocabulary` is the number of token ids."""

    base: BaseModel
    merged: BaseModel | None  # None where the adapter has no merged form
    sets: tuple[AdapterSet, ...]
    held: Mapping[str, AdapterWeights]  # what the mixes of our arms name
    arms: tuple[Arm, ...]
    left_out: tuple[str, ...]  # arms that these adapters do not allow, each with its reason
    vocabulary: int
    kernel: str  # that our arms run on


@contextmanager
def open_bench(plan: Plan) -> Iterator[Bench]:
    """Load base, adapters and merged copies, and build the arms; everything is given back at the end.

    All unmerged arms share one engine with every adapter resident, so `base` pays what a server's
    base request pays beside adapters it does not name. Raises RefusedError with one line of reason.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorikeet-bench-")))
        base = load_base(plan.model, plan.quantization.value)
        _check_length(plan, base)
        sets, left_out = collect(plan, base, scratch), list[str]()
        held = {
            name: adapter.weights
            for each in sets
            for name, adapter in zip(_names(each), each.adapters, strict=True)
        }
        engine = stack.enter_context(closing(make_engine(base, held, plan)))
        arms: list[Arm] = [EngineArm(Label(BASE), engine, (BASE_MIX,))]
        folder = _merge(base, sets[0].adapters[0].folder, scratch, left_out)
        copies = {} if folder is None else dict(_merged_copies(base, folder))
        for label, copy in copies.items():
            arms.append(
                EngineArm(label, stack.enter_context(closing(make_engine(copy, {}, plan))), (BASE_MIX,))
            )
        arms += [arm for each in sets for arm in _set_arms(engine, each, plan, left_out)]
        if plan.peers:
            arms += open_peers(plan, base, sets, folder, left_out)
        vocabulary = base.model.config.get_text_config().vocab_size
        merged, kernel = copies.get(Label(MERGED)), engine.runner.rank_rows.kernel
        yield Bench(base, merged, sets, held, tuple(arms), tuple(left_out), vocabulary, kernel)


def _merge(base: BaseModel, adapter: Path, scratch: Path, left_out: list[str]) -> Path | None:
    try:
        return write_merged(base, adapter, scratch)
    except CannotMerge as error:
        left_out.append(f"what runs on merged weights is left out: {error}")
        return None


def _merged_copies(base: BaseModel, folder: Path) -> Iterator[tuple[Label, BaseModel]]:
    yield Label(MERGED), hold_merged(base, folder, base.quantization)
    if base.quantization in HELD_SMALLER:
        yield Label(MERGED_16), hold_merged(base, folder, Quantization.BF16)


def make_engine(base: BaseModel, adapters: Mapping[str, AdapterWeights], plan: Plan) -> Engine:
    """Room for every row and adapter at once: nothing waits, nothing is evicted, prompts take one step."""
    largest = max(plan.batches)
    config = EngineConfig(
        max_slots=largest,
        rank_rows=max(sum(weights.rank for weights in adapters.values()), 1),
        prefill_tokens=largest * plan.prompt_tokens,
        prefix_cache_bytes=0,  # every round has the same prompts, and each must be computed
        kernel=plan.kernel,
    )
    return Engine(base, config, NO_TEXT, adapters.__getitem__)


def _set_arms(engine: Engine, adapters: AdapterSet, plan: Plan, left_out: list[str]) -> Iterator[Arm]:
    names, ranks = _names(adapters), tuple(each.weights.rank for each in adapters.adapters)
    alone = tuple(Mix.of([Term(name, 1.0)]) for name in names)
    yield EngineArm(Label(ADAPTER, ranks[:1]), engine, alone[:1])
    label = Label(BLEND, ranks[:2])
    if dora := [each.name for each in adapters.adapters[:2] if each.weights.is_dora]:
        left_out.append(f"{label} is left out: {dora[0]} is a DoRA, which is applied alone")
    else:
        blend = Mix.of(Term(name, weight) for name, weight in zip(names, BLEND_WEIGHTS, strict=False))
        yield EngineArm(label, engine, (blend,))
    for count in sorted(plan.adapters):
        if count > 1:
            yield EngineArm(Label(MIXED, ranks[:count]), engine, alone[:count])


def _names(adapters: AdapterSet) -> list[str]:
    return [f"{adapters.rank}/{place}" for place in range(len(adapters.adapters))]


def _check_length(plan: Plan, base: BaseModel) -> None:
    asked = plan.prompt_tokens + plan.tokens
    if asked > base.context_length:
        raise PlanRefused(
            f"--prompt-tokens and --tokens make {asked}, the context of `{base.name}` holds {base.context_length}"
        )


def _seconds(value: float | None) -> float:
    assert value is not None, "a request that ended by length has a first token"
    return value
