"""Rows of very different lengths are computed in runs: the same tokens, fewer columns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AttentionInterface

from lorikeet_adapters.base_model import load_base
from lorikeet_server.engine import segments
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.offline import complete
from lorikeet_server.engine.request import Request, Sampling
from lorikeet_server.engine.roster import Vocabulary
from lorikeet_server.engine.segments import cut, segmented
from tests.tiny import greedy, make_model, save_model

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40), st.integers(0, 10_000))
def test_runs_cover_every_row_with_its_columns_and_cost_no_more_than_the_whole(
    widths: list[int], call_cost: int
) -> None:
    runs = cut(widths, call_cost)
    assert [row for run in runs for row in range(run.start, run.stop)] == list(range(len(widths)))
    for run in runs:
        assert run.width == max(widths[run.start : run.stop])
    cells = sum((run.stop - run.start) * run.width for run in runs)
    assert cells + (len(runs) - 1) * call_cost <= len(widths) * max(widths)


def test_one_long_row_stands_alone_and_alike_rows_together() -> None:
    runs = cut([60, 64, 70, 4096, 62, 61], 256)
    assert [(run.start, run.stop, run.width) for run in runs] == [(0, 3, 70), (3, 4, 4096), (4, 6, 62)]
    assert len(cut([60, 64, 70, 150], 256)) == 1


def test_nothing_is_cut_outside_of_a_step_and_for_prompts() -> None:
    attend = AttentionInterface()["sdpa"]
    module = torch.nn.Module()
    q, k, v = (torch.randn(3, 2, 4, 8) for _ in range(3))
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    with segmented([1, 4000, 4], CPU):
        assert torch.allclose(attend(module, q, k, v, None, is_causal=False)[0], whole)
    assert torch.allclose(attend(module, q, k, v, None, is_causal=False)[0], whole)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3", "gpt2", "bloom"])
def test_skewed_rows_say_what_generate_says(
    architecture: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sliding windows and several heads to a key are among them; bloom has an attention of its own."""
    monkeypatch.setattr(segments, "CPU_CALL_COST", 0)
    base = load_base(str(save_model(tmp_path_factory.mktemp("skew") / architecture, architecture)), "fp32")
    model = make_model(architecture)
    prompts = [[3, 5], [7] * 90, [1, 2, 3, 4] * 3, [9] * 2]
    engine = Engine(
        base, EngineConfig(max_slots=4), Vocabulary(str, frozenset()), lambda generation: pytest.fail("none")
    )
    requests = [Request(str(n), tuple(each), Sampling(max_tokens=12)) for n, each in enumerate(prompts)]
    answers = complete(engine, requests)
    for number, prompt in enumerate(prompts):
        assert [token.token_id for token in answers[str(number)][0]] == greedy(model, prompt, 12)
    engine.close()
