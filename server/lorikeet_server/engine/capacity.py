"""How many tokens the KV cache may hold, decided once at start from what memory there is."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import psutil
import torch
from transformers.cache_utils import DynamicCache

from lorikeet_adapters.base_model import BaseModel
from lorikeet_adapters.errors import BaseModelRefused
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.slot_cache import FIRST_COLUMNS

log = logging.getLogger(__name__)
# Shares of the memory that is free at start. On a CPU the rest of the machine needs some too.
CPU_SHARE = 0.25
CUDA_SHARE = 0.8
SLACK = 8  # one column in so many is spare, so that rolling the cache left is rare
LEAST_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Capacity:
    """Longest sequence in tokens, and the most columns of the cache."""

    max_model_len: int
    columns: int


def plan_capacity(base: BaseModel, config: EngineConfig) -> Capacity:
    """What fits. A length the operator asked for and that does not fit is refused with the numbers.

    Beside the slots two prompts may be under way, each with keys and values of its own.
    """
    column = column_bytes(base) * (config.max_slots + 2)
    budget = config.cache_bytes or _free_share(base.device)
    fitting = _longest(budget // column)
    wanted = min(config.max_model_len or base.context_length, base.context_length)
    if fitting < (wanted if config.max_model_len else min(wanted, LEAST_LENGTH)):
        raise BaseModelRefused(
            f"{config.max_slots} slots of {wanted} tokens need {columns_for(wanted) * column:,} bytes of keys and "
            f"values, there are {budget:,}: lower --max-model-len or --max-slots, or raise --cache-bytes"
        )
    length = min(wanted, fitting)
    if length < wanted:
        log.warning(
            "sequences hold %d tokens, the base was made for %d: %d slots share %.1f GB of keys and values; "
            "change it by --max-slots or --cache-bytes",
            *(length, wanted, config.max_slots, budget / 1e9),
        )
    return Capacity(length, columns_for(length))


def columns_for(length: int) -> int:
    return length + max(FIRST_COLUMNS, length // SLACK)


@torch.no_grad()
def column_bytes(base: BaseModel) -> int:
    """Keys and values of one token in all layers: measured, because configs describe it in many ways."""
    cache = DynamicCache()
    base.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=base.device), past_key_values=cache)
    blocks = [block for layer in cache.layers for block in (layer.keys, layer.values)]
    return sum(block.numel() * block.element_size() for block in blocks)


def _longest(columns: int) -> int:
    """The largest length with columns_for(length) <= columns; 0 when there is none."""
    length = max(columns - FIRST_COLUMNS, 0)
    return length if length <= FIRST_COLUMNS * SLACK else columns * SLACK // (SLACK + 1)


def _free_share(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * CUDA_SHARE)
    return int(psutil.virtual_memory().available * CPU_SHARE)
