"""The weights file depends on what is in it, and on nothing else."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load, save

from lorikeet_trainer.errors import NothingLearned
from lorikeet_trainer.export import in_fixed_order, refuse_untrained


def test_metadata_is_written_in_one_order_and_the_tensors_stay() -> None:
    tensors = {"b": torch.arange(5.0), "a": torch.ones(3, 2, dtype=torch.bfloat16)}
    metadata = {name: name.upper() for name in "zyxwvutsrqponm"}
    data = in_fixed_order(save(tensors, metadata))
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    header = json.loads(data[8 : 8 + size])
    assert list(header["__metadata__"].items()) == sorted(metadata.items())
    back = load(data)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_one_b_matrix_that_moved_is_enough() -> None:
    zero = {"x.lora_A.weight": torch.ones(2), "x.lora_B.weight": torch.zeros(2)}
    with pytest.raises(NothingLearned):
        refuse_untrained(zero)
    refuse_untrained({**zero, "y.lora_B.weight": torch.tensor([0.0, 1e-30])})
