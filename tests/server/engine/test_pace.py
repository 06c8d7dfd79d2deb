"""Prompts take no longer of a step than those who decode in it are to wait."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_server.engine.batch import Batch, StepOutput
from lorikeet_server.engine.pace import LEAST, Pace
from tests.server.engine.test_engine import World, request
from tests.tiny import save_model


@given(st.integers(1, 4096), st.lists(st.tuples(st.integers(0, 4096), st.floats(1e-6, 100)), max_size=20))
def test_it_stays_within_its_bounds_whatever_steps_took(
    most: int, steps: Sequence[tuple[int, float]]
) -> None:
    pace, unbounded = Pace(most, 0.25), Pace(most, 0.0)
    for tokens, seconds in steps:
        pace.note(tokens, seconds)
        unbounded.note(tokens, seconds)
        assert min(LEAST, most) <= pace.tokens <= most
        assert unbounded.tokens == most


def test_it_finds_the_tokens_that_the_time_allows() -> None:
    pace = Pace(1000, 0.25)
    assert pace.tokens == 1000, "nothing is known yet"
    pace.note(100, 0.2)
    assert pace.tokens == 125
    pace.note(LEAST - 1, 60.0)
    assert pace.tokens == 125, "few tokens say nothing of what many take"
    for _ in range(40):
        pace.note(100, 0.1)
    assert pace.tokens == pytest.approx(250, abs=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("pace") / "base", "llama")


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseModel:
    return load_base(str(folder), "fp32")


def steps_of(world: World) -> list[tuple[int, int]]:
    """What each step computes, (decoded, of prompts), where every token of a prompt takes ten milliseconds."""
    seen: list[tuple[int, int]] = []
    execute = world.engine.runner.execute

    def slow(batch: Batch) -> StepOutput:
        output = execute(batch)
        tokens = sum(len(chunk.tokens) for chunk in output.prefilled)
        seen.append((len(batch.decode), tokens))
        return StepOutput(output.sampled, output.prefilled, prefill_seconds=tokens * 0.01)

    world.engine.runner.execute = slow  # type: ignore[method-assign]  # time is what the test says it is
    return seen


@pytest.mark.parametrize(("milliseconds", "beside"), [(500, 50), (0, 120), (1, LEAST)])
def test_a_prompt_beside_others_is_cut_to_the_time_it_may_take(
    base: BaseModel, folder: Path, milliseconds: int, beside: int
) -> None:
    config = {"prefill_tokens": 121, "prefill_ms": milliseconds, "prefix_cache_bytes": 0}
    world = World(base, folder, {}, **config)
    seen = steps_of(world)
    world.engine.submit(request("runs", prompt=100, tokens=100))
    while not any(decoded for decoded, _ in seen):
        world.engine.step()
    assert seen[0] == (0, 100), "alone it takes what a step may hold"
    world.run(request("comes", prompt=180, tokens=2))
    chunks = [tokens for decoded, tokens in seen if decoded and tokens]
    assert chunks[:-1] == [beside] * (180 // beside)
    assert sum(chunks) == 180
    world.engine.close()
