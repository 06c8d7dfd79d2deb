"""Whether `--device` can mean anything, asked before torch is imported."""

from __future__ import annotations

import re

from lorikeet_adapters.errors import RefusedError

DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?", re.ASCII)


def check_device(device: str) -> None:
    """Raises RefusedError for a word that is no device; whether the machine has it is torch's to say."""
    if not DEVICE.fullmatch(device):
        raise RefusedError(f"--device {device} is none of auto, cpu, cuda, cuda:N")
