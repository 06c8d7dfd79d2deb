"""How many tokens the KV cache may hold, decided once at start from what memory there is."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicCache

from lorikeet_adapters.base_model import BaseModel
from lorikeet_adapters.errors import BaseModelRefused
from lorikeet_adapters.rank_rows.rows import full_bytes
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.geometry import FIRST_COLUMNS, SLACK, Geometry, columns_for
from lorikeet_server.engine.memory import free_memory
from lorikeet_server.engine.prefix_index import BLOCK

log = logging.getLogger(__name__)
# Shares of the memory that is free at start beside the rank rows. On a CPU the rest of the machine needs some too.
CPU_SHARE = 0.25
CUDA_SHARE = 0.8
HOST_ADAPTER_SHARE = 8  # of the memory that is free at start
# Shares of the budget for what is not a slot.
PREFIX_SHARE = 4
PROMPT_SHARE = 8
LEAST_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the slots may hold, how many blocks of prompts are kept beside them, and how much of adapters."""

    geometry: Geometry
    prefix_blocks: int
    column_bytes: int
    host_adapter_bytes: int = 0

    @property
    def max_model_len(self) -> int:
        return self.geometry.longest

    @property
    def block_bytes(self) -> int:
        return self.column_bytes * BLOCK


def plan_capacity(base: BaseModel, config: EngineConfig) -> Capacity:
    """What fits. A length the operator asked for and that does not fit is refused with the numbers.

    One sequence of the full length always fits; the slots share the rest, and when they outgrow it
    the newest gives way.
    """
    column = column_bytes(base)
    budget = config.cache_bytes or _free_share(base.device, reserved=full_bytes(base, config.rank_rows))
    prefix = budget // PREFIX_SHARE if config.prefix_cache_bytes < 0 else config.prefix_cache_bytes
    cells = (budget - prefix) // column
    fitting = _longest(cells)
    wanted = min(config.max_model_len or base.context_length, base.context_length)
    if fitting < (wanted if config.max_model_len else min(wanted, LEAST_LENGTH)):
        raise BaseModelRefused(
            f"a sequence of {wanted} tokens needs {_cells_for(wanted) * column:,} bytes of keys and values, there "
            f"are {max(budget - prefix, 0):,}: lower --max-model-len or --prefix-cache-bytes, or raise --cache-bytes"
            + ("" if config.cache_bytes else "; lower --rank-rows, whose memory is kept free for them")
        )
    length = min(wanted, fitting)
    if length < wanted:
        log.warning(
            "sequences hold %d tokens, the base was made for %d: there are %.1f GB of keys and values; "
            "change it by --cache-bytes",
            *(length, wanted, (budget - prefix) / 1e9),
        )
    prompts = max(length, cells // PROMPT_SHARE)
    host = free_memory() // HOST_ADAPTER_SHARE if config.host_adapter_bytes < 0 else config.host_adapter_bytes
    return Capacity(
        Geometry(config.max_slots, length, cells - prompts, prompts), prefix // (column * BLOCK), column, host
    )


@torch.no_grad()
def column_bytes(base: BaseModel) -> int:
    """Keys and values of one token in all layers: measured, because configs describe it in many ways."""
    cache = DynamicCache()
    base.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=base.device), past_key_values=cache)
    blocks = [block for layer in cache.layers for block in (layer.keys, layer.values) if block is not None]
    if not blocks:
        family = base.model.config.model_type
        raise BaseModelRefused(
            f"`{base.name}` is not served: a {family} model keeps no cache of keys and values"
        )
    return sum(block.numel() * block.element_size() for block in blocks)


def _cells_for(length: int) -> int:
    """One sequence: its slot, and its prompt while it is under way."""
    return length + columns_for(length)


def _longest(cells: int) -> int:
    """The largest length whose _cells_for are no more than `cells`; 0 when there is none."""
    length = max(cells - FIRST_COLUMNS, 0) // 2
    return length if length <= FIRST_COLUMNS * SLACK else cells * SLACK // (2 * SLACK + 1)


def _free_share(device: torch.device, reserved: int) -> int:
    """Of what will be free once the rank rows are full. What is left is for the rows' copies and for computing."""
    if device.type == "cuda":
        return int(max(torch.cuda.mem_get_info(device)[0] - reserved, 0) * CUDA_SHARE)
    return int(max(free_memory() - reserved, 0) * CPU_SHARE)
