"""Token batches for the demo's training: documents in buckets of like length, and warm-up rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lorikeet_trainer.demo.corpus import Document, documents
from lorikeet_trainer.demo.messages import Split

POOL_BATCHES: Final = 32


@dataclass(frozen=True, slots=True)
class Batch:
    """`ids` int64 [B, T], padded on the right; `weights` fp32 [B, T], the loss weight of each token."""

    ids: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class Row:
    """One tokenised document: token ids and one loss weight each."""

    ids: list[int]
    weights: list[float]


def tokenise(document: Document, tokenizer: PreTrainedTokenizerFast) -> Row:
    """Segments are tokenised apart, so a segment's weight covers exactly its own tokens."""
    ids: list[int] = []
    weights: list[float] = []
    for segment in document:
        piece = tokenizer.backend_tokenizer.encode(segment.text).ids
        ids.extend(piece)
        weights.extend([segment.weight] * len(piece))
    return Row(ids, weights)


def collate(rows: list[Row], pad: int) -> Batch:
    """Pad on the right; padding has weight zero, and causal attention never looks at it."""
    width = max(len(row.ids) for row in rows)
    ids = [row.ids + [pad] * (width - len(row.ids)) for row in rows]
    weights = [row.weights + [0.0] * (width - len(row.weights)) for row in rows]
    return Batch(torch.tensor(ids), torch.tensor(weights))


def document_batches(
    tokenizer: PreTrainedTokenizerFast, split: Split, seed: int, size: int
) -> Iterator[Batch]:
    """Endless batches of `size` documents of like length, so that little of a batch is padding."""
    rng = random.Random(f"batches:{seed}")
    stream = documents(split, seed)
    pad = int(tokenizer.pad_token_id)
    while True:
        pool = [tokenise(document, tokenizer) for document in islice(stream, size * POOL_BATCHES)]
        pool.sort(key=lambda row: len(row.ids))
        starts = list(range(0, len(pool), size))
        rng.shuffle(starts)
        for start in starts:
            yield collate(pool[start : start + size], pad)


def warm_up_batches(tokenizer: PreTrainedTokenizerFast, seed: int, size: int) -> Iterator[Batch]:
    """Endless batches of random tokens and random five-digit numbers, each row read twice.

    Loss on the second reading only: nothing but copying lowers it. Every token of the vocabulary
    occurs here, so bytes and merges the corpus lacks get a trained embedding too.
    """
    rng = random.Random(f"warm-up:{seed}")
    pad, first = int(tokenizer.pad_token_id), len(tokenizer.all_special_ids)
    digits = [tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(10)]
    space = tokenizer.convert_tokens_to_ids("Ġ")
    while True:
        rows = []
        for _ in range(size):
            once: list[int] = []
            for _ in range(rng.randint(3, 6)):
                once += [rng.randrange(first, len(tokenizer)) for _ in range(rng.randint(1, 3))]
                if rng.random() < 0.5:
                    once += [space, *rng.choices(digits, k=5)]
            rows.append(Row(once + once, [0.0] * len(once) + [1.0] * len(once)))
        yield collate(rows, pad)
