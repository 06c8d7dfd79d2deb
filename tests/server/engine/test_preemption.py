"""When running requests outgrow the cache: the newest gives way, the oldest goes on, and no token changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_server.engine.capacity import column_bytes
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.geometry import Geometry, columns_for
from lorikeet_server.engine.offline import complete
from lorikeet_server.engine.request import FinishReason, Request, Sampling
from lorikeet_server.engine.roster import Vocabulary
from tests.server.engine.simulation import make_world, request
from tests.tiny import greedy, make_model, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("preemption") / "base", "llama")


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseModel:
    return load_base(str(folder), "fp32")


def test_the_newest_gives_way_and_the_oldest_goes_on() -> None:
    room = Geometry(2, longest=600, cells=2 * columns_for(300), prompt_cells=600)
    world = make_world(geometry=room, prefill_tokens=600)
    world.add(request("old", prompt=200, tokens=390))
    world.add(request("new", prompt=150, tokens=390))
    order: list[str] = []
    world.on_token = order.append
    while not world.scheduler.idle:
        world.step()
    assert world.scheduler.preemptions == 1
    assert len(order) == 780
    last_of_old = len(order) - 1 - order[::-1].index("old")
    between = order[order.index("new") : last_of_old]
    assert between.count("old") > between.count("new"), "the older was never held up by the newer"
    assert world.computed == 350 + 150, "the prompt was computed once more"


def test_prompts_under_way_stay_within_their_own_cells() -> None:
    room = Geometry(3, longest=100, cells=10**6, prompt_cells=150)
    world = make_world(geometry=room, prefill_tokens=30)
    for name in "xyz":
        world.add(request(name, prompt=80, tokens=2, tenant=name))
    while not world.scheduler.idle:
        world.step()
        assert len(world.prompts) <= 1
    assert set(map(len, world.tokens.values())) == {2}


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_a_preempted_request_says_what_it_would_have_said(base: BaseModel, temperature: float) -> None:
    sampling = Sampling(max_tokens=150, temperature=temperature, seed=5)
    requests = [Request(str(each), tuple(range(1, 3 + each)), sampling) for each in range(3)]
    roomy = run(base, requests, cells=100_000)
    tight = run(base, requests, cells=400 + columns_for(400))
    assert roomy.preemptions == 0
    assert tight.preemptions > 0
    assert tight.tokens == roomy.tokens
    if not temperature:
        model = make_model("llama")
        assert tight.tokens == [greedy(model, list(each.prompt), 150) for each in requests]


class Run:
    def __init__(self, preemptions: int, tokens: list[list[int]]) -> None:
        self.preemptions = preemptions
        self.tokens = tokens


def run(base: BaseModel, requests: list[Request], cells: int) -> Run:
    config = EngineConfig(
        max_slots=3, max_model_len=400, cache_bytes=cells * column_bytes(base), prefix_cache_bytes=0
    )
    engine = Engine(base, config, Vocabulary(str, frozenset()), lambda generation: pytest.fail(generation))
    answers = complete(engine, requests)
    assert all(ended.reason is FinishReason.LENGTH for _, ended in answers.values())
    tokens = [[token.token_id for token in answers[each.id][0]] for each in requests]
    indices = [[token.index for token in answers[each.id][0]] for each in requests]
    assert indices == [list(range(len(each))) for each in tokens]
    found = Run(engine.stats.preemptions, tokens)
    assert engine.runner.cache_bytes <= config.cache_bytes
    engine.close()
    return found
