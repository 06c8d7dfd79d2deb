"""Judging adapter files against a base: what the registry is handed, because it imports no torch itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lorikeet_adapters.linears import LinearShape
from lorikeet_adapters.registry import AdapterFacts
from lorikeet_adapters.spec import AdapterSpec
from lorikeet_adapters.weights import load_weights


class Checker:
    """Reads the weights against these shapes, in fp32: what would overflow in another form is refused as implausible."""

    def __init__(self, linears: Mapping[str, LinearShape], base_name: str, base_source: str) -> None:
        self._linears = linears
        self._names = {base_name, Path(base_source).name}

    def __call__(self, spec: AdapterSpec, weights: Path) -> AdapterFacts:
        checked = load_weights(weights, spec, self._linears, torch.float32)
        ranks = {module: rows.rank for module, rows in checked.modules.items()}
        return AdapterFacts(ranks, checked.bytes, self._warnings(spec))

    def _warnings(self, spec: AdapterSpec) -> tuple[str, ...]:
        trained_on = Path(spec.base_name).name if spec.base_name else None
        if trained_on is None or trained_on in self._names:
            return ()
        return (
            f"the adapter names the base {trained_on!r}; its shapes fit, whether it suits this one is not known",
        )
