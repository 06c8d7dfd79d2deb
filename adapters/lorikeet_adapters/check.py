"""Judging adapter files against a base: what the registry is handed, because it imports no torch itself."""

from __future__ import annotations

from pathlib import Path

import torch

from lorikeet_adapters.base_source import resolve_source
from lorikeet_adapters.checkpoint import read_tensor
from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.finding import Finding
from lorikeet_adapters.outline import Outline
from lorikeet_adapters.record import AdapterFacts
from lorikeet_adapters.spec import AdapterSpec
from lorikeet_adapters.tensors import read_copies
from lorikeet_adapters.weights import AdapterWeights, load_weights


class Checker:
    """Reads the weights against this base, in fp32: what would overflow in another form is refused as implausible.

    `row_budget` is the most rank rows an adapter may take; None where no server is asked.
    """

    def __init__(
        self, outline: Outline, base_name: str, base_source: str, row_budget: int | None = None
    ) -> None:
        self._outline = outline
        self._source = resolve_source(base_source)
        # The demo's is `base` to who trained on the folder inside the package.
        self._names = {base_name, Path(base_source).name, Path(self._source).name}
        self._row_budget = row_budget

    def __call__(self, spec: AdapterSpec, weights: Path) -> AdapterFacts:
        findings: list[Finding] = []
        checked: AdapterWeights | None = None
        try:
            checked = load_weights(weights, spec, self._outline, torch.float32)
        except AdapterRefused as refused:
            findings += refused.findings
        copies = [module for module, copy in read_copies(weights) if self._judge_copy(module, copy, findings)]
        if checked is not None and self._row_budget is not None and checked.rank > self._row_budget:
            message = f"its rank {checked.rank} is over the {self._row_budget} rank rows of this server"
            findings.append(Finding("over_budget", message, "start the server with more --rank-rows"))
        if findings or checked is None:
            raise AdapterRefused(findings)
        ranks = {module: rows.rank for module, rows in checked.modules.items()}
        warnings = (*self._warnings(spec), *_notes(copies))
        return AdapterFacts(ranks, checked.bytes, warnings, checked.is_dora)

    def _judge_copy(self, module: str, copy: torch.Tensor, findings: list[Finding]) -> bool:
        """True for an unchanged copy of the base's own weight. One that does not fit is named elsewhere."""
        if module not in self._outline.vocabulary:
            return False
        others = sorted(self._outline.vocabulary - {module})  # a tied weight is saved once, under one name
        own = read_tensor(self._source, [f"{each}.weight" for each in (module, *others)])
        if own is not None and own.shape == copy.shape and torch.equal(own.to(copy.dtype), copy):
            return True
        if own is None or own.shape == copy.shape:
            what = "differs from" if own is not None else "cannot be compared with"
            message = f"the adapter's own copy of {module} {what} the base's"
            fix = "train it with LoRA only: modules_to_save and trained embeddings are not supported"
            findings.append(Finding("resized_or_trained_embedding", message, fix, module=module))
        return False

    def _warnings(self, spec: AdapterSpec) -> tuple[str, ...]:
        trained_on = Path(spec.base_name).name if spec.base_name else None
        if trained_on is None or trained_on in self._names:
            return ()
        return (
            f"the adapter names the base {trained_on!r}; its shapes fit, whether it suits this one is not known",
        )


def _notes(copies: list[str]) -> tuple[str, ...]:
    return tuple(f"the file's copy of {module} equals the base's and is not used" for module in copies)
