"""Rows kept out of training, chosen by what they say: the same rows in every run, whatever their order."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.row import Pair, Row

MOST_HELD = 200


def split(dataset: Dataset, fraction: float) -> tuple[Dataset, Dataset | None]:
    """What is trained on, and what is held out: at least one row and at most MOST_HELD, equal rows together.

    Nothing is held out for a fraction of 0, or where it would leave nothing to train on.
    """
    keys = [_key(each) for each in dataset.contents]
    wanted = min(max(1, round(len(keys) * fraction)), MOST_HELD) if fraction else 0
    ordered = sorted(keys)
    while 0 < wanted < len(ordered) and ordered[wanted] == ordered[wanted - 1]:
        wanted += 1
    if not 0 < wanted < len(ordered):
        return dataset, None
    held = set(ordered[:wanted])
    return _only(dataset, keys, held, inside=False), _only(dataset, keys, held, inside=True)


def _only(dataset: Dataset, keys: list[str], held: set[str], *, inside: bool) -> Dataset:
    rows = [each for each, key in zip(dataset.rows, keys, strict=False) if (key in held) is inside]
    pairs = [each for each, key in zip(dataset.pairs, keys, strict=False) if (key in held) is inside]
    return replace(dataset, rows=tuple(rows), pairs=tuple(pairs))


def _key(each: Row | Pair) -> str:
    ids = each.input_ids if isinstance(each, Row) else (*each.prompt, -1, *each.chosen, -1, *each.rejected)
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()
