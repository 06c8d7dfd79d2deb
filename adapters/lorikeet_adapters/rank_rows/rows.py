"""Rank rows attached to a base model: insert and evict adapters, choose the mixes of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from lorikeet_adapters.base_model import BaseModel
from lorikeet_adapters.mix import Mix
from lorikeet_adapters.rank_rows.arena import Arena, Extent
from lorikeet_adapters.rank_rows.kernels import KERNELS, Kernel
from lorikeet_adapters.rank_rows.layout import ActiveRows, active_rows
from lorikeet_adapters.weights import AdapterWeights


class _Target:
    """One linear module: the arena of its rows and this step's share of the work."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.active: ActiveRows | None = None
        self.s: torch.Tensor | None = None
        self._gathered: tuple[tuple[Extent, ...], torch.Tensor, torch.Tensor] | None = None

    @property
    def bytes(self) -> int:
        copies = self._gathered[1:] if self._gathered else ()
        return self.arena.bytes + sum(each.numel() * each.element_size() for each in copies)

    def changed(self) -> None:
        self._gathered = None

    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """a[R, K] and b[R, N] of the active extents: views where they touch, else a copy kept until they change."""
        assert self.active is not None
        extents = self.active.extents
        in_a, in_b = self.arena.blocks
        if all(left.stop == right.start for left, right in pairwise(extents)):
            whole = slice(extents[0].start, extents[-1].stop)
            return in_a[whole], in_b[whole]
        if self._gathered is None or self._gathered[0] != extents:
            a = torch.cat([in_a[each.start : each.stop] for each in extents])
            b = torch.cat([in_b[each.start : each.stop] for each in extents])
            self._gathered = (extents, a, b)
        return self._gathered[1], self._gathered[2]


class RankRows:
    """All targets of one base model. Only the thread that runs the model calls it.

    `limit` bounds the sum of the ranks of the resident adapters. A module's memory is at most that
    many rows, and as many again while the adapters of a step lie apart and are gathered.

    The base keeps its classes, weights and quantiser: rows are added by forward hooks on the raw
    model, which return at once when a step has no active rows.
    """

    def __init__(self, base: BaseModel, limit: int, kernel: str = "torch") -> None:
        self._kernel: Kernel = KERNELS[kernel]
        self._device = base.device
        self._dtype = base.compute_dtype
        self._targets = {
            name: _Target(
                Arena((shape.in_features, shape.out_features), limit, base.compute_dtype, base.device)
            )
            for name, shape in base.linears.items()
        }
        self._resident: dict[str, int] = {}
        modules = dict(base.model.named_modules())
        self._hooks = [
            modules[name].register_forward_hook(partial(self._add, target))
            for name, target in self._targets.items()
        ]

    @property
    def resident(self) -> dict[str, int]:
        """Generation -> largest rank among its modules."""
        return dict(self._resident)

    @property
    def bytes(self) -> int:
        return sum(target.bytes for target in self._targets.values())

    def insert(self, generation: str, weights: AdapterWeights) -> None:
        """Give a checked adapter rows in every module it has, or, when memory runs out, in none. Must not be resident."""
        assert generation not in self._resident, generation
        try:
            for name, rows in weights.modules.items():
                target = self._targets[name]
                target.changed()
                target.arena.insert(generation, (rows.a, rows.b))
        except BaseException:
            self._take_back(generation)
            raise
        self._resident[generation] = weights.rank

    def evict(self, generation: str) -> None:
        """Take an adapter's rows back. No running request may name it."""
        del self._resident[generation]
        self._take_back(generation)

    def _take_back(self, generation: str) -> None:
        for target in self._targets.values():
            if generation in target.arena.extents:
                target.changed()
                target.arena.evict(generation)

    @contextmanager
    def step(self, mixes: Sequence[Mix]) -> Iterator[None]:
        """Within it every forward adds these mixes' rows: one mix per token, or one for all tokens.

        Every adapter of every mix must be resident.
        """
        missing = {each for mix in mixes for each in mix.adapters} - self._resident.keys()
        if missing:
            raise LookupError(f"not resident: {sorted(missing)}")
        self._choose(mixes)
        try:
            yield
        finally:
            self._choose(())

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _choose(self, mixes: Sequence[Mix]) -> None:
        # Modules whose adapters lie in the same rows share one S, which is nearly all of them.
        named = sorted({term.adapter for mix in mixes for term in mix.terms})
        shared: dict[tuple[tuple[str, Extent], ...], tuple[ActiveRows | None, torch.Tensor | None]] = {}
        for target in self._targets.values():
            extents = target.arena.extents
            key = tuple((each, extents[each]) for each in named if each in extents)
            if key not in shared:
                active = active_rows(dict(key), mixes)
                shared[key] = (active, None if active is None else active.s.to(self._device))
            target.active, target.s = shared[key]

    def _add(
        self, target: _Target, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        if target.s is None:
            return output
        a, b = target.rows()
        x = inputs[0].reshape(-1, inputs[0].shape[-1]).to(self._dtype)
        y = output.reshape(-1, output.shape[-1])
        # A module that sees other tokens than the batch's, or none, fails here: expand() takes one row or all.
        added = self._kernel(x, a, b, target.s.expand(len(x), -1), y.to(self._dtype))
        return added.to(output.dtype).view_as(output)
