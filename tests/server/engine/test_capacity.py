"""The KV cache's bound: what is planned is what is held, and what does not fit is refused with the numbers."""

from __future__ import annotations

import logging

import pytest

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.errors import BaseModelRefused
from lorikeet_server.engine.capacity import column_bytes, columns_for, plan_capacity
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine, Vocabulary
from lorikeet_server.engine.request import Finished, Request, Sampling
from tests.tiny import save_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(save_model(tmp_path_factory.mktemp("capacity") / "base", "llama")), "fp32")


def test_a_token_takes_keys_and_values_of_every_layer(base: BaseModel) -> None:
    layers, heads, size, fp32 = 2, 2, 16, 4
    assert column_bytes(base) == layers * 2 * heads * size * fp32


@pytest.mark.parametrize("megabytes", [1, 2, 5, 10, 1000])
def test_the_cache_never_holds_more_than_was_planned(base: BaseModel, megabytes: int) -> None:
    config = EngineConfig(max_slots=3, cache_bytes=megabytes * 1_000_000)
    capacity = plan_capacity(base, config)
    assert capacity.columns * column_bytes(base) * 5 <= config.cache_bytes
    if capacity.max_model_len < base.context_length:
        longer = columns_for(capacity.max_model_len + 2)
        assert longer * column_bytes(base) * 5 > config.cache_bytes, "as long as fits"


def test_the_longest_sequences_fit_in_what_was_planned(base: BaseModel) -> None:
    config = EngineConfig(max_slots=2, cache_bytes=column_bytes(base) * 4 * columns_for(200))
    engine = Engine(base, config, Vocabulary(str, frozenset()), lambda generation: pytest.fail(generation))
    assert engine.max_model_len == 200
    requests = [Request(str(each), (1,) * each, Sampling(max_tokens=10_000)) for each in (2, 150, 199)]
    for request in requests:
        engine.submit(request)
    lengths: dict[str, int] = {}
    while len(lengths) < len(requests):
        endings = [event for event in engine.step() if isinstance(event, Finished)]
        lengths |= {each.request_id: each.completion_tokens for each in endings}
        assert engine.runner.cache_bytes <= config.cache_bytes
    assert lengths == {"2": 198, "150": 50, "199": 1}
    engine.close()


def test_a_context_that_is_cut_is_said(base: BaseModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        plan_capacity(base, EngineConfig(max_slots=3, cache_bytes=2_000_000))
    assert "the base was made for 2048" in caplog.text


@pytest.mark.parametrize(
    "config", [EngineConfig(max_model_len=500, cache_bytes=10_000), EngineConfig(cache_bytes=99)]
)
def test_what_does_not_fit_is_refused_with_the_numbers(base: BaseModel, config: EngineConfig) -> None:
    with pytest.raises(
        BaseModelRefused,
        match=rf"16 slots of \d+ tokens need [\d,]+ bytes .* there are {config.cache_bytes:,}",
    ):
        plan_capacity(base, config)
