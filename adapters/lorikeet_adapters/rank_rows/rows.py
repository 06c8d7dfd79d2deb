"""Rank rows attached to a base model: insert and evict adapters, choose the mixes of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from lorikeet_adapters.base_model import BaseModel
from lorikeet_adapters.mix import Mix
from lorikeet_adapters.rank_rows.arena import Arena
from lorikeet_adapters.rank_rows.gain import gain_of, squared_lengths
from lorikeet_adapters.rank_rows.kernels import AUTO, KERNELS, Kernel, choose
from lorikeet_adapters.rank_rows.target import Held, Selection, Target
from lorikeet_adapters.weights import AdapterWeights, ModuleRows


class RankRows:
    """All targets of one base model. Only the thread that runs the model calls it.

    `limit` bounds the sum of the ranks of the resident adapters. A module's memory is at most that
    many rows, and as many again while the adapters of a step lie apart and are gathered for a kernel
    that wants them side by side.

    The base keeps its classes, weights and quantiser: rows are added by forward hooks on the raw
    model, which return at once when a step has no active rows.
    """

    def __init__(self, base: BaseModel, limit: int, kernel: str = AUTO) -> None:
        self.kernel = choose(kernel, base.device)
        self._kernel: Kernel = KERNELS[self.kernel]
        self._base = base
        self._limit = limit
        self._modules = dict(base.model.named_modules())
        self._shapes = {**base.outline.linears, **base.outline.embeddings}
        self._targets: dict[str, Target] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._held = Held()
        self._selection: Selection | None = None  # of the step that runs
        self._last: Selection | None = None  # kept, as most steps are for the mixes of the one before
        self._resident: dict[str, int] = {}
        self._dora: set[str] = set()
        self._lengths: dict[str, torch.Tensor] = {}  # of each module's rows, once a DoRA adapter asked

    @property
    def resident(self) -> dict[str, int]:
        """Generation -> largest rank among its modules."""
        return dict(self._resident)

    @property
    def bytes(self) -> int:
        """What the rows take, with the copies of those that lay apart; kept up, because every step reads it."""
        return self._held.bytes

    def bytes_of(self, generation: str) -> int:
        """What this adapter's rows take in all modules; 0 unless it is resident."""
        return sum(
            part.arena.bytes_of(generation) for target in self._targets.values() for part in target.parts
        )

    def insert(self, generation: str, weights: AdapterWeights) -> None:
        """Give a checked adapter rows in every module it has, or, when memory runs out, in none. Must not be resident."""
        assert generation not in self._resident, generation
        self._last = None
        try:
            for name, rows in weights.modules.items():
                self._insert_rows(generation, name, rows)
            for name in weights.shifts.keys() | weights.biases.keys():
                self._target(name).shift.insert(generation, (self._shift(name, weights)[None],))
            for name, magnitude in weights.magnitudes.items():
                gain = gain_of(self._modules[name], self._own_lengths(name), weights.modules[name], magnitude)
                self._target(name).gain.insert(generation, (gain[None],))
        except BaseException:
            self._take_back(generation)
            raise
        self._resident[generation] = weights.rank
        if weights.is_dora:
            self._dora.add(generation)

    def evict(self, generation: str) -> None:
        """Take an adapter's rows back. No running request may name it."""
        self._last = None
        del self._resident[generation]
        self._dora.discard(generation)
        self._take_back(generation)

    @contextmanager
    def step(self, mixes: Sequence[Mix], span: int = 1) -> Iterator[None]:
        """Within it every forward adds these mixes' rows: one for all tokens, or each for `span` tokens in a row.

        Every adapter of every mix must be resident, and one with DoRA alone and of weight 1.
        """
        if self._last is None or self._last.asked != (tuple(mixes), span):
            self._last = self._select(mixes, span)
        # A step that names no adapter must cost nothing.
        self._selection = self._last if self._last.named else None
        try:
            yield
        finally:
            self._selection = None

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _select(self, mixes: Sequence[Mix], span: int) -> Selection:
        selection = Selection(mixes, span, self._base.device)
        missing = set(selection.named) - self._resident.keys()
        if missing:
            raise LookupError(f"not resident: {sorted(missing)}")
        for mix in mixes:
            if not self._dora.isdisjoint(mix.adapters) and not mix.is_single:
                raise ValueError(f"a DoRA adapter cannot be blended: {mix}")
        return selection

    def _target(self, name: str) -> Target:
        """Made when the first adapter that changes this module comes; until then it has not even a hook."""
        if name not in self._targets:
            module, shape = self._modules[name], self._shapes.get(name)
            width = shape.out_features if shape else self._base.outline.biases[name]
            lora = self._arena(shape.in_features, width, dtype=self._base.compute_dtype) if shape else None
            target = Target(module, lora, (self._arena(width), self._arena(width)), self._held)
            self._targets[name] = target
            self._hooks.append(module.register_forward_hook(partial(self._add, target)))
        return self._targets[name]

    def _arena(self, *widths: int, dtype: torch.dtype = torch.float32) -> Arena:
        return Arena(widths, self._limit, dtype, self._base.device)

    def _insert_rows(self, generation: str, name: str, rows: ModuleRows) -> None:
        target = self._target(name)
        assert target.lora is not None, name
        # Some embeddings multiply what they look up; what an adapter adds to the table is multiplied too.
        scale = getattr(self._modules[name], "embed_scale", 1.0)
        target.lora.insert(generation, (rows.a, rows.b if scale == 1.0 else rows.b * float(scale)))

    def _shift(self, name: str, weights: AdapterWeights) -> torch.Tensor:
        """What the adapter adds to the module's output, whatever the input: [out] in fp32."""
        shift = weights.shifts.get(name, torch.zeros(()))
        trained = weights.biases.get(name)
        own = self._modules[name].bias.detach().float().cpu() if trained is not None else 0.0
        return shift if trained is None else shift + (trained - own)

    def _own_lengths(self, name: str) -> torch.Tensor:
        if name not in self._lengths:
            self._lengths[name] = squared_lengths(self._modules[name], self._shapes[name].in_features)
        return self._lengths[name]

    def _take_back(self, generation: str) -> None:
        for target in self._targets.values():
            for part in target.parts:
                part.evict(generation)

    def _add(
        self, target: Target, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        selection = self._selection
        return output if selection is None else target.add(selection, self._kernel, inputs[0], output)


def full_bytes(base: BaseModel, limit: int) -> int:
    """What the rows of LoRA take in all modules when all `limit` of them are in use."""
    shapes = (*base.outline.linears.values(), *base.outline.embeddings.values())
    widths = sum(shape.in_features + shape.out_features for shape in shapes)
    return limit * widths * base.compute_dtype.itemsize
