"""The tensors of an adapter, checked against a base and in the form the rank rows hold.

What does not fit is refused with every reason at once; nothing in the file is ever dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.finding import Finding
from lorikeet_adapters.outline import LinearShape, Outline
from lorikeet_adapters.spec import AdapterSpec
from lorikeet_adapters.tensors import SAVE_AGAIN, Part, Parts, read_parts
from lorikeet_adapters.threads import alone

# A trained adapter stays far below; anything above is a broken file or an attempt to poison a batch.
LARGEST_PLAUSIBLE = 1e4
OTHER_BASE = "register the adapter on the base it was trained on"
NOT_LORA = frozenset({Part.BIAS, Part.COPY})  # what PEFT saves of modules that it does not adapt


@dataclass(frozen=True, slots=True)
class ModuleRows:
    """One module's share: a[r, in_features], b[r, out_features] with the scaling folded in.

    The module's output gains `(x @ a.T) @ b`, an embedding's `a[:, ids].T @ b`.
    """

    a: torch.Tensor
    b: torch.Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """A whole adapter on the host. Vectors are fp32 [out_features], by module.

    `shifts` are added to the output (lora_bias, scaled), `biases` stand in place of the base's own,
    `magnitudes` are DoRA's lengths of the weight's rows.
    """

    modules: Mapping[str, ModuleRows]
    shifts: Mapping[str, torch.Tensor] = field(default_factory=dict)
    biases: Mapping[str, torch.Tensor] = field(default_factory=dict)
    magnitudes: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return max(rows.rank for rows in self.modules.values())

    @property
    def is_dora(self) -> bool:
        """Then it is applied by itself and with weight 1, or not at all: DoRA is not linear."""
        return bool(self.magnitudes)

    @property
    def bytes(self) -> int:
        return sum(each.numel() * each.element_size() for each in self._tensors())

    def _tensors(self) -> Iterator[torch.Tensor]:
        for rows in self.modules.values():
            yield from (rows.a, rows.b)
        for vectors in (self.shifts, self.biases, self.magnitudes):
            yield from vectors.values()


def load_weights(path: Path, spec: AdapterSpec, outline: Outline, dtype: torch.dtype) -> AdapterWeights:
    """Read, check and convert. Raises AdapterRefused with every reason at once."""
    with alone():  # mostly on a thread beside the engine's
        return _load(path, spec, outline, dtype)


def _load(path: Path, spec: AdapterSpec, outline: Outline, dtype: torch.dtype) -> AdapterWeights:
    parts, findings = read_parts(path)
    findings += [each for module in sorted(parts) for each in _misfits(module, parts[module], spec, outline)]
    findings += spec.reach.judge(module for module, own in parts.items() if own.keys() - NOT_LORA)
    if not findings and not any(Part.B in each or Part.EMBEDDING_B in each for each in parts.values()):
        findings.append(Finding("no_tensors", "adapter_model.safetensors holds no LoRA tensor", SAVE_AGAIN))
    if findings:
        raise AdapterRefused([*findings, *_not_finite(parts)])
    weights = _fold(parts, spec, dtype)
    # What is plausible after scaling was finite before, so a sound adapter is read through once.
    implausible = list(_implausible(weights))
    if implausible:
        raise AdapterRefused(_not_finite(parts) or implausible)
    return weights


def _misfits(
    module: str, parts: Mapping[Part, torch.Tensor], spec: AdapterSpec, outline: Outline
) -> list[Finding]:
    """Why these parts cannot be applied to this module."""
    if spec.dora and Part.EMBEDDING_A in parts:
        message = f"{module} is an embedding with DoRA, which is not supported"
        return [Finding("dora_on_embedding", message, "train it without use_dora", module=module)]
    expected = _expected(module, spec, outline)
    if not expected:
        message = f"the base has no linear module {module}"
        return [Finding("module_not_in_base", message, OTHER_BASE, module=module)]
    missing = _needed(parts, spec) - parts.keys()
    findings = [
        Finding("half_a_module", f"{module} lacks its {part}", SAVE_AGAIN, module=module)
        for part in sorted(missing)
    ]
    for part, tensor in parts.items():
        if part not in expected:
            message = f"{module} has a {part}, which its adapter_config.json or the base does not provide for"
            findings.append(Finding("unexpected_tensor", message, SAVE_AGAIN, module=module))
        elif part is Part.COPY:
            findings += _resized(module, tuple(tensor.shape), expected[part])
        elif tuple(tensor.shape) != expected[part]:
            needed = f"the base and rank {spec.rank_of(module)} need {list(expected[part])}"
            message = f"{module}.{part} is {list(tensor.shape)}, {needed}"
            findings.append(Finding("shape_mismatch", message, OTHER_BASE, module=module))
    return findings


def _not_finite(parts: Parts) -> list[Finding]:
    return [
        Finding("not_finite", f"{module}.{part} holds NaN or infinity", "train it again", module=module)
        for module, own in sorted(parts.items())
        for part, tensor in own.items()
        if not tensor.is_meta and not torch.isfinite(tensor).all()
    ]


def _resized(module: str, have: tuple[int, ...], need: tuple[int, ...]) -> list[Finding]:
    if have == need:
        return []
    message = f"the adapter's own copy of {module} is {list(have)}, the base's is {list(need)}"
    fix = "train it on the base without resizing its vocabulary"
    return [Finding("resized_or_trained_embedding", message, fix, module=module)]


def _needed(parts: Mapping[Part, torch.Tensor], spec: AdapterSpec) -> set[Part]:
    """What must stand beside the parts there are. A trained bias may stand alone."""
    if parts.keys() & {Part.EMBEDDING_A, Part.EMBEDDING_B}:
        return {Part.EMBEDDING_A, Part.EMBEDDING_B}
    if parts.keys() <= {Part.BIAS, Part.COPY}:
        return set()
    needed = {Part.A, Part.B}
    return needed | ({Part.B_BIAS} if spec.lora_bias else set()) | ({Part.MAGNITUDE} if spec.dora else set())


def _expected(module: str, spec: AdapterSpec, outline: Outline) -> dict[Part, tuple[int, ...]]:
    """The shape of every part that this module may have; nothing when the base has no such module."""
    rank = spec.rank_of(module)
    shapes: dict[Part, tuple[int, ...]] = {}
    if module in outline.linears:
        shape = outline.linears[module]
        shapes |= {Part.A: (rank, shape.in_features), Part.B: (shape.out_features, rank)}
        shapes |= _optional(shape, spec)
    if module in outline.embeddings:
        shape = outline.embeddings[module]
        shapes |= {Part.EMBEDDING_A: (rank, shape.in_features), Part.EMBEDDING_B: (shape.out_features, rank)}
    if module in outline.vocabulary:
        known = outline.embeddings.get(module)
        rows = (known.in_features, known.out_features) if known else None
        head = outline.linears.get(module)
        shapes[Part.COPY] = rows or ((head.out_features, head.in_features) if head else ())
    # Beside LoRA on a head PEFT saves the head's own bias, too; it is applied like a trained one.
    if module in outline.biases and (spec.trains_biases or module in outline.vocabulary):
        shapes[Part.BIAS] = (outline.biases[module],)
    return shapes


def _optional(shape: LinearShape, spec: AdapterSpec) -> Mapping[Part, tuple[int, ...]]:
    named = {Part.B_BIAS: spec.lora_bias, Part.MAGNITUDE: spec.dora}
    return {part: (shape.out_features,) for part, there in named.items() if there}


def _fold(parts: Parts, spec: AdapterSpec, dtype: torch.dtype) -> AdapterWeights:
    """Scaling goes into b, and with it into the bias of lora_B."""
    factors = {}
    shifts = {}
    for module, own in sorted(parts.items()):
        scaling = spec.scaling_of(module)
        a = own.get(Part.A, own.get(Part.EMBEDDING_A))
        b = own.get(Part.B, own.get(Part.EMBEDDING_B))
        if a is not None and b is not None:
            factors[module] = (a, b, scaling)
        if Part.B_BIAS in own:
            shifts[module] = own[Part.B_BIAS].float() * scaling
    biases, magnitudes = _vectors(parts, Part.BIAS), _vectors(parts, Part.MAGNITUDE)
    return AdapterWeights(_rows(factors, dtype), shifts, biases, magnitudes)


def _rows(
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor, float]], dtype: torch.dtype
) -> dict[str, ModuleRows]:
    """(a, b, scaling) by module, in the order given; those that are alike are converted together.

    A load runs beside decoding: a few large operations leave the interpreter to the engine, where many
    small ones would take it from the engine again and again. All is copied: what was read lies in the
    mapped file, which need not be there for as long as this is.
    """
    alike: dict[Hashable, list[str]] = defaultdict(list)
    for module, (a, b, scaling) in factors.items():
        alike[a.shape, b.shape, a.dtype, b.dtype, scaling].append(module)
    made: dict[str, ModuleRows] = {}
    for modules in alike.values():
        a = torch.stack([factors[each][0] for each in modules]).to(dtype)
        b = torch.stack([factors[each][1] for each in modules]).float()
        b = (b * factors[modules[0]][2]).to(dtype).transpose(1, 2).contiguous()
        made |= {each: ModuleRows(*rows) for each, *rows in zip(modules, a.unbind(), b.unbind(), strict=True)}
    return {module: made[module] for module in factors}


def _vectors(parts: Parts, part: Part) -> dict[str, torch.Tensor]:
    return {
        module: own[part].to(torch.float32, copy=True) for module, own in sorted(parts.items()) if part in own
    }


def _implausible(weights: AdapterWeights) -> Iterator[Finding]:
    """A finding for each module, then for each vector, that holds a weight too large, or none that is a number."""
    tensors: list[tuple[str, tuple[torch.Tensor, ...]]] = [
        (module, (rows.a, rows.b)) for module, rows in sorted(weights.modules.items())
    ]
    for vectors in (weights.shifts, weights.biases, weights.magnitudes):
        tensors += [(module, (vector,)) for module, vector in sorted(vectors.items())]
    if _largest(*(each for _, own in tensors for each in own)) <= LARGEST_PLAUSIBLE:
        return
    for module, own in tensors:
        # Each by itself: a scaling too large for fp32 turns a zero into NaN, which max() may pass over.
        beyond = [largest for each in own if not (largest := _largest(each)) <= LARGEST_PLAUSIBLE]
        if beyond:
            message = f"{module} holds a weight of {beyond[0]:.3g} after scaling"
            fix = f"weights stay below {LARGEST_PLAUSIBLE:.0g}"
            yield Finding("implausible_magnitude", message, fix, module=module)


def _largest(*tensors: torch.Tensor) -> float:
    """Of the absolute values; NaN where there is one."""
    extremes = torch.stack([each.float() for tensor in tensors for each in torch.aminmax(tensor)])
    return float(extremes.abs().max())
