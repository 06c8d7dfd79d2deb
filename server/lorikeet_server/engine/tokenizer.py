"""The base's own tokenizer and chat template, as one value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from lorikeet_adapters.base_source import resolve_source, tokenizer_refusal

NORMALISED = 4  # code points that Unicode's composition makes one of


class Tokenizer:
    """Safe to call from several threads: nothing of it changes after loading."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self.eos = eos
        self._special = frozenset(tokenizer.all_special_ids)
        self._added = frozenset(tokenizer.get_added_vocab().values())
        self._is_byte_level = '"ByteLevel"' in _decoder_of(tokenizer)
        self.longest = _longest(tokenizer)

    @property
    def backend(self) -> PreTrainedTokenizerBase:
        """For libraries that read the vocabulary themselves."""
        return self._tokenizer

    @property
    def special_texts(self) -> tuple[str, ...]:
        """What encoding turns into one special token wherever it stands in a text."""
        added = self._tokenizer.added_tokens_decoder.values()
        return tuple(token.content for token in added if token.special)

    @property
    def has_template(self) -> bool:
        return bool(self._tokenizer.chat_template)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text the model sees for a conversation that the assistant continues.

        Raises jinja2.TemplateError when the template does not take these messages.
        """
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return text

    def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """Token ids; `special` adds what the tokenizer puts around plain text (rendered text has it already)."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return tuple(ids)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Their text; without special tokens unless `special`."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
        return text

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each token as the vocabulary spells it."""
        found: list[str] = self._tokenizer.convert_ids_to_tokens(list(ids))
        return found

    def token_text(self, token: int) -> str:
        """One token's own text, special tokens spelled out; what is no text by itself is replaced."""
        return self.token_bytes(token).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """One token's own bytes: its leading space is there, and a part of a character is that part."""
        piece: str | None = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return b""  # the embeddings have more rows than the tokenizer has tokens
        if token in self._added or token in self._special:
            return piece.encode()
        if self._is_byte_level:
            return bytes(BYTES[character] for character in piece)
        byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
        return bytes.fromhex(byte[1]) if byte else piece.replace("\u2581", " ").encode()

    def is_special(self, token: int) -> bool:
        return token in self._special


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's way to write any byte as a character: printable ones as themselves, the others from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = _byte_alphabet()


def _longest(tokenizer: PreTrainedTokenizerBase) -> float:
    """Characters at most that one token stands for; without bound where one may stand for a whole unknown word.

    A vocabulary writes each byte or character as one or more, and normalising joins no more than NORMALISED.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = json.loads(backend.to_str())["model"] if backend is not None else {}
    if not (model.get("byte_fallback") or '"ByteLevel"' in _decoder_of(tokenizer)):
        return math.inf
    return NORMALISED * max(map(len, tokenizer.get_vocab()))


def _decoder_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """How the tokenizer makes text of its tokens, as JSON; empty where it is not of the `tokenizers` library."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.dumps(json.loads(backend.to_str())["decoder"]) if backend is not None else ""


def load_tokenizer(source: str, trust_remote_code: bool = False) -> Tokenizer:
    """Load the tokenizer beside the model. Raises BaseModelRefused with one line of reason."""
    where = resolve_source(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            where, trust_remote_code=trust_remote_code, local_files_only=Path(where).is_dir()
        )
    except (OSError, ValueError, KeyError) as error:
        raise tokenizer_refusal(source, where, error) from error
    return Tokenizer(tokenizer, _end_tokens(where, tokenizer))


def _end_tokens(where: str, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """A request ends at any id of generation_config's list or at the tokenizer's own."""
    ends: set[int] = set()
    try:
        listed = GenerationConfig.from_pretrained(where, local_files_only=Path(where).is_dir()).eos_token_id
    except OSError:
        listed = None  # older models ship no generation_config.json
    if listed is not None:
        ends.update(listed if isinstance(listed, list) else [listed])
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    return frozenset(ends)
