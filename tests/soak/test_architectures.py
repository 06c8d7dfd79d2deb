"""The long form for every proven family: two seeds, random mixes, lengths beyond windows and blocks."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from lorikeet_adapters.base_model import load_base
from lorikeet_server.engine import segments
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
TIE = 1e-5  # of the logits' standard deviation; fp32 rounds to about a tenth of it here


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", list(ALL))
def test_random_traffic_equals_the_oracle(
    name: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "CPU_CALL_COST", 32)  # that rows are cut into runs now and then
    chance = random.Random(seed)
    folder, adapters = save_world(name, tmp_path, seed)
    oracles = [oracle(folder, adapters, mix) for mix in MIXES]
    stem = [chance.randrange(VOCABULARY) for _ in range(LONGEST)]  # kept prompts are begun from, too
    requests, expected, asked = [], {}, {}
    for n in range(REQUESTS):
        kind = chance.randrange(len(MIXES))
        length = LONGEST if n == REQUESTS // 2 else chance.choice(LENGTHS)
        own = chance.randrange(length + 1)
        prompt = stem[: length - own] + [chance.randrange(VOCABULARY) for _ in range(own)]
        tokens = chance.randrange(2, 60)
        expected[f"r{n}"] = greedy(oracles[kind], prompt, tokens)
        asked[f"r{n}"] = (oracles[kind], prompt)
        request = Request(f"r{n}", tuple(prompt), Sampling(max_tokens=tokens), mix_of(MIXES[kind]))
        requests.append((chance.randrange(12) + 15 * n, request))
    base = load_base(str(folder), "fp32")
    assert self_test(base).difference <= FP32_BOUND
    engine = make_engine(base, {each: read_adapter(path, base) for each, path in adapters.items()})
    tokens_of = serve(engine, requests)
    engine.close()
    wrong = {row: said for row, said in tokens_of.items() if said != expected[row]}
    assert len(wrong) <= 1, wrong
    for row, said in wrong.items():
        assert_tie(*asked[row], expected[row], said)


@torch.no_grad()
def assert_tie(model: Any, prompt: list[int], expected: list[int], said: list[int]) -> None:
    """Where they part, the oracle itself holds both tokens for the same up to rounding."""
    same = next(index for index, both in enumerate(zip(expected, said, strict=True)) if both[0] != both[1])
    logits = model(input_ids=torch.tensor([prompt + expected[:same]])).logits[0, -1]
    gap = (logits[expected[same]] - logits[said[same]]).abs()
    assert gap <= TIE * logits.std(), f"{said} after {same} tokens, not {expected}"
