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

from lorikeet_adapters.access import EVERYONE, Access, common
from lorikeet_adapters.compose import Ingredient, compose
from lorikeet_adapters.errors import ComposeRefused
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.outline import Outline
from lorikeet_adapters.peft_files import peft_files
from lorikeet_adapters.recipe import Recipe
from lorikeet_adapters.record import AdapterRecord
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.source import AdapterFiles
from lorikeet_adapters.threads import in_passing
from lorikeet_adapters.view import View
from lorikeet_adapters.weights import AdapterWeights, load_weights


class Composer:
    """Works in fp32 on the thread that calls it; beside running traffic, but on the same cores."""

    def __init__(self, registry: Registry, outline: Outline) -> None:
        self._registry = registry
        self._outline = outline

    def make(
        self,
        view: View,
        name: str,
        terms: Sequence[Term],
        recipe: Recipe,
        *,
        replace: bool = False,
        expected: str | None = None,
        metadata: Mapping[str, object] | None = None,
        access: Access | None = None,
    ) -> tuple[AdapterRecord, bool]:
        """Combine what these names mean now and register it; what it was made of goes into its provenance.

        Whether the name is to be had is asked before the work, and by `View.register` again after it.
        Unless `access` says more, only whoever may use every part may use it. Raises ComposeRefused and
        what `View.lease` and `View.register` raise.
        """
        view.grant(access)
        given = access or _narrow(view, name, terms)
        with self._leased(view, terms) as generations:
            provenance = _provenance(recipe, terms, generations)
            view.check_claim(name, provenance, replace=replace, expected=expected)
            weights = self.weights(recipe, terms, generations)
        config, tensors = peft_files(weights, self._outline, self._registry.base_name)
        files = AdapterFiles(config, io.BytesIO(tensors), {"type": "compose"})
        return view.register(
            name,
            files,
            replace=replace,
            expected=expected,
            metadata=metadata,
            access=given,
            provenance=provenance,
        )

    def weights(self, recipe: Recipe, terms: Sequence[Term], generations: Sequence[str]) -> AdapterWeights:
        """The combination in fp32; the generations must stay leased meanwhile."""
        parts = [
            Ingredient(term.adapter, term.weight, self._read(generation))
            for term, generation in zip(terms, generations, strict=True)
        ]
        return in_passing(lambda: compose(recipe, parts, seed_of(recipe, terms, generations)))

    def _read(self, generation: str) -> AdapterWeights:
        found = self._registry.locate(generation)
        return load_weights(found.weights, found.spec, self._outline, torch.float32)

    @contextmanager
    def _leased(self, view: View, terms: Sequence[Term]) -> Iterator[list[str]]:
        """The generation each name means now, held for as long as `with` lasts."""
        leases: list[Mix] = []
        try:
            for term in terms:
                leases.append(view.lease([Term(term.adapter, 1.0)]))
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


def _provenance(recipe: Recipe, terms: Sequence[Term], generations: Sequence[str]) -> dict[str, object]:
    parts = [
        {"name": term.adapter, "generation": generation, "weight": term.weight}
        for term, generation in zip(terms, generations, strict=True)
    ]
    return {"composed": {**asdict(recipe), "adapters": parts}}


def _narrow(view: View, name: str, terms: Sequence[Term]) -> Access | None:
    """Who may use every part, and the adapter that had the name before; None where all may, or a tenant asks."""
    if view.tenant is not None:
        return None
    known = {each.name: each.access for each in view.records()}
    aliases = {each.name: [target.name for target in each.targets] for each in view.aliases()}
    meant = {name, *(target for term in terms for target in aliases.get(term.adapter, [term.adapter]))}
    found = common(known[each] for each in meant if each in known)
    if found is None:
        raise ComposeRefused(
            "no tenant may use all of these adapters; say who may use the new one: tenants", "tenants"
        )
    return None if found == EVERYONE else found


def seed_of(recipe: Recipe, terms: Sequence[Term], generations: Sequence[str]) -> int:
    """The same combination draws the same numbers, on every machine."""
    weights = [term.weight.hex() for term in terms]
    text: Any = [asdict(recipe), weights, list(generations)]
    return int.from_bytes(hashlib.sha256(json.dumps(text, sort_keys=True).encode()).digest()[:8], "big")
