"""adapter_model.safetensors -> checked CPU tensors in the form the rank rows hold.

Every tensor must be one half of a LoRA pair on a linear module of the served base; what is left
over is a reason to refuse, never dropped.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open

from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.finding import Finding
from lorikeet_adapters.linears import LinearShape
from lorikeet_adapters.spec import AdapterSpec

KEY = re.compile(r"base_model\.model\.(?P<module>[\w.]+)\.lora_(?P<half>[AB])\.weight")
DTYPES = frozenset({"F32", "F16", "BF16"})
# A trained adapter stays far below; anything above is a broken file or an attempt to poison a batch.
LARGEST_PLAUSIBLE = 1e4
MAX_TENSORS = 100_000
MAX_KEY = 512  # characters of a tensor's name

Pairs: TypeAlias = dict[str, dict[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class ModuleRows:
    """One module's share: a[r, in_features], b[r, out_features] with the scaling folded in.

    The module's output gains `(x @ a.T) @ b`.
    """

    a: torch.Tensor
    b: torch.Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """A whole adapter on the host, ready to be copied into rank rows."""

    modules: Mapping[str, ModuleRows]

    @property
    def rank(self) -> int:
        return max(rows.rank for rows in self.modules.values())

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for rows in self.modules.values() for t in (rows.a, rows.b))


def load_weights(
    path: Path, spec: AdapterSpec, linears: Mapping[str, LinearShape], dtype: torch.dtype
) -> AdapterWeights:
    """Read, check and convert. Raises AdapterRefused with every reason at once."""
    pairs, findings = _read_pairs(path)
    modules: dict[str, ModuleRows] = {}
    for module, halves in sorted(pairs.items()):
        reasons = _misfits(module, halves, spec, linears.get(module))
        findings.extend(reasons)
        if not reasons:
            modules[module] = _fold(halves, spec.scaling_of(module), dtype)
            findings.extend(_implausible(module, modules[module]))
    if not pairs and not findings:
        findings.append(
            Finding("no_tensors", "adapter_model.safetensors holds no tensor", "save the adapter again")
        )
    if findings:
        raise AdapterRefused(findings)
    return AdapterWeights(modules)


def _read_pairs(path: Path) -> tuple[Pairs, list[Finding]]:
    pairs: Pairs = defaultdict(dict)
    findings: list[Finding] = []
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            keys = file.keys()
            if len(keys) > MAX_TENSORS:
                message = f"adapter_model.safetensors holds {len(keys)} tensors, the most is {MAX_TENSORS}"
                return pairs, [Finding("too_many_tensors", message, "save the adapter's own tensors only")]
            for key in keys:
                match = KEY.fullmatch(key) if len(key) <= MAX_KEY else None
                dtype = file.get_slice(key).get_dtype()
                if match is None:
                    findings.append(
                        Finding(
                            "unsupported_tensor",
                            f"the tensor {key[:MAX_KEY]} is no LoRA weight of a linear module",
                            "train on linear modules only, without modules_to_save",
                            field=key[:MAX_KEY],
                        )
                    )
                elif dtype not in DTYPES:
                    findings.append(
                        Finding(
                            "unsupported_dtype",
                            f"the tensor {key} is {dtype}",
                            "save it as float32, float16 or bfloat16",
                            field=key,
                        )
                    )
                else:
                    pairs[match["module"]][match["half"]] = file.get_tensor(key)
    except (SafetensorError, OSError) as error:
        # The message of an OSError names the path, which is nobody's business but the server's.
        reason = error if isinstance(error, SafetensorError) else "the file cannot be opened"
        message = f"adapter_model.safetensors cannot be read: {reason}"
        findings.append(Finding("bad_safetensors", message, "save or download the adapter again"))
    return pairs, findings


def _misfits(
    module: str, halves: Mapping[str, torch.Tensor], spec: AdapterSpec, shape: LinearShape | None
) -> list[Finding]:
    if shape is None:
        return [
            Finding(
                "module_not_in_base",
                f"the base has no linear module {module}",
                "register the adapter on the base it was trained on",
                module=module,
            )
        ]
    if len(halves) == 1:
        (have,) = halves
        message = f"{module} has lora_{have} without its other half"
        return [Finding("half_a_module", message, "save the adapter again", module=module)]
    rank = spec.rank_of(module)
    wanted = {"A": (rank, shape.in_features), "B": (shape.out_features, rank)}
    findings = [
        Finding(
            "shape_mismatch",
            f"{module}.lora_{half} is {list(halves[half].shape)}, the base and rank {rank} need {list(want)}",
            "register the adapter on the base it was trained on",
            module=module,
        )
        for half, want in wanted.items()
        if tuple(halves[half].shape) != want
    ]
    bad = [half for half in ("A", "B") if not torch.isfinite(halves[half]).all()]
    findings += [
        Finding("not_finite", f"{module}.lora_{half} holds NaN or infinity", "train it again", module=module)
        for half in bad
    ]
    return findings


def _fold(halves: Mapping[str, torch.Tensor], scaling: float, dtype: torch.dtype) -> ModuleRows:
    a = halves["A"].to(dtype).contiguous()
    b = (halves["B"].float() * scaling).t().to(dtype).contiguous()
    return ModuleRows(a, b)


def _implausible(module: str, rows: ModuleRows) -> list[Finding]:
    largest = [float(rows.a.abs().max()), float(rows.b.abs().max())]
    # Each by itself: a scaling too large for fp32 turns a zero into NaN, which max() may pass over.
    beyond = [each for each in largest if not each <= LARGEST_PLAUSIBLE]
    if not beyond:
        return []
    message = f"{module} holds a weight of {beyond[0]:.3g} after scaling"
    return [
        Finding(
            "implausible_magnitude", message, f"weights stay below {LARGEST_PLAUSIBLE:.0g}", module=module
        )
    ]
