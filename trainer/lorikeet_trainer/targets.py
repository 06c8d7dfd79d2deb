"""Which modules of a base get LoRA pairs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lorikeet_adapters.base_model import BaseModel
from lorikeet_trainer.errors import RecipeRefused


def target_modules(base: BaseModel, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Last parts of module names, sorted; nothing wanted means all linear modules but the output head.

    Raises RecipeRefused for what the base has not, or what an adapter may not touch.
    """
    head = base.model.get_output_embeddings()
    head_names = {_leaf(name) for name, module in base.model.named_modules() if module is head}
    available = {_leaf(name) for name in base.linears} - head_names
    reasons = tuple(_reason(name, head_names, available) for name in wanted if name not in available)
    if reasons:
        raise RecipeRefused(reasons)
    return tuple(sorted(set(wanted) or available))


def _reason(name: str, head_names: Collection[str], available: Collection[str]) -> str:
    if name in head_names:
        return f"target {name} is the output head, which adapters leave as it is"
    return f"the base has no linear module named {name}; it has {', '.join(sorted(available))}"


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
