"""What an adapter was made from, as a file beside it.

Nothing in it depends on when or where the training ran, so the same data, recipe and base give the
same bytes, and with them the same adapter generation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from lorikeet_adapters.base_model import BaseModel
from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.example import Message
from lorikeet_trainer.recipe import Plan
from lorikeet_trainer.rendering import Renderer

PROVENANCE_FILE = "training_provenance.json"
DIGEST_KEY = "lorikeet.provenance_sha256"  # in the metadata of the safetensors file
SCHEMA_VERSION = 1
LIBRARIES = ("lorikeet", "torch", "transformers", "peft", "trl", "bitsandbytes", "tokenizers")
# Rendered with the base's own template: when a tokenizer or template changes, so do these tokens.
PROBES = (
    (Message("user", "Where is order A-1047?"),),
    (
        Message("user", "Gr\u00fc\u00dfe, \u4f60\u597d! 3 \u00d7 4 = 12"),
        Message("assistant", "Yes."),
        Message("user", "Why?"),
    ),
)


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """`fingerprint` is over the weights as they were loaded, `computed_in` what flowed between them."""

    source: str
    quantization: str
    fingerprint: str
    architecture: str
    computed_in: str


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
    """Everything that decides what the adapter is, and the loss it ended with."""

    base: BaseFacts
    tokenizer: TokenizerFacts
    data: DataFacts
    recipe: Plan
    final_loss: float
    versions: dict[str, str]

    def to_json(self) -> bytes:
        content = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def digest(provenance_json: bytes) -> str:
    """What stands in the weights' metadata, so that neither file can be swapped unseen."""
    return hashlib.sha256(provenance_json).hexdigest()


def base_facts(base: BaseModel) -> BaseFacts:
    architectures: Sequence[str] = base.model.config.architectures or (type(base.model).__name__,)
    dtype = str(base.model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return BaseFacts(base.source, base.quantization.value, base.fingerprint, architectures[0], dtype)


def tokenizer_facts(renderer: Renderer) -> TokenizerFacts:
    vocabulary = _sha256(sorted(renderer.tokenizer.get_vocab().items()))
    template = renderer.tokenizer.chat_template
    if template is None:
        return TokenizerFacts(vocabulary, None, None)
    probe = _sha256([renderer.prompt(messages) for messages in PROBES])
    return TokenizerFacts(vocabulary, _sha256(template), probe)


def data_facts(dataset: Dataset) -> DataFacts:
    return DataFacts(
        dataset.name,
        dataset.sha256,
        dataset.format.value,
        len(dataset.rows),
        dataset.tokens,
        dataset.learned_tokens,
    )


def library_versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()
