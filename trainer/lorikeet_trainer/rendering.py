"""The tokenizer and chat template beside a base model, as values that rows are made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from lorikeet_adapters.base_source import resolve_source, tokenizer_refusal
from lorikeet_adapters.context import context_length
from lorikeet_trainer.encoding import AddedToken, Backend, Encoder
from lorikeet_trainer.example import Message, Tools
from lorikeet_trainer.template import Template


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    chat_template: str | None
    eos_token_id: int | None
    bos_token_id: int | None
    is_fast: bool
    backend_tokenizer: Backend
    added_tokens_decoder: Mapping[int, AddedToken]

    def __call__(
        self, text: list[str], *, add_special_tokens: bool, return_attention_mask: bool
    ) -> Mapping[str, list[list[int]]]: ...

    def apply_chat_template(
        self,
        conversation: list[dict[str, object]],
        *,
        tools: list[Mapping[str, object]] | None,
        add_generation_prompt: bool,
        tokenize: bool,
    ) -> str: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...

    def get_vocab(self) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class Renderer:
    """`ends` are the tokens at which generation stops; `context` is the base's longest sequence."""

    tokenizer: Tokenizer
    ends: frozenset[int]
    context: int

    @classmethod
    def load(cls, source: str, trust_remote_code: bool = False) -> Renderer:
        """The tokenizer beside a base model. Raises BaseModelRefused."""
        where = resolve_source(source)
        local = Path(where).is_dir()
        try:
            config, tokenizer = (
                each.from_pretrained(where, local_files_only=local, trust_remote_code=trust_remote_code)
                for each in (AutoConfig, AutoTokenizer)
            )
        except (OSError, ValueError, KeyError) as error:
            raise tokenizer_refusal(source, where, error) from error
        return cls(cast("Tokenizer", tokenizer), _end_tokens(where, tokenizer), context_length(config))

    def prompt(self, messages: Sequence[Message], tools: Tools = ()) -> tuple[int, ...]:
        """Token ids of a conversation that waits for its answer, exactly as the server makes them.

        Raises TemplateRefused.
        """
        text = Template(self.tokenizer).render(messages, tools, waiting=True)
        return Encoder(self.tokenizer).rendered([text])[0]

    def text(self, ids: Sequence[int]) -> str:
        """With special tokens spelled out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)


def _end_tokens(where: str, tokenizer: Tokenizer) -> frozenset[int]:
    try:
        eos = GenerationConfig.from_pretrained(where).eos_token_id
    except OSError:  # the file is optional
        eos = None
    several = eos if isinstance(eos, list) else [eos]
    return frozenset(each for each in (tokenizer.eos_token_id, *several) if each is not None)
