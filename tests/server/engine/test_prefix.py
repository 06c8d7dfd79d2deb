"""Kept prompts: computed once per mix, never found under another mix or tenant, and exact."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.offline import complete
from lorikeet_server.engine.prefix_index import BLOCK, PrefixIndex, block_keys
from lorikeet_server.engine.request import Request, Sampling
from lorikeet_server.engine.roster import Vocabulary
from tests.server.engine.simulation import WIDE, make_world, request
from tests.server.engine.test_exactness import read_adapter
from tests.tiny import blended_model, greedy, make_model, save_adapter, save_model

SYSTEM = tuple(range(3, 3 + 4 * BLOCK))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("prefix") / "base", "llama")


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Path:
    return save_adapter(folder, folder.parent / "adapter", rank=4, seed=1)


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseModel:
    return load_base(str(folder), "fp32")


def prompt_of(length: int, mix: Mix = Mix(), tenant: str = "", tail: int = 0) -> Request:  # noqa: B008  # frozen
    return Request("r", (*range(length), tail), Sampling(max_tokens=1), mix, tenant)


@pytest.mark.safety("security 12")
def test_keys_depend_on_all_that_keys_and_values_depend_on() -> None:
    plain = block_keys(prompt_of(3 * BLOCK))
    assert len(plain) == 3
    assert block_keys(prompt_of(3 * BLOCK, tail=9)) == plain, "the last token is in no whole block"
    assert block_keys(prompt_of(2 * BLOCK)) == plain[:2]
    others = [
        prompt_of(3 * BLOCK, Mix.of([Term("a", 1.0)])),
        prompt_of(3 * BLOCK, Mix.of([Term("a", 0.5)])),
        prompt_of(3 * BLOCK, tenant="acme"),
        Request("r", (99, *range(1, 3 * BLOCK), 0), Sampling(max_tokens=1)),
    ]
    seen = [plain, *map(block_keys, others)]
    assert len({key for keys in seen for key in keys}) == 3 * len(seen)


def test_a_whole_prompt_is_never_taken_from_what_is_kept() -> None:
    """Its last token must be computed, else there are no logits to draw from."""
    exact = Request("r", tuple(range(2 * BLOCK)), Sampling(max_tokens=1))
    assert len(block_keys(exact)) == 1


@given(budget=st.integers(1, 6), asked=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), max_size=30))
def test_the_index_stays_within_its_budget_and_finds_only_what_was_added(
    budget: int, asked: list[tuple[int, int]]
) -> None:
    index, held = PrefixIndex(budget), set[bytes]()
    for which, length in asked:
        chain = [bytes([which, place]) for place in range(length)]
        found = index.match(chain)
        assert set(found) <= held
        assert list(found) == chain[: len(found)]
        index.settle()
        new, given_up = index.reserve([key for key in chain if key not in index])
        held -= set(given_up)
        index.add(chain, new, ())
        held |= set(new)
        assert len(index) == len(held) <= budget


def test_a_shared_beginning_is_computed_once_whoever_comes_together() -> None:
    world = make_world(geometry=WIDE, blocks=100, max_slots=8, prefill_tokens=24)
    for name in "xyz":
        world.add(request(name, prompt=4 * BLOCK + 1))
    while not world.scheduler.idle:
        world.step()
    assert world.computed == 4 * BLOCK + 1 + 1 + 1


@pytest.mark.safety("security 12")
def test_what_is_retired_is_forgotten() -> None:
    world = make_world(geometry=WIDE, blocks=100)
    world.add(request("first", "a", prompt=40, tokens=1))
    world.add(request("base", prompt=40, tokens=1))
    while not world.scheduler.idle or world.loading:
        world.load_all()
        world.step()
    assert len(world.blocks) == 4
    world.scheduler.retire("a")
    world.step()
    assert len(world.blocks) == 2


def test_kept_prompts_change_no_token(base: BaseModel, folder: Path, adapter: Path) -> None:
    weights = read_adapter(adapter, base)
    engine = make_engine(base, weights)
    mixes = {"base": {}, "one": {adapter: 1.0}, "half": {adapter: 0.5}}
    requests = [
        Request(
            f"{name}{number}",
            (*SYSTEM, 7, number),
            Sampling(max_tokens=6),
            Mix.of(Term("x", weight) for weight in mix.values()),
        )
        for number in range(3)
        for name, mix in mixes.items()
    ]
    answers = complete(engine, requests)
    later = complete(engine, requests[:3])
    asked, hits = engine.stats.prompt_tokens, engine.stats.prefix_hit_tokens
    assert asked == 12 * len(requests[0].prompt)
    assert hits == (12 - 3) * len(SYSTEM), "each mix has computed the shared beginning once"
    for each in requests:
        mix = mixes[each.id[:-1]]
        oracle = blended_model(folder, mix) if mix else make_model("llama")
        expected = greedy(oracle, list(each.prompt), 6)
        assert [token.token_id for token in answers[each.id][0]] == expected
        if each.id in later:
            assert [token.token_id for token in later[each.id][0]] == expected
    engine.close()


def make_engine(base: BaseModel, weights: AdapterWeights) -> Engine:
    config = EngineConfig(max_slots=4, prefill_tokens=50)
    return Engine(base, config, Vocabulary(str, frozenset()), lambda generation: weights)
