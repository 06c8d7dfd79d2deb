"""What an adapter was made from, as a file beside it, and how it was judged.

Its digest and what a server must know of it (`lorikeet_adapters.origin`) stand in the weights' metadata.
Nothing in it depends on when or where the training ran, so the same data, recipe and base give the
same bytes, and with them the same adapter generation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from lorikeet_adapters.base_model import BaseModel
from lorikeet_adapters.base_source import resolve_source
from lorikeet_adapters.checkpoint import checkpoint_digest
from lorikeet_adapters.origin import Origin, Parent, Turns, probe
from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.example import Message
from lorikeet_trainer.recipe import Plan
from lorikeet_trainer.rendering import Renderer

PROVENANCE_FILE = "training_provenance.json"
DIGEST_KEY = "lorikeet.provenance_sha256"  # in the metadata of the safetensors file
SCHEMA_VERSION = 2
LIBRARIES = ("lorikeet", "torch", "transformers", "peft", "trl", "bitsandbytes", "tokenizers")


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """`fingerprint` is over the weights as they were loaded, `computed_in` what flowed between them.

    `checkpoint_sha256` is over the files they come from, in whatever form they are held, and `commit`
    the hub's; empty and None where there is none.
    """

    source: str
    quantization: str
    fingerprint: str
    architecture: str
    computed_in: str
    checkpoint_sha256: str = ""
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """SHA-256 each; `probe_sha256` is over the token ids of fixed conversations, None without a template."""

    vocabulary_sha256: str
    template_sha256: str | None
    probe_sha256: str | None


@dataclass(frozen=True, slots=True)
class DataFacts:
    name: str
    sha256: str
    format: str
    rows: int
    tokens: int
    learned_tokens: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything that decides what the adapter is, the loss it ended with, and what it is.

    `weights_sha256` is over the tensors' bytes as they lie in the file; whoever saves the adapter fills
    it in. `metrics` and `gate` are what came of judging it; see `export.seal`.
    """

    base: BaseFacts
    tokenizer: TokenizerFacts
    data: DataFacts
    recipe: Plan
    final_loss: float
    versions: dict[str, str]
    parent: Parent | None = None
    weights_sha256: str = ""
    metrics: Mapping[str, object] | None = None
    gate: Mapping[str, object] | None = None

    def after(self, loss: float) -> Provenance:
        """The same with the loss that training has come to."""
        return replace(self, final_loss=loss)

    @property
    def origin(self) -> Origin:
        """What a server that is given the adapter must know."""
        return Origin(
            base=Path(self.base.source).name,
            quantization=self.base.quantization,
            fingerprint=self.base.fingerprint,
            checkpoint=self.base.checkpoint_sha256,
            probe=self.tokenizer.probe_sha256 or "",
        )

    def to_json(self) -> bytes:
        return as_json({"schema_version": SCHEMA_VERSION, **asdict(self)})


def as_json(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def digest(provenance_json: bytes) -> str:
    """What stands in the weights' metadata, so that neither file can be swapped unseen."""
    return hashlib.sha256(provenance_json).hexdigest()


def base_facts(base: BaseModel) -> BaseFacts:
    architectures: Sequence[str] = base.model.config.architectures or (type(base.model).__name__,)
    dtype = str(base.model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return BaseFacts(
        source=base.source,
        quantization=base.quantization.value,
        fingerprint=base.fingerprint,
        architecture=architectures[0],
        computed_in=dtype,
        checkpoint_sha256=checkpoint_digest(resolve_source(base.source)),
        commit=getattr(base.model.config, "_commit_hash", None),
    )


def tokenizer_facts(renderer: Renderer) -> TokenizerFacts:
    vocabulary = _sha256(sorted(renderer.tokenizer.get_vocab().items()))
    template = renderer.tokenizer.chat_template
    if template is None:
        return TokenizerFacts(vocabulary, None, None)
    return TokenizerFacts(vocabulary, _sha256(template), probe(partial(_render, renderer)) or None)


def data_facts(dataset: Dataset) -> DataFacts:
    return DataFacts(
        dataset.name,
        dataset.sha256,
        dataset.format.value,
        dataset.size,
        dataset.tokens,
        dataset.learned_tokens,
    )


def library_versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def _render(renderer: Renderer, turns: Turns) -> tuple[int, ...]:
    return renderer.prompt([Message(turn["role"], turn["content"]) for turn in turns])


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()
