"""From the mixes of one step to S: which rows are active and what weight each token gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from lorikeet_adapters.mix import Mix
from lorikeet_adapters.rank_rows.arena import Extent
from lorikeet_adapters.shares import Shares

Extents: TypeAlias = Mapping[str, Extent]  # generation -> its rows in one module


@dataclass(frozen=True, slots=True)
class ActiveRows:
    """`extents` in the order of S's columns; `s` by mix, `spread` by token. There is at least one row.

    `places` are the rows of the arena that the columns mean, one by one, int32.
    """

    extents: tuple[Extent, ...]
    places: torch.Tensor
    s: Shares
    spread: Shares


def active_rows(
    extents: Extents, mixes: Sequence[Mix], device: torch.device, span: int = 1
) -> ActiveRows | None:
    """S for one module, each mix for `span` tokens; None when no mix has rows there, which costs nothing."""
    named = sorted({term.adapter for mix in mixes for term in mix.terms} & extents.keys())
    if not named:
        return None
    columns: dict[str, slice] = {}
    width = 0
    for generation in named:
        columns[generation] = slice(width, width + len(extents[generation]))
        width += len(extents[generation])
    s = torch.zeros(len(mixes), width)
    for row, mix in enumerate(mixes):
        for term in mix.terms:
            if term.adapter in columns:
                s[row, columns[term.adapter]] = term.weight
    places = torch.cat([torch.arange(extents[each].start, extents[each].stop) for each in named])
    shares = Shares(s.to(device))
    rows = tuple(extents[generation] for generation in named)
    return ActiveRows(rows, places.to(device, torch.int32), shares, shares.each(span))
