"""The long form for every proven family: two seeds, random mixes, lengths beyond windows and blocks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lorikeet_adapters.base_model import load_base
from lorikeet_server.engine.request import Request, Sampling
from lorikeet_server.engine.selftest import FP32_BOUND, self_test
from tests.architectures import ALL
from tests.server.engine.test_architectures import mix_of, oracle, save_world, serve
from tests.server.engine.test_exactness import make_engine, read_adapter
from tests.tiny import VOCABULARY, greedy

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
MIXES: list[dict[str, float]] = [{}, {"a": 1.0}, {"b": 1.0}, {"a": 0.6, "b": 0.4}, {"a": -0.7, "b": 1.1}]
REQUESTS = 15
# Together longer than the first block of columns, so that it is rolled, and one so long that it grows.
LENGTHS = [1, 6, 20, 45, 70]
LONGEST = 130


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", list(ALL))
def test_random_traffic_equals_the_oracle(name: str, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    folder, adapters = save_world(name, tmp_path, seed)
    oracles = [oracle(folder, adapters, mix) for mix in MIXES]
    requests, expected = [], {}
    for n in range(REQUESTS):
        kind = chance.randrange(len(MIXES))
        length = LONGEST if n == REQUESTS // 2 else chance.choice(LENGTHS)
        prompt, tokens = [chance.randrange(VOCABULARY) for _ in range(length)], chance.randrange(2, 60)
        expected[f"r{n}"] = greedy(oracles[kind], prompt, tokens)
        request = Request(f"r{n}", tuple(prompt), Sampling(max_tokens=tokens), mix_of(MIXES[kind]))
        requests.append((chance.randrange(12) + 15 * n, request))
    base = load_base(str(folder), "fp32")
    assert self_test(base).difference <= FP32_BOUND
    engine = make_engine(base, {each: read_adapter(path, base) for each, path in adapters.items()})
    assert serve(engine, requests) == expected
    engine.close()
