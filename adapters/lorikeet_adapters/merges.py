"""Merges that requests ask for by recipe: made when first needed, kept by the engine like any adapter, bounded.

A merge is no adapter of the registry. It has a key in place of a generation, and whoever runs with it
holds leases on the adapters it was made of.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from lorikeet_adapters.composer import Composer
from lorikeet_adapters.errors import AdapterNotFound, ComposeRefused
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.recipe import Recipe
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.view import View
from lorikeet_adapters.weights import AdapterWeights, ModuleRows

PREFIX = "merge-"
MOST_KEPT = 64


@dataclass(slots=True)
class _Merge:
    recipe: Recipe
    terms: tuple[Term, ...]
    parents: Mix  # the generations the terms mean, each with weight 1
    leases: int = 0


class Merges:
    """`retire(key)` is called for a merge that nobody uses, when too many are kept or a part of it goes."""

    def __init__(self, registry: Registry, composer: Composer) -> None:
        self.retire: Callable[[str], object] = lambda key: None
        self._registry = registry
        self._composer = composer
        self._known: dict[str, _Merge] = {}  # the one used last at the end
        self._changing = threading.Lock()

    def lease(
        self,
        view: View,
        recipe: Recipe,
        terms: Sequence[Term],
        count: int = 1,
        user: str | None = None,
        *,
        chat: bool = False,
    ) -> Mix:
        """The merge as a mix of one, held until `count` calls of `release`. Raises what leasing its parts raises."""
        leased: list[tuple[str, Term]] = []
        try:
            for term in terms:
                mix = view.lease([Term(term.adapter, 1.0)], count, user, chat=chat)
                if not mix.adapters:
                    raise ComposeRefused(f"`{term.adapter}` is the base model, which is no part of a merge")
                leased.append((mix.adapters[0], term))
            if len({generation for generation, _ in leased}) < len(leased):
                raise ComposeRefused("the same adapter is named twice in a merge; add up its weights")
        except BaseException:
            for _ in range(count):
                for generation, _term in leased:
                    self._registry.release(_alone(generation))
            raise
        leased.sort(key=lambda each: each[0])
        parents = Mix(tuple(Term(generation, 1.0) for generation, _ in leased))
        made = _Merge(recipe, tuple(term for _, term in leased), parents)
        key = _key(made)
        with self._changing:
            known = self._known[key] = self._known.pop(key, made)
            known.leases += count
            self._drop([each for each in self._known if not self._known[each].leases][: self._surplus])
        return Mix((Term(key, 1.0),))

    def release(self, mix: Mix) -> None:
        """End a lease on a merge or, for any other mix, on its adapters."""
        with self._changing:
            merge = self._known.get(mix.adapters[0]) if len(mix.adapters) == 1 else None
            if merge is not None:
                merge.leases -= 1
        self._registry.release(mix if merge is None else merge.parents)

    def forget(self, generation: str) -> None:
        """An adapter is going: whatever was made of it goes, too. Nobody runs with it any more."""
        with self._changing:
            self._drop([key for key, each in self._known.items() if generation in each.parents.adapters])

    def weights(self, key: str, dtype: torch.dtype) -> AdapterWeights:
        """Make it. Raises ComposeRefused, or AdapterNotFound when it was dropped meanwhile."""
        with self._changing:
            merge = self._known.get(key)
        if merge is None:
            raise AdapterNotFound(key)
        made = self._composer.weights(merge.recipe, merge.terms, merge.parents.adapters)
        return AdapterWeights(
            {name: ModuleRows(rows.a.to(dtype), rows.b.to(dtype)) for name, rows in made.modules.items()}
        )

    @property
    def _surplus(self) -> int:
        return max(len(self._known) - MOST_KEPT, 0)

    def _drop(self, keys: Sequence[str]) -> None:
        for key in keys:
            del self._known[key]
            self.retire(key)


def is_merge(generation: str) -> bool:
    return generation.startswith(PREFIX)


def _key(merge: _Merge) -> str:
    weights = [term.weight.hex() for term in merge.terms]
    names = [
        term.adapter for term in merge.terms
    ]  # a refusal speaks of them, and they can be a tenant's aliases
    text = json.dumps([asdict(merge.recipe), merge.parents.adapters, weights, names], sort_keys=True)
    return PREFIX + hashlib.sha256(text.encode()).hexdigest()


def _alone(generation: str) -> Mix:
    return Mix((Term(generation, 1.0),))
