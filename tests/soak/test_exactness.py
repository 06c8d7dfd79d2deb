"""The long form of the hard gate: random mixes, lengths and arrivals, every row against its own oracle."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.mix import Mix, Term
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.request import Request, Sampling, Token
from tests.server.engine.test_exactness import make_engine, read_adapter
from tests.tiny import CONFIGS, VOCABULARY, blended_model, greedy, save_adapter, save_model

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
RANKS = {"a": 4, "b": 16, "c": 7, "d": 32}
REQUESTS = 24


def draw_mix(chance: random.Random) -> dict[str, float]:
    names = chance.sample(list(RANKS), chance.choice([0, 1, 1, 2, 3]))
    return {name: round(chance.uniform(-0.8, 1.2), 3) for name in names}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_random_traffic_equals_the_oracle(architecture: str, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    folder = save_model(tmp_path / "base", architecture, seed)
    paths = {name: save_adapter(folder, tmp_path / name, rank, seed=rank) for name, rank in RANKS.items()}
    base = load_base(str(folder), "fp32")
    engine = make_engine(base, {name: read_adapter(path, base) for name, path in paths.items()})
    pending, expected = [], {}
    for n in range(REQUESTS):
        mix, tokens = draw_mix(chance), chance.randrange(1, 30)
        prompt = [chance.randrange(VOCABULARY) for _ in range(chance.choice([1, 5, 20, 70]))]
        oracle = blended_model(folder, {paths[name]: weight for name, weight in mix.items()})
        expected[f"r{n}"] = greedy(oracle, prompt, tokens)
        terms = [Term(name, weight) for name, weight in mix.items()]
        pending.append(Request(f"r{n}", tuple(prompt), Sampling(max_tokens=tokens), Mix.of(terms)))
    assert serve(engine, pending, chance) == expected
    engine.close()


def serve(engine: Engine, pending: list[Request], chance: random.Random) -> dict[str, list[int]]:
    tokens: dict[str, list[int]] = {request.id: [] for request in pending}
    running = 0
    while pending or running:
        if pending and (not running or chance.random() < 0.4):
            engine.submit(pending.pop(0))
            running += 1
        for event in engine.step():
            if isinstance(event, Token):
                tokens[event.request_id].append(event.token_id)
            else:
                assert event.failure is None, event
                running -= 1
    return tokens
