"""The KV cache's bound: what is planned is what is held, and what does not fit is refused with the numbers."""

from __future__ import annotations

import logging

import pytest
import torch

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.errors import BaseModelRefused
from lorikeet_adapters.rank_rows.rows import RankRows
from lorikeet_adapters.weights import AdapterWeights, ModuleRows
from lorikeet_server.engine.capacity import CPU_SHARE, column_bytes, plan_capacity
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.geometry import columns_for
from lorikeet_server.engine.prefix_index import BLOCK
from lorikeet_server.engine.request import Finished, Request, Sampling
from lorikeet_server.engine.roster import Vocabulary
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
    geometry = capacity.geometry
    held = (geometry.cells + geometry.prompt_cells) * column_bytes(base)
    assert held + capacity.prefix_blocks * capacity.block_bytes <= config.cache_bytes
    assert geometry.fits(1, geometry.longest)
    assert geometry.prompt_cells >= geometry.longest
    if capacity.max_model_len < base.context_length:
        longer = capacity.max_model_len + 2
        needed = (longer + columns_for(longer)) * column_bytes(base)
        assert needed > config.cache_bytes * 3 // 4, "as long as fits"


def test_the_longest_sequences_fit_in_what_was_planned(base: BaseModel) -> None:
    cells = 200 + columns_for(200)
    config = EngineConfig(max_slots=2, cache_bytes=column_bytes(base) * cells, prefix_cache_bytes=0)
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


def test_memory_for_the_rank_rows_is_left_to_them(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = RankRows(base, 64)
    shapes = {**base.outline.linears, **base.outline.embeddings}
    full = {
        name: ModuleRows(torch.zeros(64, each.in_features), torch.zeros(64, each.out_features))
        for name, each in shapes.items()
    }
    rows.insert("full", AdapterWeights(full))
    free = 3 * rows.bytes
    monkeypatch.setattr("lorikeet_server.engine.capacity.free_memory", lambda: free)
    capacity = plan_capacity(base, EngineConfig(max_slots=3, rank_rows=64))
    geometry = capacity.geometry
    cells = geometry.cells + geometry.prompt_cells + capacity.prefix_blocks * BLOCK
    most = (free - rows.bytes) * CPU_SHARE
    assert most * 0.95 < cells * capacity.column_bytes <= most
    with pytest.raises(BaseModelRefused, match=r"there are 0: .* lower --rank-rows"):
        plan_capacity(base, EngineConfig(max_slots=3, rank_rows=3 * 64))
    rows.detach()


def test_a_context_that_is_cut_is_said(base: BaseModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        plan_capacity(base, EngineConfig(max_slots=3, cache_bytes=1_000_000))
    assert "the base was made for 2048" in caplog.text


@pytest.mark.parametrize(
    "config", [EngineConfig(max_model_len=500, cache_bytes=10_000), EngineConfig(cache_bytes=100)]
)
def test_what_does_not_fit_is_refused_with_the_numbers(base: BaseModel, config: EngineConfig) -> None:
    with pytest.raises(
        BaseModelRefused,
        match=rf"a sequence of \d+ tokens needs [\d,]+ bytes .* there are {config.cache_bytes * 3 // 4:,}",
    ):
        plan_capacity(base, config)


def test_a_model_without_a_cache_is_refused(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = type(base.model).forward

    def forgetful(self: object, input_ids: object, past_key_values: object) -> object:
        return forward(self, input_ids=input_ids, use_cache=False)

    monkeypatch.setattr(type(base.model), "forward", forgetful)
    with pytest.raises(BaseModelRefused, match="a llama model keeps no cache of keys and values"):
        column_bytes(base)
