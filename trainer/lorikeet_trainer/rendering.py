"""Rows as the model sees them: rendered through the chat template, tokenised and masked.

A conversation is rendered once up to each assistant turn, as the server renders a prompt, and once
including it. What the second adds to the first are the tokens to learn:

    prompt   <|user|> Hi <|end|> <|assistant|>
    whole    <|user|> Hi <|end|> <|assistant|> Hello! <|end|> \n
    learned                                    ^^^^^^^^^^^^^^

The end-of-turn token is learned, or the adapter would never stop; what a template puts behind it is
not, because nobody generates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from lorikeet_adapters.base_source import resolve_source, tokenizer_refusal
from lorikeet_adapters.context import context_length
from lorikeet_trainer.example import Chat, Completion, Message
from lorikeet_trainer.finding import RowFinding

IGNORED = -100  # the label that torch's cross-entropy leaves out


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    chat_template: str | None
    eos_token_id: int | None

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]: ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, add_generation_prompt: bool, tokenize: bool
    ) -> str: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...

    def get_vocab(self) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """Tokens [start, stop) of a row are learned; the last of them ends the turn."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Row:
    """One row ready for training. `answer` is the text of its last turn."""

    line: int
    input_ids: tuple[int, ...]
    turns: tuple[Turn, ...]
    answer: str

    @property
    def labels(self) -> tuple[int, ...]:
        """The input ids where they are learned, IGNORED elsewhere."""
        labels = [IGNORED] * len(self.input_ids)
        for turn in self.turns:
            labels[turn.start : turn.stop] = self.input_ids[turn.start : turn.stop]
        return tuple(labels)

    @property
    def learned_tokens(self) -> int:
        return sum(turn.stop - turn.start for turn in self.turns)

    @property
    def prompt(self) -> tuple[int, ...]:
        """What the server would be sent, as tokens, to get the last turn."""
        return self.input_ids[: self.turns[-1].start]

    @property
    def reference(self) -> tuple[int, ...]:
        """The last turn's tokens, end of turn included."""
        return self.input_ids[self.turns[-1].start :]


@dataclass(frozen=True, slots=True)
class Renderer:
    """`ends` are the tokens at which generation stops; `context` is the base's longest sequence."""

    tokenizer: Tokenizer
    ends: frozenset[int]
    context: int

    @classmethod
    def load(cls, source: str) -> Renderer:
        """The tokenizer beside a base model. Raises BaseModelRefused."""
        where = resolve_source(source)
        local = Path(where).is_dir()
        try:
            config = AutoConfig.from_pretrained(where, local_files_only=local)
            tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=local)
        except (OSError, ValueError, KeyError) as error:
            raise tokenizer_refusal(source, where, error) from error
        return cls(cast("Tokenizer", tokenizer), _end_tokens(where, tokenizer), context_length(config))

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Token ids of a conversation that waits for its answer, exactly as the server makes them."""
        return self._render(messages, waiting=True)

    def row(self, example: Chat | Completion) -> Row | RowFinding:
        """Tokens and mask of one example, or why it has none that can be trusted."""
        try:
            if isinstance(example, Chat):
                return self._chat(example)
            return self._completion(example)
        except TemplateError as error:
            message = f"the base's chat template refuses the conversation: {error}"
            fix = "order the roles as the template wants them"
            return RowFinding(example.line, "messages", "template_refuses", message, fix)

    def _chat(self, chat: Chat) -> Row | RowFinding:
        ids: tuple[int, ...] = ()
        turns: list[Turn] = []
        for index, message in enumerate(chat.messages):
            if message.role != "assistant":
                continue
            field = f"messages[{index}].content"
            prompt = self._render(chat.messages[:index], waiting=True)
            whole = self._render(chat.messages[: index + 1], waiting=False)
            if prompt[: len(ids)] != ids:
                message_ = "the base's chat template rewrites earlier turns"
                fix = "write one row per answer, ending with it"
                return RowFinding(chat.line, field, "history_rewritten", message_, fix)
            turn = self._turn(chat.line, field, prompt, whole)
            if isinstance(turn, RowFinding):
                return turn
            turns.append(turn)
            ids = whole
        return Row(chat.line, ids[: turns[-1].stop], tuple(turns), chat.messages[-1].content)

    def _completion(self, example: Completion) -> Row | RowFinding:
        eos = self.tokenizer.eos_token_id
        if eos is None:
            message = "the base's tokenizer names no end-of-turn token"
            fix = "choose a base whose tokenizer has an eos_token"
            return RowFinding(example.line, "completion", "no_end_of_turn", message, fix)
        # Plain text is no rendered conversation: here the tokenizer adds what starts a text, if anything.
        prompt = tuple(self.tokenizer(example.prompt, add_special_tokens=True)["input_ids"])
        whole = tuple(
            self.tokenizer(example.prompt + example.completion, add_special_tokens=True)["input_ids"]
        )
        turn = self._turn(example.line, "completion", prompt, (*whole, eos))
        if isinstance(turn, RowFinding):
            return turn
        return Row(example.line, (*whole, eos)[: turn.stop], (turn,), example.completion)

    def _turn(
        self, line: int, field: str, prompt: tuple[int, ...], whole: tuple[int, ...]
    ) -> Turn | RowFinding:
        """The learned span, once the tokens after the prompt are those that the model would generate."""
        start = len(prompt)
        if not prompt or whole[:start] != prompt:
            message = "prompt and answer share a token, so the answer's first token is never generated"
            fix = "let no blank or line break stand where prompt and answer meet"
            return RowFinding(line, field, "prompt_not_a_prefix", message, fix)
        ends = [index for index in range(start, len(whole)) if whole[index] in self.ends]
        if not ends:
            message = "no end-of-turn token follows the answer, so the adapter would never learn to stop"
            fix = "choose a base whose chat template ends turns with a token that ends generation"
            return RowFinding(line, field, "end_of_turn_not_learned", message, fix)
        if len(ends) > 1:
            message = "the answer's text contains an end-of-turn token"
            return RowFinding(line, field, "end_of_turn_in_text", message, "remove the token from the text")
        if ends[0] == start:
            message = "the answer has no token before its end"
            return RowFinding(line, field, "no_learned_token", message, "drop the row or fill the answer in")
        return Turn(start, ends[0] + 1)

    def _render(self, messages: Sequence[Message], *, waiting: bool) -> tuple[int, ...]:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=waiting, tokenize=False)
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _end_tokens(where: str, tokenizer: Tokenizer) -> frozenset[int]:
    try:
        eos = GenerationConfig.from_pretrained(where).eos_token_id
    except OSError:  # the file is optional
        eos = None
    several = eos if isinstance(eos, list) else [eos]
    return frozenset(each for each in (tokenizer.eos_token_id, *several) if each is not None)
