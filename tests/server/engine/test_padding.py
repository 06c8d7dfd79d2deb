"""Prompts computed together: which may be, and that nobody's answer shows it."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from lorikeet_server.engine.batch import PrefillChunk
from lorikeet_server.engine.padding import padded, row_of, together
from lorikeet_server.engine.request import Request, Sampling

CPU = torch.device("cpu")


def chunk(name: str, length: int, start: int = 0, scored: bool = False) -> PrefillChunk:
    sampling = Sampling(max_tokens=1, prompt_logprobs=1 if scored else None)
    tokens = tuple(range(1, start + length + 1))
    return PrefillChunk(Request(name, tokens, sampling), start, tokens[start:])


SHAPES = st.tuples(st.integers(1, 300), st.sampled_from([0, 0, 0, 16]), st.booleans())


@given(st.lists(SHAPES, max_size=12), st.integers(0, 300))
def test_every_chunk_is_computed_once_and_padding_costs_less_than_a_forward(
    shapes: list[tuple[int, int, bool]], cost: int
) -> None:
    chunks = [chunk(str(number), *shape) for number, shape in enumerate(shapes)]
    groups = list(together(chunks, cost))
    assert sorted(each.request.id for group in groups for each in group) == sorted(
        each.request.id for each in chunks
    )
    for group in groups:
        lengths = [len(each.tokens) for each in group]
        assert max(lengths) - min(lengths) <= cost
        assert max(lengths) * len(lengths) <= 2 * sum(lengths)
        assert len(group) == 1 or not any(each.start or each.is_scored for each in group)


def test_prompts_of_like_length_are_one_forward() -> None:
    chunks = [
        chunk("a", 40),
        chunk("b", 90),
        chunk("c", 60),
        chunk("d", 10, start=16),
        chunk("e", 50, 0, True),
    ]
    names = [[each.request.id for each in group] for group in together(chunks, 32)]
    assert names == [["b", "c"], ["a"], ["d"], ["e"]]


def test_rows_are_padded_on_the_left() -> None:
    tokens, mask, positions = padded([chunk("a", 4), chunk("b", 2)], CPU)
    assert tokens.tolist() == [[1, 2, 3, 4], [0, 0, 1, 2]]
    assert mask.tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert positions.tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]


def test_a_row_of_a_cache_is_a_copy_of_its_own_columns() -> None:
    whole = DynamicCache()
    for layer in range(2):
        whole.update(torch.randn(3, 2, 5, 4), torch.randn(3, 2, 5, 4), layer)
    own = row_of(whole, 1, 2)
    for mine, theirs in zip(own.layers, whole.layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys[1:2, :, 3:])
        assert torch.equal(mine.values, theirs.values[1:2, :, 3:])
        theirs.keys.zero_()
        assert mine.keys.any()
    assert own.get_seq_length() == 2
