"""The hard gate: in one batch of everything, every row has exactly the tokens PEFT or generate() gives it alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.spec import parse_spec
from lorikeet_adapters.weights import AdapterWeights, ModuleRows, load_weights
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.request import Request, Sampling, Token
from lorikeet_server.engine.roster import Vocabulary
from tests.kernels import ON_CPU
from tests.tiny import CONFIGS, blended_model, greedy, peft_model, save_adapter, save_model

RANKS = {"triage": 4, "extract": 16, "formal": 8, "friendly": 3}
MIXES: dict[str, dict[str, float]] = {
    "triage": {"triage": 1.0},
    "extract": {"extract": 1.0},
    "base": {},
    "blend": {"formal": 0.7, "friendly": 0.3},
    "negative": {"formal": -0.4, "triage": 1.0},
}
PROMPTS = {
    "triage": [1, 5, 9, 20, 33, 47],
    "extract": [2, 7],
    "base": [3, 8, 100, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    "blend": [9, 14] * 20,
    "negative": [77] * 5,
}
LENGTHS = {"triage": 18, "extract": 6, "base": 24, "blend": 12, "negative": 20}
ARRIVALS = {"triage": 0, "extract": 0, "base": 3, "blend": 5, "negative": 9}


def read_adapter(folder: Path, base: BaseModel) -> AdapterWeights:
    spec = parse_spec((folder / "adapter_config.json").read_bytes())
    weights = folder / "adapter_model.safetensors"
    return load_weights(weights, spec, base.outline, base.compute_dtype)


def make_engine(base: BaseModel, adapters: dict[str, AdapterWeights], kernel: str = "torch") -> Engine:
    vocabulary = Vocabulary(decode=lambda ids: " ".join(map(str, ids)), eos=frozenset())
    # Chunks of seven tokens: prompts are computed across several steps, beside decoding rows.
    config = EngineConfig(max_slots=4, prefill_tokens=7, kernel=kernel)
    return Engine(base, config, vocabulary, adapters.__getitem__)


def serve(engine: Engine, names: list[str]) -> dict[str, list[int]]:
    """Run the mixes above with staggered arrivals; requests join and leave in mid-flight."""
    tokens: dict[str, list[int]] = {name: [] for name in names}
    waiting = sorted(names, key=ARRIVALS.__getitem__)
    open_requests, step = set(names), 0
    while open_requests:
        while waiting and ARRIVALS[waiting[0]] <= step:
            name = waiting.pop(0)
            mix = Mix.of(Term(adapter, weight) for adapter, weight in MIXES[name].items())
            engine.submit(Request(name, tuple(PROMPTS[name]), Sampling(max_tokens=LENGTHS[name]), mix))
        for event in engine.step():
            if isinstance(event, Token):
                tokens[event.request_id].append(event.token_id)
            else:
                assert event.failure is None, event
                open_requests.discard(event.request_id)
        step += 1
    return tokens


@pytest.fixture(scope="module", params=list(CONFIGS))
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Path]]:
    folder = tmp_path_factory.mktemp(request.param)
    base = save_model(folder / "base", request.param, seed=1)
    adapters = {
        name: save_adapter(base, folder / name, rank, seed=seed)
        for seed, (name, rank) in enumerate(RANKS.items())
    }
    return base, adapters


@pytest.fixture(scope="module")
def expected(world: tuple[Path, dict[str, Path]]) -> dict[str, list[int]]:
    """What PEFT says with one adapter, and generate() of the base with the weighted sum of PEFT's own deltas."""
    folder, adapters = world
    found = {
        "triage": greedy(peft_model(folder, adapters["triage"]), PROMPTS["triage"], LENGTHS["triage"]),
        "extract": greedy(peft_model(folder, adapters["extract"]), PROMPTS["extract"], LENGTHS["extract"]),
    }
    for name in ("base", "blend", "negative"):
        oracle = blended_model(folder, {adapters[each]: weight for each, weight in MIXES[name].items()})
        found[name] = greedy(oracle, PROMPTS[name], LENGTHS[name])
    assert len({token for tokens in found.values() for token in tokens}) > 10, "the oracle's tokens must vary"
    return found


@pytest.mark.parametrize("kernel", ON_CPU)
def test_every_row_of_a_mixed_batch_equals_the_oracle(
    world: tuple[Path, dict[str, Path]], expected: dict[str, list[int]], kernel: str
) -> None:
    folder, adapters = world
    base = load_base(str(folder), "fp32")
    engine = make_engine(base, {name: read_adapter(path, base) for name, path in adapters.items()}, kernel)
    assert serve(engine, list(MIXES)) == expected
    engine.close()


def test_an_adapter_of_huge_weights_leaves_every_other_row_bit_equal(
    world: tuple[Path, dict[str, Path]],
) -> None:
    folder, adapters = world
    base = load_base(str(folder), "fp32")
    weights = {name: read_adapter(path, base) for name, path in adapters.items()}
    huge = AdapterWeights(
        {
            name: ModuleRows(torch.full_like(rows.a, 3e38), torch.full_like(rows.b, 3e38))
            for name, rows in weights["extract"].modules.items()
        }
    )
    clean = logits_of_neighbours(base, weights)
    beside_huge = logits_of_neighbours(base, {**weights, "extract": huge})
    # An expert multiplies the tokens of several rows at once; where one row's go changes the others' low bits.
    rounding = 1e-5 if base.model.config.model_type == "mixtral" else 0.0
    for name, expected in clean.items():
        same = torch.allclose(beside_huge[name], expected, rtol=0.0, atol=rounding)
        assert same is (name != "extract"), name


def test_a_row_in_a_mixed_batch_has_the_logits_of_the_row_alone(
    world: tuple[Path, dict[str, Path]],
) -> None:
    folder, adapters = world
    base = load_base(str(folder), "fp32")
    weights = {name: read_adapter(path, base) for name, path in adapters.items()}
    for name, together in logits_of_neighbours(base, weights).items():
        (alone,) = logits_of_neighbours(base, weights, (name,)).values()
        assert (together - alone).abs().max() <= 1e-4 * alone.std(), name


def logits_of_neighbours(
    base: BaseModel,
    adapters: dict[str, AdapterWeights],
    names: tuple[str, ...] = ("base", "triage", "extract", "blend"),
) -> dict[str, torch.Tensor]:
    """Logits of one decode step in which each of these mixes has a row."""
    from lorikeet_server.engine.batch import Batch, DecodeRow, PrefillChunk

    engine = make_engine(base, adapters)
    runner = engine.runner
    for name, each in adapters.items():
        runner.hold(name, each)
    runner.move(Batch(insert=tuple(adapters)))
    requests = []
    for name in names:
        mix = Mix.of(Term(adapter, weight) for adapter, weight in MIXES[name].items())
        requests.append(Request(name, tuple(PROMPTS[name]), Sampling(max_tokens=4), mix))
        runner.prefill(PrefillChunk(requests[-1], 0, tuple(PROMPTS[name])))
    logits = runner.decode([DecodeRow(request, 5, 0) for request in requests])
    engine.close()
    return {request.id: row.clone() for request, row in zip(requests, logits, strict=True)}
