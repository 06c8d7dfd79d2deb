"""What training on a file would cost on this machine, before the base is loaded.

Steps are exact. Time and memory follow from the shapes of the base and from how fast this machine
multiplies matrices now; read them as "minutes or hours", not as a promise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from lorikeet_adapters.base_model import outline
from lorikeet_adapters.outline import LinearShape
from lorikeet_adapters.precision import bfloat16_is_fast
from lorikeet_adapters.quantization import Quantization
from lorikeet_trainer.recipe import Plan, Recipe
from lorikeet_trainer.validator import Validated

MEASURED = 0.2  # seconds
# Seconds beside the large products, as measured: for each step, and for each layer in it.
STEP, LAYER = 0.05, {"cpu": 0.015, "cuda": 0.004}
SMALL = 1.5  # what small operations add to the large products
ADAM = 16  # bytes a trained parameter: itself, its gradient and two moments, in float32
TOGETHER = 512  # tokens in a measured product
LOGITS = 12  # bytes a logit: float32, its softmax and its gradient
# Bytes a weight of a linear module; NF4 has a scale for each 64 weights, itself quantised.
BYTES = {Quantization.NF4: 0.52, Quantization.INT8: 1.0, Quantization.BF16: 2.0, Quantization.FP32: 4.0}


@dataclass(frozen=True, slots=True)
class Estimate:
    """`tokens` counts all passes; `bytes` is the most held at once by weights, adapter and activations."""

    steps: int
    epochs: float
    batch_size: int
    tokens: int
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class _Base:
    """`linears` without the head; `vocabulary` is the input embedding's ids and width."""

    linears: tuple[LinearShape, ...]
    vocabulary: LinearShape
    layers: int

    @classmethod
    def of(cls, model: str) -> _Base:
        shapes = outline(model)
        names = [name for name in shapes.linears if name not in shapes.vocabulary]
        layers = {name.rpartition(".")[0].rpartition(".")[0] for name in names}
        embedding = next(iter(shapes.embeddings.values()))
        return cls(tuple(shapes.linears[name] for name in names), embedding, len(layers))

    @property
    def weights(self) -> int:
        return sum(each.in_features * each.out_features for each in self.linears)

    @property
    def vocabulary_weights(self) -> int:
        return self.vocabulary.in_features * self.vocabulary.out_features


def estimate(model: str, recipe: Recipe, validated: Validated, device: str) -> Estimate | None:
    """None when there is nothing to train on. Raises BaseModelRefused."""
    made = validated.rows or validated.pairs
    if not made:
        return None
    base = _Base.of(model)
    plan = recipe.plan(len(made), validated.limit, recipe.target_modules)
    tokens = round(plan.steps * plan.batch_size * fmean(each.tokens for each in made))
    sequences = plan.batch_size * (2 if validated.pairs else 1)
    at_once = sequences * max(each.longest for each in made)
    return Estimate(
        steps=plan.steps,
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        tokens=tokens,
        seconds=_seconds(base, tokens, plan.steps, device),
        bytes=round(_held(base, plan) + at_once * _activations(base, device)),
    )


def _seconds(base: _Base, tokens: int, steps: int, device: str) -> float:
    """Forward, and back to the activations: frozen weights get no gradient. CUDA runs forward twice."""
    operations = (4 if device == "cpu" else 6) * (base.weights + base.vocabulary_weights)
    products = tokens * operations / _speed(device, base.linears)
    return SMALL * products + steps * (STEP + base.layers * LAYER[device])


def _held(base: _Base, plan: Plan) -> float:
    """Bytes of the base and of what is trained, whatever the rows are."""
    trained = sum(plan.rank * (each.in_features + each.out_features) for each in base.linears)
    size = BYTES[Quantization.NF4 if plan.quantization is Quantization.AUTO else plan.quantization]
    vocabulary = 4 if plan.quantization is Quantization.FP32 else 2
    return base.weights * size + base.vocabulary_weights * vocabulary + trained * ADAM


def _activations(base: _Base, device: str) -> float:
    """Bytes a token. With checkpointing, on CUDA, one layer is held whole and of the others what enters."""
    width = 4 if device == "cpu" else 2
    whole: float = sum(each.in_features + each.out_features for each in base.linears) * width
    if device != "cpu":
        whole = whole / max(base.layers, 1) + base.layers * base.vocabulary.out_features * width
    return whole + base.vocabulary.in_features * LOGITS


def _speed(device: str, linears: Sequence[LinearShape]) -> float:
    """Operations a second in products as large as the base's largest, measured."""
    where = torch.device(device)
    shape = max(linears, key=lambda each: each.in_features * each.out_features)
    dtype = torch.bfloat16 if bfloat16_is_fast(where) else torch.float32
    left = torch.ones(TOGETHER, shape.in_features, dtype=dtype, device=where)
    right = torch.ones(shape.in_features, shape.out_features, dtype=dtype, device=where)
    done, begun = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < MEASURED:
        torch.mm(left, right)[0, 0].item()  # waits for the device
        done += 1
    return done * 2 * TOGETHER * shape.in_features * shape.out_features / elapsed
