"""The weights file depends on what is in it, and on nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save

from lorikeet_adapters.origin import read_origin, tensors_sha256
from lorikeet_trainer.errors import NothingLearned, ProvenanceBroken
from lorikeet_trainer.export import read_provenance, refuse_untrained, seal, with_metadata
from lorikeet_trainer.train import TrainedAdapter


def test_metadata_is_written_in_one_order_and_the_tensors_stay() -> None:
    tensors = {"b": torch.arange(5.0), "a": torch.ones(3, 2, dtype=torch.bfloat16)}
    metadata = {name: name.upper() for name in "zyxwvutsrqponm"}
    data = with_metadata(save(tensors, {"old": "gone"}), metadata)
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


@pytest.fixture
def folder(trained: TrainedAdapter, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.folder, tmp_path / "adapter"))


def test_sealing_adds_the_verdict_and_leaves_the_tensors(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    before, tensors = read_provenance(folder), load_file(weights)
    seal(folder, metrics={"loss": 0.5}, gate={"passed": True, "reasons": []})
    after = read_provenance(folder)
    assert before is not None
    with weights.open("rb") as file:
        assert before["weights_sha256"] == tensors_sha256(file)
    assert after == {**before, "metrics": {"loss": 0.5}, "gate": {"passed": True, "reasons": []}}
    again = load_file(weights)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    origin = read_origin(weights)
    assert origin is not None
    assert (origin.fingerprint, origin.quantization) == (before["base"]["fingerprint"], "nf4")


def test_files_that_do_not_belong_together_are_told_apart(folder: Path) -> None:
    record = folder / "training_provenance.json"
    kept = record.read_bytes()
    record.write_bytes(kept.replace(b'"seed": 3', b'"seed": 4'))
    with pytest.raises(ProvenanceBroken, match="not the one its weights name"):
        read_provenance(folder)
    record.write_bytes(kept)
    weights = folder / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ProvenanceBroken, match="its tensors are not those"):
        seal(folder, metrics={}, gate={})
    record.unlink()
    assert read_provenance(folder) is None
    with pytest.raises(ProvenanceBroken, match="not trained here"):
        seal(folder, metrics={}, gate={})
