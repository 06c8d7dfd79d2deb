"""Combinations of adapters that are made once and become an adapter of their own.

`cat` and `svd` combine what the adapters do: the sum of w_i * B_i A_i, exactly or at a given rank.
The others work on A and B by themselves, as PEFT does, so they are no sums and need equal ranks;
an adapter's scaling is folded into its B before. What DARE drops is drawn from a generator of the
combination's own: PEFT draws from the process's, which every other thread draws from, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorikeet_adapters.errors import ComposeRefused
from lorikeet_adapters.mix import MAX_TERMS, MAX_WEIGHT
from lorikeet_adapters.recipe import Method, Recipe
from lorikeet_adapters.weights import AdapterWeights, ModuleRows

SEED_BITS = 63
DARE = (Method.DARE_LINEAR, Method.DARE_TIES)


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One adapter of a combination; `weights` in fp32 with the scaling folded in."""

    name: str
    weight: float
    weights: AdapterWeights


def compose(recipe: Recipe, parts: Sequence[Ingredient], seed: int) -> AdapterWeights:
    """The combination in fp32. `seed` decides what DARE drops. Raises ComposeRefused by name."""
    _check(recipe, parts)
    modules = sorted({module for part in parts for module in part.weights.modules})
    draws = torch.Generator().manual_seed(seed & ((1 << SEED_BITS) - 1))
    return AdapterWeights({module: _module(recipe, module, parts, draws) for module in modules})


def _check(recipe: Recipe, parts: Sequence[Ingredient]) -> None:
    if not 1 <= len(parts) <= MAX_TERMS:
        raise ComposeRefused(f"a combination takes 1 to {MAX_TERMS} adapters, not {len(parts)}")
    for part in parts:
        if not (math.isfinite(part.weight) and 0 < abs(part.weight) <= MAX_WEIGHT):
            raise ComposeRefused(
                f"the weight of `{part.name}` is {part.weight:g}, not zero and within {MAX_WEIGHT:g}"
            )
        if part.weights.is_dora:
            raise ComposeRefused(f"`{part.name}` was trained with DoRA, which cannot be combined")
        if part.weights.shifts or part.weights.biases:
            raise ComposeRefused(
                f"`{part.name}` has trained biases, which a combined adapter cannot hold; blend it per request"
            )


def _module(recipe: Recipe, module: str, parts: Sequence[Ingredient], draws: torch.Generator) -> ModuleRows:
    """One module of the combination, of the parts that have it."""
    having = [part for part in parts if module in part.weights.modules]
    rows = [part.weights.modules[module] for part in having]
    weights = [part.weight for part in having]
    if recipe.method is Method.CAT:
        return _cat(rows, weights)
    if recipe.method is Method.SVD:
        return _svd(_cat(rows, weights), recipe.rank or max(each.rank for each in rows))
    ranks = {each.rank for each in rows}
    if len(ranks) > 1:
        named = ", ".join(f"`{part.name}` {part.weights.modules[module].rank}" for part in having)
        raise ComposeRefused(
            f"{recipe.method} needs equal ranks; at {module} they are {named}; use cat or svd"
        )
    return _merged(recipe, rows, weights, draws)


def _cat(rows: Sequence[ModuleRows], weights: Sequence[float]) -> ModuleRows:
    scaled = [each.b * weight for each, weight in zip(rows, weights, strict=True)]
    return ModuleRows(torch.cat([each.a for each in rows]), torch.cat(scaled))


def _svd(rows: ModuleRows, rank: int) -> ModuleRows:
    """The best approximation of a.T @ b of this rank, by way of the small matrix between two QR factors."""
    left, left_small = torch.linalg.qr(rows.a.T)
    right, right_small = torch.linalg.qr(rows.b.T)
    u, values, vh = torch.linalg.svd(left_small @ right_small.T, full_matrices=False)
    kept = min(rank, len(values))
    root = values[:kept].sqrt()
    a = (left @ u[:, :kept] * root).T.contiguous()
    b = (right @ vh[:kept].T * root).T.contiguous()
    return ModuleRows(a, b)


def _merged(
    recipe: Recipe, rows: Sequence[ModuleRows], weights: Sequence[float], draws: torch.Generator
) -> ModuleRows:
    """PEFT's merge of the A and of the B, each taking a root of the weight; the sign goes with A.

    B is turned to how PEFT holds it, [out, r], so that what is drawn for it falls on the same values.
    """
    roots = torch.tensor([math.sqrt(abs(weight)) for weight in weights])
    signs = torch.tensor([math.copysign(1.0, weight) for weight in weights])
    a = _peft_merge(recipe, [each.a for each in rows], roots * signs, draws)
    b = _peft_merge(recipe, [each.b.T.contiguous() for each in rows], roots, draws)
    return ModuleRows(a, b.T.contiguous())


def _peft_merge(
    recipe: Recipe, tensors: list[torch.Tensor], weights: torch.Tensor, draws: torch.Generator
) -> torch.Tensor:
    from peft.utils import merge_utils  # all of peft comes with it, and few ever need it

    sign = recipe.majority_sign.value
    kept = (
        [_drop_and_grow(each, recipe.density, draws) for each in tensors]
        if recipe.method in DARE
        else tensors
    )
    merged: torch.Tensor
    if recipe.method is Method.DARE_LINEAR:
        merged = merge_utils.task_arithmetic(kept, weights)
    elif recipe.method is Method.DARE_TIES:
        stacked = torch.stack(kept)
        majority = merge_utils.calculate_majority_sign_mask(stacked, method=sign)
        weighted = stacked * merge_utils.reshape_weight_task_tensors(stacked, weights)
        merged = merge_utils.disjoint_merge(weighted, majority)
    elif recipe.method is Method.TIES:
        merged = merge_utils.ties(kept, weights, recipe.density, sign)
    else:
        merged = merge_utils.magnitude_prune(kept, weights, recipe.density)
    return merged


def _drop_and_grow(tensor: torch.Tensor, density: float, draws: torch.Generator) -> torch.Tensor:
    """PEFT's `random_pruning` with its rescaling, value for value, from a generator of our own."""
    if density >= 1:
        return tensor
    return tensor * torch.bernoulli(torch.full_like(tensor, density), generator=draws) / density
