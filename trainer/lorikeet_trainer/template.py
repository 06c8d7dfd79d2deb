"""A base's chat template: conversations to text, and what it takes beside plain turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from lorikeet_trainer.example import Message, ToolCall, Tools

PROBE = "lorikeet_probe"


class TemplateRefused(Exception):
    """The template cannot render these turns; the message is its reason."""


class Templated(Protocol):
    """The part of a transformers tokenizer that renders conversations."""

    def apply_chat_template(
        self,
        conversation: list[dict[str, object]],
        *,
        tools: list[Mapping[str, object]] | None,
        add_generation_prompt: bool,
        tokenize: bool,
    ) -> str: ...


class Template:
    """Renders as the server does."""

    def __init__(self, tokenizer: Templated) -> None:
        self._tokenizer = tokenizer
        self._taken: dict[str, bool] = {}

    def render(self, messages: Sequence[Message], tools: Tools = (), *, waiting: bool) -> str:
        """The text of a conversation, `waiting` for its answer or not. Raises TemplateRefused."""
        turns = [message.for_template() for message in messages]
        try:
            return self._tokenizer.apply_chat_template(
                turns, tools=list(tools) or None, add_generation_prompt=waiting, tokenize=False
            )
        except Exception as error:  # a template is the model's own code: it can raise anything
            raise TemplateRefused(str(error) or type(error).__name__) from error

    def takes(self, part: str) -> bool:
        """Whether `tools`, `tool_calls` or the role `tool` leave a trace in the text. Asked once each."""
        if part not in self._taken:
            messages, tools = PROBES[part]
            try:
                self._taken[part] = PROBE in self.render(messages, tools, waiting=True)
            except TemplateRefused:
                self._taken[part] = False
        return self._taken[part]


_ASK = Message("user", "a")
_CALL = Message("assistant", "", tool_calls=(ToolCall("call00000", "b", f'{{"{PROBE}": 1}}'),))
_PLAIN_CALL = Message("assistant", "", tool_calls=(ToolCall("call00000", "b", "{}"),))
_ANSWER = Message("tool", PROBE, tool_call_id="call00000", name="b")
_TOOL = {
    "type": "function",
    "function": {"name": PROBE, "description": "c", "parameters": {"type": "object", "properties": {}}},
}
PROBES: dict[str, tuple[tuple[Message, ...], Tools]] = {
    "tools": ((_ASK,), (_TOOL,)),
    "tool_calls": ((_ASK, _CALL), ()),
    "tool": ((_ASK, _PLAIN_CALL, _ANSWER, Message("assistant", "d")), ()),
}
