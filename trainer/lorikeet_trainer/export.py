"""A trained model's adapter as the files that plain PEFT, and every server of PEFT folders, loads."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save

from lorikeet_adapters.origin import (
    ORIGIN_KEY,
    PARENT_KEY,
    Origin,
    Parent,
    read_origin,
    read_parent,
    tensors_sha256,
)
from lorikeet_adapters.source import CONFIG_FILE, WEIGHTS_FILE
from lorikeet_trainer.errors import NothingLearned, ProvenanceBroken
from lorikeet_trainer.provenance import DIGEST_KEY, PROVENANCE_FILE, Provenance, as_json, digest


def save_adapter(
    folder: Path, model: PeftModel, source: str, provenance: Provenance, *, may_be_zero: bool = False
) -> None:
    """Write config, weights and provenance into `folder`. Raises NothingLearned before writing anything.

    A checkpoint of the first steps `may_be_zero`, because the learning rate starts at nothing.
    Equal adapters give equal bytes. PEFT's own writer leaves the order of target modules to chance.
    """
    weights = {name: tensor.cpu().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    if not may_be_zero:
        refuse_untrained(weights)
    data = save(weights)
    record = replace(provenance, weights_sha256=tensors_sha256(io.BytesIO(data)))
    _write(folder, data, record.to_json(), record.origin, record.parent)
    (folder / CONFIG_FILE).write_text(_config(model, source), encoding="utf-8")


def seal(folder: Path, *, metrics: Mapping[str, object], gate: Mapping[str, object]) -> None:
    """Add to a saved adapter's provenance how it was judged. Its tensors stay what they are.

    `gate` is `Gate.to_dict()`. Raises ProvenanceBroken when the folder holds anything but what
    `save_adapter` wrote.
    """
    content = read_provenance(folder)
    origin = read_origin(folder / WEIGHTS_FILE)
    if content is None or origin is None:
        raise ProvenanceBroken(f"`{folder.name}` was not trained here: it has no {PROVENANCE_FILE}")
    record = as_json({**content, "metrics": dict(metrics), "gate": dict(gate)})
    _write(folder, (folder / WEIGHTS_FILE).read_bytes(), record, origin, read_parent(folder / WEIGHTS_FILE))


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """What lies beside the weights, once it is known to be theirs; None where there is none.

    Raises ProvenanceBroken when it is another adapter's, or the tensors are not those it names.
    """
    try:
        record = (folder / PROVENANCE_FILE).read_bytes()
    except FileNotFoundError:
        return None
    data = (folder / WEIGHTS_FILE).read_bytes()
    named = _header(data)[0].get("__metadata__", {}).get(DIGEST_KEY)
    content: dict[str, Any] = json.loads(record)
    if named != digest(record):
        raise ProvenanceBroken(f"`{folder.name}`: its {PROVENANCE_FILE} is not the one its weights name")
    if content.get("weights_sha256") not in (None, tensors_sha256(io.BytesIO(data))):
        raise ProvenanceBroken(f"`{folder.name}`: its tensors are not those its {PROVENANCE_FILE} names")
    return content


def refuse_untrained(weights: Mapping[str, torch.Tensor]) -> None:
    """An adapter starts with every B at zero; one that still has them adds nothing to any output."""
    if not any(tensor.any() for name, tensor in weights.items() if "lora_B" in name):
        raise NothingLearned(
            "every B matrix of the adapter is still zero after training, so it would change nothing; "
            "raise the learning rate or train for more steps"
        )


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """The same safetensors file with this metadata, in order: the library writes a hash map's.

    Layout: eight bytes of header length, the header as JSON padded with blanks to a multiple of
    eight, then the tensors at offsets that count from the header's end.
    """
    header, start = _header(data)
    header.pop("__metadata__", None)
    header = {"__metadata__": dict(sorted(metadata.items())), **header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors begin."""
    start = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:start])
    return header, start


def _write(folder: Path, data: bytes, record: bytes, origin: Origin, parent: Parent | None) -> None:
    metadata = {"format": "pt", DIGEST_KEY: digest(record), ORIGIN_KEY: origin.to_json()}
    if parent is not None:
        metadata[PARENT_KEY] = parent.to_json()
    (folder / PROVENANCE_FILE).write_bytes(record)
    (folder / WEIGHTS_FILE).write_bytes(with_metadata(data, metadata))


def _config(model: PeftModel, source: str) -> str:
    settings = model.peft_config[model.active_adapter].to_dict()
    settings["base_model_name_or_path"] = source
    settings["inference_mode"] = True
    settings["target_modules"] = sorted(settings["target_modules"])
    return json.dumps(settings, indent=2, sort_keys=True, default=_listed) + "\n"


def _listed(value: object) -> object:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no place in an adapter config")
