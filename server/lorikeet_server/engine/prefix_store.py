"""The tensors of the blocks that prefix_index keeps account of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from transformers.cache_utils import DynamicCache

from lorikeet_server.engine.prefix_index import BLOCK

# Keys and values [1, kv_heads, BLOCK, head_dim] of each layer.
Block = list[tuple[torch.Tensor, torch.Tensor]]


class PrefixStore:
    """Copies in and copies out, so a kept block shares memory with no request."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, Block] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def keep(self, prompts: Iterable[tuple[Iterable[tuple[bytes, int]], DynamicCache]]) -> None:
        """Keep tokens [start, start + BLOCK) of each prompt for each (key, start) of it: all of them or none."""
        self._blocks |= {
            key: _cut(cache, slice(start, start + BLOCK))
            for blocks, cache in prompts
            for key, start in blocks
        }

    def find(self, keys: Sequence[bytes]) -> list[Block]:
        """The blocks themselves, not copied; they outlast `forget`."""
        return [self._blocks[key] for key in keys]

    def begin(self, blocks: Sequence[Block]) -> DynamicCache:
        """A cache that starts with these blocks."""
        cache = DynamicCache()
        for number, pairs in enumerate(zip(*blocks, strict=True)):
            cache.update(torch.cat([k for k, _ in pairs], 2), torch.cat([v for _, v in pairs], 2), number)
        return cache

    def forget(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            del self._blocks[key]


def _cut(cache: DynamicCache, own: slice) -> Block:
    return [(layer.keys[:, :, own].clone(), layer.values[:, :, own].clone()) for layer in cache.layers]
