"""The engine's own section of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lorikeet_server.options import option


class KernelName(StrEnum):
    """How the rows of adapters are computed; see `lorikeet_adapters.rank_rows.kernels`."""

    AUTO = "auto"
    NATIVE = "native"
    TORCH = "torch"
    TRITON = "triton"
    REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How much the engine holds and computes at once."""

    max_slots: int = option(16, "Requests decoded at once.", least=1, most=1024)
    max_model_len: int = option(0, "Longest sequence in tokens; 0: what the base was made for.", least=0)
    cache_bytes: int = option(
        0,
        "Most bytes of keys and values; 0: a quarter of the memory free beside --rank-rows, on a GPU four fifths.",
        least=0,
    )
    prefix_cache_bytes: int = option(
        -1, "Part of --cache-bytes that keeps prompts for reuse; 0: none, -1: a quarter.", least=-1
    )
    rank_rows: int = option(512, "Sum of the ranks held beside the base.", least=1)
    host_adapter_bytes: int = option(
        -1,
        "Most bytes of adapters kept in memory for their return; 0: none, -1: an eighth of what is free.",
        least=-1,
    )
    prefill_tokens: int = option(256, "Tokens a step computes at most; long prompts take several.", least=1)
    prefill_ms: int = option(
        0, "Milliseconds of a step in which others decode that prompts may take, on a CPU; 0: any.", least=0
    )
    threads: int = option(0, "Threads of the engine; 0: torch's choice.", least=0)
    step_seconds: int = option(
        300, "A step that takes longer hangs: the log gets every thread's stack, health turns red.", least=1
    )
    kernel: KernelName = option(
        KernelName.AUTO,
        "What computes adapters and linear layers; auto is native on a CPU where it was built, else torch.",
    )
