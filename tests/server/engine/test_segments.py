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


MASKS = {
    "none": None,
    "bool": torch.arange(9) >= torch.tensor([[[[0]]], [[[4]]], [[[8]]]]),
    "one for all": (torch.arange(9) >= 3)[None, None, None],
    "bias": torch.randn(3, 1, 1, 9),
    "by head": torch.randn(3, 6, 1, 9),
}


@pytest.mark.parametrize("widths", [[9, 9, 9], [9, 2, 5]], ids=["whole", "runs"])
@pytest.mark.parametrize("shared", [1, 2, 6])
@pytest.mark.parametrize("mask", MASKS)
def test_heads_that_share_keys_attend_as_if_each_had_its_own(
    mask: str, shared: int, widths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "CPU_CALL_COST", 0)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 6, 1, 8), torch.randn(3, shared, 9, 8), torch.randn(3, shared, 9, 5)
    keys, values = (each.repeat_interleave(6 // shared, 1) for each in (k, v))
    module = torch.nn.Module()
    module.num_key_value_groups = 6 // shared  # type: ignore[assignment]  # what transformers reads
    given_mask = MASKS[mask]
    narrow = torch.arange(9) >= 9 - torch.tensor(widths)[:, None, None, None]
    both = narrow if given_mask is None else given_mask & narrow if given_mask.dtype is torch.bool else None
    if both is None:
        assert given_mask is not None
        both = given_mask.masked_fill(~narrow, -torch.inf)
    expected = torch.nn.functional.scaled_dot_product_attention(q, keys, values, both, scale=0.3)
    with segmented(widths, CPU):
        found = AttentionInterface()["sdpa"](module, q, k, v, both, scaling=0.3, dropout=0.0)[0]
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_what_an_attention_is_told_beyond_its_mask_is_left_to_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(segments, "_whole", lambda *_, **told: (asked.append(told), None))
    q, k = torch.randn(2, 4, 1, 8), torch.randn(2, 2, 5, 8)
    for told in ({"dropout": 0.1}, {"softcap": 30.0}, {"position_bias": torch.zeros(2, 4, 1, 5)}):
        AttentionInterface()["sdpa"](torch.nn.Module(), q, k, k, None, **told)
        assert asked.pop() == told
    AttentionInterface()["sdpa"](torch.nn.Module(), q, k, k, None, scaling=1.0)
    assert not asked


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
