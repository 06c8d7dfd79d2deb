"""What the engine reports after each step, for metrics and for GET /v1/adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lorikeet_adapters.lifecycle import AdapterState


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One moment, taken between two steps. `adapters` maps generations to states; absent means on disk."""

    running: int = 0
    waiting: int = 0
    waiting_adapter: int = 0
    slots: int = 0
    rows_used: int = 0
    rows: int = 0
    cache_bytes: int = 0
    cache_limit: int = 0  # bytes that cache_bytes may grow to
    cache_cells: int = 0  # tokens that fit into those
    adapter_bytes: int = 0
    host_adapter_bytes: int = 0  # of adapters kept in memory, those on the device among them
    prefix_bytes: int = 0
    steps: int = 0
    step_age: float = 0.0  # seconds that the present step has taken
    preemptions: int = 0
    prefix_hit_tokens: int = 0
    prompt_tokens: int = 0  # of requests that were begun
    loads: int = 0  # from the disk
    host_hits: int = 0  # adapters that were still in memory when they were asked for again
    failed_loads: int = 0
    evictions: int = 0
    adapters: Mapping[str, AdapterState] = field(default_factory=dict)
