"""Where the arithmetic is done."""

from __future__ import annotations

from enum import StrEnum

from lorikeet_trainer.errors import DeviceRefused


class Device(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


def refuse_missing(device: Device) -> None:
    """Raises DeviceRefused when this machine has no such device."""
    import torch  # not above: the command line shows the names without it

    if device is Device.CUDA and not torch.cuda.is_available():
        raise DeviceRefused("this machine has no usable CUDA device; leave out --device, or say --device cpu")
