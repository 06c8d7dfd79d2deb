"""Prompts of one step computed in one forward: which, and how they are laid out.

Rows are padded on the left, as `generate()` pads them, so rotary, learned and ALiBi positions and sliding windows
are right on every architecture that decodes here. Only prompts that begin with nothing kept are
computed together: a gap between a row's kept columns and its new ones is hidden by the mask, but not
from a window that counts columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from transformers.cache_utils import DynamicCache

from lorikeet_server.engine.batch import PrefillChunk

PADDED = 2  # times the tokens of its prompts that a group may be at most
# A forward of its own costs about as much as so many tokens of padding: its weights are read once more.
CPU_FORWARD_COST = 32
CUDA_FORWARD_COST = 256


def together(chunks: Iterable[PrefillChunk], forward_cost: int) -> Iterator[tuple[PrefillChunk, ...]]:
    """Each chunk once: those that may be padded by length, in groups; then the others, each alone, in their order."""
    fresh: list[PrefillChunk] = []
    others: list[PrefillChunk] = []
    for chunk in chunks:
        (others if chunk.start or chunk.is_scored else fresh).append(chunk)
    group: list[PrefillChunk] = []
    for chunk in sorted(fresh, key=lambda each: -len(each.tokens)):
        if group and not _may_join(chunk, group, forward_cost):
            yield tuple(group)
            group = []
        group.append(chunk)
    if group:
        yield tuple(group)
    yield from ((chunk,) for chunk in others)


def _may_join(chunk: PrefillChunk, group: Sequence[PrefillChunk], forward_cost: int) -> bool:
    longest, own = len(group[0].tokens), len(chunk.tokens)
    real = sum(len(each.tokens) for each in group) + own
    return longest - own <= forward_cost and longest * (len(group) + 1) <= PADDED * real


def padded(
    chunks: Sequence[PrefillChunk], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(tokens, mask, positions), each [len(chunks), longest], int64. Padding is token 0 at position 0."""
    longest = max(len(chunk.tokens) for chunk in chunks)
    rows = [(0,) * (longest - len(chunk.tokens)) + chunk.tokens for chunk in chunks]
    lengths = torch.tensor([[len(chunk.tokens)] for chunk in chunks], device=device)
    positions = torch.arange(longest, device=device)[None] - (longest - lengths)
    return torch.tensor(rows, device=device), (positions >= 0).long(), positions.clamp(min=0)


def row_of(cache: DynamicCache, row: int, length: int) -> DynamicCache:
    """A cache of its own with one row's last `length` columns."""
    own = DynamicCache()
    for number, layer in enumerate(cache.layers):
        own.update(layer.keys[row : row + 1, :, -length:], layer.values[row : row + 1, :, -length:], number)
    return own
