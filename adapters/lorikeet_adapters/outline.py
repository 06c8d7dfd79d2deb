"""What of a base an adapter can change: its linear modules, its input embedding and its biases, by shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

EXPERTS = ".experts."
PLAIN_FORWARDS = frozenset(
    {"torch.nn.modules.linear", "transformers.pytorch_utils", "bitsandbytes.nn.modules"}
)


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A module that can carry LoRA: y[..., out_features] from x[..., in_features]."""

    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class Outline:
    """Module names to shapes. An embedding's `in_features` is the number of its ids; a bias is [size].

    `vocabulary` names the input embedding and the head, whose weights PEFT copies into some adapters.
    """

    linears: Mapping[str, LinearShape]
    embeddings: Mapping[str, LinearShape]
    biases: Mapping[str, int]
    vocabulary: frozenset[str] = frozenset()


def outline_of(model: PreTrainedModel) -> Outline:
    """Only the input embedding counts: others take positions or types, some by rules of their own."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if module is embedding]
    heads = [name for name, module in model.named_modules() if module is head]
    shape = LinearShape(embedding.num_embeddings, embedding.embedding_dim)
    linears = linear_shapes(model)
    biases = {
        name: len(module.bias)
        for name, module in model.named_modules()
        if (name in linears or _normalises_tokens(module, shape.out_features))
        and getattr(module, "bias", None) is not None
    }
    return Outline(linears, dict.fromkeys(names, shape), biases, frozenset([*names, *heads]))


def linear_shapes(model: nn.Module) -> dict[str, LinearShape]:
    """Every linear module that rank rows can be added to, by name, in the order of the forward's definition.

    Left out are experts, which see the tokens routed to them and not the batch's, and subclasses
    that return something else than a linear layer does, such as routers.
    """
    return {
        name: _shape(module)
        for name, module in model.named_modules()
        if _is_linear(module) and EXPERTS not in f".{name}."
    }


def _is_linear(module: nn.Module) -> bool:
    if not isinstance(module, (nn.Linear, Conv1D)):
        return False
    home = next(each.__module__ for each in type(module).__mro__ if "forward" in vars(each))
    return home in PLAIN_FORWARDS or _maps_a_token(module)


def _normalises_tokens(module: nn.Module, width: int) -> bool:
    """A layer norm over whole tokens; those over single heads see no token as one row."""
    return isinstance(module, nn.LayerNorm) and module.normalized_shape == (width,)


@torch.no_grad()
def _maps_a_token(module: nn.Linear | Conv1D) -> bool:
    """Tries a forward we do not know: one token in, one tensor of the layer's width out."""
    shape, weight = _shape(module), module.weight
    try:
        out = module(torch.zeros(1, shape.in_features, dtype=weight.dtype, device=weight.device))
    except (RuntimeError, TypeError):
        return False
    return isinstance(out, torch.Tensor) and out.shape == (1, shape.out_features)


def _shape(module: nn.Module) -> LinearShape:
    if isinstance(module, Conv1D):
        return LinearShape(module.nx, module.nf)
    linear = cast("nn.Linear", module)
    return LinearShape(linear.in_features, linear.out_features)
