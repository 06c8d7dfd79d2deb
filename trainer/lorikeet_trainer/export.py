"""A trained model's adapter as the files that plain PEFT, and every server of PEFT folders, loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save

from lorikeet_adapters.source import CONFIG_FILE, WEIGHTS_FILE
from lorikeet_trainer.errors import NothingLearned
from lorikeet_trainer.provenance import DIGEST_KEY, PROVENANCE_FILE, Provenance, digest


def save_adapter(folder: Path, model: PeftModel, source: str, provenance: Provenance) -> None:
    """Write config, weights and provenance into `folder`. Raises NothingLearned before writing anything.

    Equal adapters give equal bytes. PEFT's own writer leaves the order of target modules to chance.
    """
    weights = {name: tensor.cpu().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    refuse_untrained(weights)
    record = provenance.to_json()
    (folder / PROVENANCE_FILE).write_bytes(record)
    data = save(weights, metadata={"format": "pt", DIGEST_KEY: digest(record)})
    (folder / WEIGHTS_FILE).write_bytes(in_fixed_order(data))
    (folder / CONFIG_FILE).write_text(_config(model, source), encoding="utf-8")


def refuse_untrained(weights: Mapping[str, torch.Tensor]) -> None:
    """An adapter starts with every B at zero; one that still has them adds nothing to any output."""
    if not any(tensor.any() for name, tensor in weights.items() if "lora_B" in name):
        raise NothingLearned(
            "every B matrix of the adapter is still zero after training, so it would change nothing; "
            "raise the learning rate or train for more steps"
        )


def in_fixed_order(data: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library writes a hash map's order.

    Layout: eight bytes of header length, the header as JSON padded with blanks to a multiple of
    eight, then the tensors at offsets that count from the header's end.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


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
