"""Whether `--model` and `--device` can mean anything, asked before anything heavy is imported."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lorikeet_adapters.errors import BaseModelRefused, RefusedError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)


DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?", re.ASCII)


def check_device(device: str) -> None:
    """Raises RefusedError for a word that is no device; whether the machine has it is torch's to say."""
    if not DEVICE.fullmatch(device):
        raise RefusedError(f"--device {device} is none of auto, cpu, cuda, cuda:N")


def check_source(source: str) -> None:
    """`demo`, a folder with a config.json, or a hub id that is cached or can be asked for.

    Raises BaseModelRefused naming every possibility that was looked at.
    """
    if source == "demo":
        return
    if os.path.isdir(source):  # unlike Path.is_dir it is False for what can be no path at all
        if not (Path(source) / "config.json").is_file():
            raise BaseModelRefused(f"`{source}` is no model folder: it has no config.json")
        return
    if os.path.exists(source):
        raise BaseModelRefused(f"`{source}` is a file; name the model's folder")
    if not HUB_ID.fullmatch(source):
        raise BaseModelRefused(f"`{source}` is neither a folder here nor a hub id like owner/name")
    _refuse_unreachable(source)


def _refuse_unreachable(repo: str) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(repo, "config.json"), str):
        raise BaseModelRefused(
            f"there is no folder `{repo}` here, and no model `{repo}` in the hub's cache; "
            "offline (HF_HUB_OFFLINE is set) it cannot be downloaded: name a folder, or unset HF_HUB_OFFLINE"
        )
