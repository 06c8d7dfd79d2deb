"""What a row says, before any tokenizer has seen it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class DataFormat(StrEnum):
    CHAT = "chat"
    COMPLETION = "prompt/completion"
    TEXT = "text"
    CLASSIFICATION = "text/label"
    PREFERENCE = "prompt/chosen/rejected"
    OPENAI_PREFERENCE = "input/preferred_output/non_preferred_output"

    @property
    def is_preference(self) -> bool:
        """Its rows are pairs, to be trained by DPO."""
        return self in (DataFormat.PREFERENCE, DataFormat.OPENAI_PREFERENCE)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str

    def for_template(self) -> dict[str, object]:
        """Templates want the arguments as an object: one that is given text writes it in quotes."""
        function = {"name": self.name, "arguments": json.loads(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Message:
    """`role` is system, user, assistant or tool: developer is read as system, as the server does.

    `learned` is OpenAI's weight, of an assistant's turn. Only such a turn has `tool_calls`, only a
    tool's turn has `tool_call_id`, and may have a `name`.
    """

    role: str
    content: str
    learned: bool = True
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""

    @property
    def is_learned(self) -> bool:
        return self.role == "assistant" and self.learned

    def for_template(self) -> dict[str, object]:
        """The keys that this turn has, and no others: templates ask whether a key is there."""
        turn: dict[str, object] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            turn["tool_calls"] = [call.for_template() for call in self.tool_calls]
        turn |= {key: text for key in ("tool_call_id", "name") if (text := getattr(self, key))}
        return turn


Tools = tuple[Mapping[str, object], ...]


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation whose last turn is the assistant's. `tools` are OpenAI's, as they stand in the row."""

    line: int
    messages: tuple[Message, ...]
    tools: Tools = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """Plain text and its continuation, outside any chat template."""

    line: int
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text that is learned from its first token to its end."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and the class it belongs to."""

    line: int
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class ChatPair:
    """Two turns of the assistant that could follow the same conversation.

    `where` is the field of the conversation, `names` are those of the answers.
    """

    line: int
    messages: tuple[Message, ...]
    chosen: Message
    rejected: Message
    tools: Tools
    where: str
    names: tuple[str, str]


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two continuations of one plain text."""

    line: int
    prompt: str
    chosen: str
    rejected: str


Example = Chat | Completion | Text | Labelled | ChatPair | TextPair
