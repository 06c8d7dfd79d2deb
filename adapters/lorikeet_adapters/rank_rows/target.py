"""One module that adapters change: the rows they own there and what a step adds to its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from lorikeet_adapters.mix import Mix
from lorikeet_adapters.rank_rows.arena import Arena, Extent
from lorikeet_adapters.rank_rows.kernels import Bound, Kernel, in_place, looked_up
from lorikeet_adapters.rank_rows.layout import ActiveRows, active_rows
from lorikeet_adapters.shares import Shares

Key = tuple[tuple[str, Extent], ...]
# Layouts that a part is bound for: a decode step's, the head's, a prompt's. One adapter's prompts have any length.
MOST_BOUND = 4


class Selection:
    """The mixes of one step, each of `span` tokens that follow one another.

    Parts whose adapters lie in the same rows, nearly all of them, share one S.
    """

    def __init__(self, mixes: Sequence[Mix], span: int, device: torch.device) -> None:
        self.asked = (tuple(mixes), span)
        self.named = sorted({term.adapter for mix in mixes for term in mix.terms})
        self._mixes = mixes
        self._span = span
        self._device = device
        self._known: dict[Key, ActiveRows | None] = {}

    def rows_of(self, arena: Arena) -> ActiveRows | None:
        """None when no mix has rows in it, which then costs nothing."""
        extents = arena.extents
        if not extents:
            return None
        key = tuple((each, extents[each]) for each in self.named if each in extents)
        if key not in self._known:
            self._known[key] = active_rows(dict(key), self._mixes, self._device, self._span)
        return self._known[key]


@dataclass(slots=True)
class Held:
    """Bytes that all parts of a base take together; each keeps its own share right."""

    bytes: int = 0


class Part:
    """One arena of a target and which of its rows the step uses."""

    def __init__(self, arena: Arena, held: Held) -> None:
        self.arena = arena
        self.active: ActiveRows | None = None
        self._gathered: tuple[tuple[Extent, ...], tuple[torch.Tensor, ...]] | None = None
        self._bound: dict[torch.Size, Bound] = {}
        self._held = held
        self._bytes = 0  # its share

    def insert(self, owner: str, rows: Sequence[torch.Tensor]) -> None:
        self._forget()
        try:
            self.arena.insert(owner, rows)
        finally:  # it may have grown before it failed
            self._count()

    def evict(self, owner: str) -> None:
        if owner in self.arena.extents:
            self._forget()
            self.arena.evict(owner)
            self._count()

    def choose(self, selection: Selection) -> None:
        """Until the next one, or until rows come or go; then there must be a next one."""
        self.active = selection.rows_of(self.arena)
        self._bound = {}

    def bound(self, kernel: Kernel, lead: torch.Size) -> Bound:
        """What adds the rows' share to tokens laid out as `lead`."""
        known = self._bound.get(lead)
        if known is None:
            if len(self._bound) == MOST_BOUND:
                self._bound.clear()
            assert self.active is not None
            s = self.s(lead)
            found = in_place(kernel, self.arena.blocks, s, self.active.places)
            known = self._bound[lead] = found or self._bind_gathered(kernel, s)
        return known

    def _bind_gathered(self, kernel: Kernel, s: Shares) -> Bound:
        a, b = self.rows()
        return kernel(a, b, s)

    def s(self, lead: torch.Size) -> Shares:
        """S for the tokens laid out as `lead`.

        They are all of one mix, as many of each mix as the step has or, for the head, one, or [mixes, tokens]: what
        multi-head latent attention gives to the module that unpacks each row's cache. Anything else fails here.
        """
        assert self.active is not None
        s, tokens = self.active.s, lead.numel()
        if len(self.active.spread) == tokens:
            return self.active.spread
        if len(s) == tokens:
            return s
        if len(s) != 1 and (len(lead) < 2 or lead[0] != len(s)):
            raise ValueError(f"{tokens} tokens, laid out as {tuple(lead)}, are not those of {len(s)} mixes")
        return s.each(tokens // len(s))

    def rows(self) -> tuple[torch.Tensor, ...]:
        """The active rows of each block: views where they touch, else a copy kept until they change."""
        assert self.active is not None
        extents, blocks = self.active.extents, self.arena.blocks
        if all(left.stop == right.start for left, right in pairwise(extents)):
            return tuple(block[extents[0].start : extents[-1].stop] for block in blocks)
        if self._gathered is None or self._gathered[0] != extents:
            copies = tuple(torch.cat([block[each.start : each.stop] for each in extents]) for block in blocks)
            self._gathered = (extents, copies)
            self._count()
        return self._gathered[1]

    def _forget(self) -> None:
        """What was made of rows that may move; it would keep their old memory."""
        self._gathered = None
        self._bound = {}

    def _count(self) -> None:
        copies = self._gathered[1] if self._gathered else ()
        now = self.arena.bytes + sum(each.numel() * each.element_size() for each in copies)
        self._held.bytes += now - self._bytes
        self._bytes = now


class Target:
    """A linear module, the input embedding or a layer norm. `lora` is None where no LoRA can be.

    For one token with the mix {i: w_i}:  y + sum of w_i * (rows_i + shift_i), and for a DoRA
    adapter, which is alone and has weight 1,  bias + gain * (y - bias + rows) + shift.
    """

    def __init__(
        self, module: nn.Module, lora: Arena | None, vectors: tuple[Arena, Arena], held: Held
    ) -> None:
        self.module = module
        self.lora = Part(lora, held) if lora is not None else None
        self.shift, self.gain = (Part(each, held) for each in vectors)
        self._is_lookup = isinstance(module, nn.Embedding)
        self._selection: Selection | None = None  # that the parts have chosen for
        self._active = self._only_lora = False

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.shift, self.gain) if self.lora is None else (self.lora, self.shift, self.gain)

    def add(
        self, selection: Selection, kernel: Kernel, inputs: torch.Tensor, output: torch.Tensor
    ) -> torch.Tensor:
        """The module's output with the step's share added, in the output's dtype."""
        if selection is not self._selection:
            self._choose(selection)
        if not self._active:
            return output
        y, lead = output, output.shape[:-1]
        if self.lora is not None and self.lora.active:
            y = self._with_rows(self.lora, kernel, inputs, y, lead)
        if not self._only_lora:
            y = self._with_vectors(y.reshape(-1, y.shape[-1]), lead).view(output.shape)
        return y if y.dtype is output.dtype else y.to(output.dtype)

    def _choose(self, selection: Selection) -> None:
        for part in self.parts:
            part.choose(selection)
        self._active = any(part.active for part in self.parts)
        self._only_lora = not (self.shift.active or self.gain.active)
        self._selection = selection

    def _with_rows(
        self, lora: Part, kernel: Kernel, inputs: torch.Tensor, y: torch.Tensor, lead: torch.Size
    ) -> torch.Tensor:
        dtype = lora.arena.blocks[0].dtype
        wide = y if y.dtype is dtype else y.to(dtype)
        if self._is_lookup:
            return lora.bound(looked_up, lead)(inputs, wide)
        return lora.bound(kernel, lead)(inputs if inputs.dtype is dtype else inputs.to(dtype), wide)

    def _with_vectors(self, y: torch.Tensor, lead: torch.Size) -> torch.Tensor:
        if self.gain.active:
            y = self._with_gain(y, self.gain.s(lead).dense)
        if self.shift.active:
            (vectors,) = self.shift.rows()
            y = y + self.shift.s(lead).dense @ vectors
        return y

    def _with_gain(self, y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        (gains,) = self.gain.rows()
        bias = getattr(self.module, "bias", None)
        without = y.float() if bias is None else y.float() - bias.float()
        scaled = without * gains[s.argmax(-1)]  # its one adapter's, and nobody else's
        scaled = scaled if bias is None else scaled + bias.float()
        return torch.where(s.any(-1, keepdim=True), scaled, y.float())
