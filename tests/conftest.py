"""For every test: one torch thread and no hub, in this process and in those it starts."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

# Tiny tensors on two threads wait for each other longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Without a GPU what is written for one is interpreted. Triton reads this when it is imported, which others do.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")
    # bitsandbytes has four functions compiled when it is imported, of which none runs on a processor: importing
    # the compiler is a quarter of what a process takes to start.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that are given minutes come first: one begun last would keep a single worker busy alone."""
    given: Counter[Path] = Counter()
    for item in items:
        if (limit := item.get_closest_marker("timeout")) is not None and item.get_closest_marker(
            "soak"
        ) is None:
            given[item.path] += int(limit.args[0])
    items.sort(key=lambda item: -given[item.path])
