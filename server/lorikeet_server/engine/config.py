"""The engine's own section of the configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """`max_model_len` 0 means the base's own context length; `threads` 0 leaves torch's choice."""

    max_slots: int = 16
    max_model_len: int = 0
    rank_rows: int = 512
    prefill_tokens: int = 256
    kernel: str = "torch"
    threads: int = 0
