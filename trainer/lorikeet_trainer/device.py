"""Where the arithmetic is done."""

from __future__ import annotations

import os
from enum import StrEnum

from lorikeet_trainer.errors import DeviceRefused

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Device(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


def refuse_missing(device: Device) -> None:
    """Raises DeviceRefused when this machine has no such device."""
    import torch  # not above: the command line shows the names without it

    if device is Device.CUDA and not torch.cuda.is_available():
        raise DeviceRefused("this machine has no usable CUDA device; leave out --device, or say --device cpu")


def see_only(index: int) -> None:
    """Hide every CUDA device but one from this process, before it uses any.

    transformers would make each batch as many times larger as it sees devices. `index` counts those
    that are to be seen now. Raises DeviceRefused when there are not as many.
    """
    seen = os.environ.get(VISIBLE)
    names = [str(index)] if seen is None else seen.split(",")[index : index + 1]
    if not names:
        raise DeviceRefused(f"there is no CUDA device {index}: {VISIBLE} is {seen}")
    os.environ[VISIBLE] = names[0]
