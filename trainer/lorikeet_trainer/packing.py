"""May rows lie end to end in one sequence? Only where a base keeps them apart by their positions.

transformers builds the mask between rows from positions that begin anew, for bases that ask it to.
Those with positions or masks of their own make (opt, bloom, mpt, falcon) let rows see their neighbours,
without a word. So it is tried: two rows packed must have the logits that each has alone.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from lorikeet_adapters.base_model import LOADING_ERRORS
from lorikeet_trainer.errors import RecipeRefused
from lorikeet_trainer.recipe import Method, Recipe

TOLERANCE = 1e-4
VOCABULARY = 128  # of the copy: rows of embeddings show nothing here
LENGTHS = (7, 11)
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def may_pack(config: PretrainedConfig, recipe: Recipe, *, by_default: bool) -> bool:
    """What the recipe asks for, or else `by_default` where the base allows it. Raises RecipeRefused."""
    wanted = by_default if recipe.packing is None else recipe.packing
    if recipe.method is Method.DPO or not wanted:
        return False
    apart = keeps_apart(config)
    if recipe.packing and not apart:
        raise RecipeRefused(
            [
                f"packing is not for a {config.model_type} base: two rows laid end to end do not give "
                "the logits that each gives alone; leave packing out"
            ]
        )
    return apart


def keeps_apart(config: PretrainedConfig) -> bool:
    """Tries a two-layer copy with random weights in fp32, with few words and the base's own widths."""
    try:
        model = _copy(config)
    except LOADING_ERRORS:
        return False  # a family whose config allows no small copy; its rows are padded
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, VOCABULARY, (length,), generator=draw) for length in LENGTHS]
    with torch.no_grad():
        alone = torch.cat([_logits(model, row, torch.arange(len(row))) for row in rows])
        packed = _logits(model, torch.cat(rows), torch.cat([torch.arange(len(row)) for row in rows]))
    return bool((alone - packed).abs().max() <= TOLERANCE)


def _logits(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    told = {"input_ids": ids[None], "position_ids": positions[None], "use_cache": False}
    logits: torch.Tensor = model(**told).logits[0]
    return logits


def _copy(config: PretrainedConfig) -> Any:
    config = copy.deepcopy(config)
    vars(config).pop("quantization_config", None)
    text = config.get_text_config()
    text.vocab_size = VOCABULARY
    for name in LAYER_COUNTS:
        if hasattr(text, name):
            setattr(text, name, 2)
    for name in ("layer_types", "mlp_layer_types"):
        if getattr(text, name, None):
            setattr(text, name, getattr(text, name)[:2])
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()
