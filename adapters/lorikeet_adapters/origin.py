"""On what an adapter was trained, as its weights file says, and what follows on the base that serves it.

Whoever trains here writes it into the safetensors metadata, which travels with the weights by every
way. Adapters of other makers say nothing, and nothing follows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from io import SEEK_CUR
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open

from lorikeet_adapters.fields import shown, shown_name

ORIGIN_KEY = "lorikeet.origin"
PARENT_KEY = "lorikeet.parent"
PIECE = 1 << 20  # bytes read at once
MAX_TEXT = 200  # characters of a field: they are digests and names
Turns = list[dict[str, str]]
# Rendered with the base's own template: when a tokenizer or template changes, so do these tokens.
PROBES: tuple[Turns, ...] = (
    [{"role": "user", "content": "Where is order A-1047?"}],
    [
        {"role": "user", "content": "Gr\u00fc\u00dfe, \u4f60\u597d! 3 \u00d7 4 = 12"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Why?"},
    ],
)


@dataclass(frozen=True, slots=True)
class Origin:
    """A base in one form. Empty is what is not known.

    `fingerprint` is over the weights as they are held, `checkpoint` over the files they come from,
    whatever form they are held in; `probe` over the token ids of fixed conversations.
    """

    base: str
    quantization: str
    fingerprint: str
    checkpoint: str = ""
    probe: str = ""

    @property
    def key(self) -> str:
        """Changes with all that an adapter is judged by."""
        if not self.probe and not self.checkpoint:
            return self.fingerprint
        return hashlib.sha256(f"{self.fingerprint} {self.checkpoint} {self.probe}".encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True)
class Parent:
    """The adapter that training went on from; `weights_sha256` is over its tensors."""

    name: str
    weights_sha256: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


class Kinship(StrEnum):
    """How the base served is related to the one trained on."""

    UNKNOWN = "unknown"
    SAME = "same"
    OTHER_FORM = "other_form"
    OTHER_BASE = "other_base"
    OTHER_TEMPLATE = "other_template"


def read_origin(weights: Path) -> Origin | None:
    """What a safetensors file says of it; None where it says nothing, or nothing that can be read."""
    told = _told(weights, ORIGIN_KEY, {each.name for each in fields(Origin)})
    return Origin(**told) if told.keys() >= {"base", "quantization", "fingerprint"} else None


def read_parent(weights: Path) -> Parent | None:
    """The same of what it was trained on from."""
    told = _told(weights, PARENT_KEY, {each.name for each in fields(Parent)})
    return Parent(**told) if len(told) == len(fields(Parent)) else None


def tensors_sha256(file: BinaryIO) -> str:
    """Over the tensors' bytes of a safetensors file, whatever its header says beside them."""
    file.seek(int.from_bytes(file.read(8), "little"), SEEK_CUR)
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.hexdigest()


def kinship(trained: Origin | None, served: Origin | None) -> Kinship:
    """Another template counts where the base is the same: of another base it is no news."""
    if trained is None or served is None:
        return Kinship.UNKNOWN
    same_form = trained.fingerprint == served.fingerprint
    files = (trained.checkpoint, served.checkpoint)
    if not same_form and not all(files):
        return Kinship.UNKNOWN
    if not same_form and files[0] != files[1]:
        return Kinship.OTHER_BASE
    if served.probe and trained.probe != served.probe:
        return Kinship.OTHER_TEMPLATE
    return Kinship.OTHER_FORM if served.fingerprint and not same_form else Kinship.SAME


def describe(kin: Kinship, trained: Origin, served: Origin) -> str:
    """One sentence for the record; empty where there is nothing to say."""
    was, now = shown_name(trained.quantization), shown_name(served.quantization)
    form = f"held as {now}" if was != now else "quantised to other values, as on another device"
    return {
        Kinship.UNKNOWN: "",
        Kinship.SAME: "",
        Kinship.OTHER_FORM: f"it was trained on this base held as {was}, and is served on it {form}",
        Kinship.OTHER_BASE: f"it was trained on another base, {shown(trained.base)}, whose shapes are the same",
        Kinship.OTHER_TEMPLATE: "it was trained with another tokenizer or chat template than the base's here",
    }[kin]


def probe(render: Callable[[Turns], Sequence[int]]) -> str:
    """`render` gives the token ids of a conversation that waits for its answer; empty when it cannot."""
    try:
        ids = [list(render(turns)) for turns in PROBES]
    except Exception:  # a template is the model's own code: it can raise anything
        return ""
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def _told(weights: Path, key: str, known: set[str]) -> dict[str, str]:
    """An object of short strings; empty for anything else: the file may come from anyone."""
    try:
        with safe_open(weights, framework="numpy") as file:  # of the header alone: no torch for that
            told = json.loads((file.metadata() or {}).get(key, "null"))
    except (OSError, SafetensorError, ValueError, RecursionError):
        return {}
    if not isinstance(told, dict) or not told.keys() <= known:
        return {}
    return told if all(isinstance(each, str) and len(each) <= MAX_TEXT for each in told.values()) else {}
