"""Registered adapters in, a new registered adapter out: the combination and its record."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from lorikeet_adapters.compose import Ingredient, compose
from lorikeet_adapters.errors import ComposeRefused
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.outline import Outline
from lorikeet_adapters.peft_files import peft_files
from lorikeet_adapters.recipe import Recipe
from lorikeet_adapters.record import AdapterRecord
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.source import AdapterFiles
from lorikeet_adapters.weights import AdapterWeights, load_weights


class Composer:
    """Works in fp32 on the thread that calls it; beside running traffic, but on the same cores."""

    def __init__(self, registry: Registry, outline: Outline) -> None:
        self._registry = registry
        self._outline = outline

    def make(
        self,
        name: str,
        terms: Sequence[Term],
        recipe: Recipe,
        *,
        replace: bool = False,
        expected: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> tuple[AdapterRecord, bool]:
        """Combine what these names mean now and register it; what it was made of goes into its provenance.

        Raises ComposeRefused and what `Registry.lease` and `Registry.register` raise.
        """
        with self._leased(terms) as generations:
            weights = self.weights(recipe, terms, generations)
        config, tensors = peft_files(weights, self._outline, self._registry.base_name)
        parts = [
            {"name": term.adapter, "generation": generation, "weight": term.weight}
            for term, generation in zip(terms, generations, strict=True)
        ]
        files = AdapterFiles(config, io.BytesIO(tensors), {"type": "compose"})
        provenance = {"composed": {**asdict(recipe), "adapters": parts}}
        return self._registry.register(
            name, files, replace=replace, expected=expected, metadata=metadata, provenance=provenance
        )

    def weights(self, recipe: Recipe, terms: Sequence[Term], generations: Sequence[str]) -> AdapterWeights:
        """The combination in fp32; the generations must stay leased meanwhile."""
        parts = [
            Ingredient(term.adapter, term.weight, self._read(generation))
            for term, generation in zip(terms, generations, strict=True)
        ]
        return compose(recipe, parts, seed_of(recipe, terms, generations))

    def _read(self, generation: str) -> AdapterWeights:
        found = self._registry.locate(generation)
        return load_weights(found.weights, found.spec, self._outline, torch.float32)

    @contextmanager
    def _leased(self, terms: Sequence[Term]) -> Iterator[list[str]]:
        """The generation each name means now, held for as long as `with` lasts."""
        leases: list[Mix] = []
        try:
            for term in terms:
                leases.append(self._registry.lease([Term(term.adapter, 1.0)]))
                if not leases[-1].adapters:
                    raise ComposeRefused(
                        f"`{term.adapter}` is the base model, which is no part of an adapter"
                    )
            generations = [mix.adapters[0] for mix in leases]
            if len(set(generations)) < len(generations):
                raise ComposeRefused("the same adapter is named twice; add up its weights")
            yield generations
        finally:
            for mix in leases:
                self._registry.release(mix)


def seed_of(recipe: Recipe, terms: Sequence[Term], generations: Sequence[str]) -> int:
    """The same combination draws the same numbers, on every machine."""
    weights = [term.weight.hex() for term in terms]
    text: Any = [asdict(recipe), weights, list(generations)]
    return int.from_bytes(hashlib.sha256(json.dumps(text, sort_keys=True).encode()).digest()[:8], "big")
