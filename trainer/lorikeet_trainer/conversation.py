"""Conversations in OpenAI's shape: messages, their weights, tools and tool calls."""

from __future__ import annotations

import json
from typing import cast

from lorikeet_trainer.example import Message, ToolCall, Tools
from lorikeet_trainer.fields import Fields, Object, inside
from lorikeet_trainer.finding import MOST_SHOWN

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
# `name` decides nothing in a turn of a person, as on the server; a tool's is given to the template.
KEYS = {
    "system": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset({"role", "content", "name", "weight", "tool_calls"}),
    "tool": frozenset({"role", "content", "name", "tool_call_id"}),
}
MOST_MESSAGES = 1024  # the server takes no longer conversation
MESSAGE = '{"role": ..., "content": ...}'
CALL = '{"id": ..., "type": "function", "function": {"name": ..., "arguments": "{...}"}}'
TOOL = '{"type": "function", "function": {"name": ..., "parameters": {...}}}'
FILL = "drop the row or fill the answer in"


def read_messages(fields: Fields, where: str, raw: object) -> tuple[Message, ...]:
    """All messages that can be read; whether that is all of them, `fields.findings` says."""
    if not isinstance(raw, list) or not raw:
        fields.find(where, "no_messages", "not a list with at least one message", "add the turns")
        return ()
    if len(raw) > MOST_MESSAGES:
        message = f"{len(raw)} messages, the most is {MOST_MESSAGES}"
        fields.find(where, "too_many_messages", message, "split the conversation into several rows")
        return ()
    reader = _Turns(fields)
    read = [reader.message(f"{where}[{index}]", each) for index, each in enumerate(raw)]
    return tuple(message for message in read if message is not None)


def read_tools(fields: Fields, raw: Object, where: str = "") -> Tools:
    """The row's `tools`, and a look at `parallel_tool_calls`, which decides nothing here."""
    if not isinstance(raw.get("parallel_tool_calls", True), bool):
        path = inside(where, "parallel_tool_calls")
        fields.find(path, "not_a_truth_value", "this is neither true nor false", "write one of them")
    if "tools" not in raw or raw["tools"] == []:
        return ()
    path = inside(where, "tools")
    tools = fields.mappings(path, raw["tools"], TOOL) or []
    for index, tool in enumerate(tools):
        here = f"{path}[{index}]"
        _is_function(fields, here, tool)
        function = fields.mapping(f"{here}.function", tool.get("function"), TOOL)
        if function is not None:
            fields.filled(f"{here}.function", function, "name", "name the function")
    return tuple(tools)


def check_calls(fields: Fields, where: str, messages: tuple[Message, ...], tools: Tools) -> None:
    """Every call is of a tool that the row offers, where it offers any."""
    offered = {cast("dict[str, object]", tool["function"])["name"] for tool in tools}
    for index, message in enumerate(messages):
        for number, call in enumerate(message.tool_calls):
            if offered and call.name not in offered:
                path = f"{where}[{index}].tool_calls[{number}].function.name"
                message_ = f"the row's tools have no {call.name[:MOST_SHOWN]!r}"
                fields.find(path, "unknown_tool", message_, "add it to tools, or correct the name")


def _is_function(fields: Fields, where: str, raw: Object) -> None:
    if raw.get("type") != "function":
        fields.find(f"{where}.type", "unknown_type", "the type is not function", 'write "type": "function"')


class _Turns:
    """Reads one conversation; remembers the calls made so far, which a tool's turn must answer."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._calls: set[str] = set()
        self._knows_all_calls = True

    def message(self, where: str, raw: object) -> Message | None:
        found = len(self._fields.findings)
        value = self._fields.mapping(where, raw, MESSAGE)
        if value is None:
            return None
        role = self._role(where, value)
        if role is None:
            return None
        why = "only turns of the assistant have weights and tool calls; attachments are not trained on"
        self._fields.only(where, value, KEYS[role], why)
        learned = self._weight(where, value)
        calls = self._tool_calls(where, value) if role == "assistant" else ()
        is_call = role == "assistant" and bool(value.get("tool_calls"))
        content = self._content(where, value, may_be_null=is_call)
        if role == "assistant" and not is_call and content is not None and not content.strip():
            self._fields.find(f"{where}.content", "empty_assistant", "the assistant's turn is empty", FILL)
        name = self._fields.text(where, value, "name") if "name" in value else ""
        answered = self._answered(where, value) if role == "tool" else ""
        if len(self._fields.findings) > found or content is None:
            return None
        return Message(role, content, learned, calls, answered or "", (name or "") if role == "tool" else "")

    def _role(self, where: str, raw: Object) -> str | None:
        role = self._fields.text(where, raw, "role")
        if role is None or role in ROLES:
            return ROLES[role] if role else role
        if role == "function":
            fix = "write the role tool with a tool_call_id"
            message = "turns of the role function are not trained on"
            self._fields.find(f"{where}.role", "unsupported_role", message, fix)
        else:
            self._fields.find(
                f"{where}.role",
                "unknown_role",
                f"{role[:MOST_SHOWN]!r} is no known role",
                "use " + ", ".join(ROLES),
            )
        return None

    def _weight(self, where: str, raw: Object) -> bool:
        weight = raw.get("weight", 1)
        if isinstance(weight, bool) or weight not in (0, 1):
            fix = "write 1 for an answer to be learned, 0 for one that is only context"
            self._fields.find(f"{where}.weight", "bad_weight", "the weight is neither 0 nor 1", fix)
        return weight != 0

    def _content(self, where: str, raw: Object, *, may_be_null: bool) -> str | None:
        """A string, or text parts, which are joined as the server joins them."""
        path = f"{where}.content"
        if may_be_null and raw.get("content") is None:
            return ""
        if not self._fields.has(where, raw, "content"):
            return None
        content = raw["content"]
        if isinstance(content, str):
            return self._fields.unicode(path, content)
        if not isinstance(content, list):
            fix = "write a string; a turn with tool_calls may have null"
            self._fields.find(path, "not_text", "content is neither a string nor a list of text parts", fix)
            return None
        texts = [self._part(f"{path}[{index}]", part) for index, part in enumerate(content)]
        return None if None in texts else "".join(text for text in texts if text is not None)

    def _part(self, where: str, raw: object) -> str | None:
        part = self._fields.mapping(where, raw, '{"type": "text", "text": ...}')
        if part is None:
            return None
        if part.get("type") != "text":
            fix = "train on text; images, audio and files are not supported"
            self._fields.find(f"{where}.type", "unsupported_part", "the part is no text", fix)
            return None
        self._fields.only(where, part, frozenset({"type", "text"}), "a text part has no more")
        return self._fields.text(where, part, "text")

    def _tool_calls(self, where: str, raw: Object) -> tuple[ToolCall, ...]:
        if raw.get("tool_calls") is None:
            return ()
        path = f"{where}.tool_calls"
        calls = self._fields.mappings(path, raw["tool_calls"], CALL) or []
        read = [self._call(f"{path}[{index}]", each) for index, each in enumerate(calls)]
        return tuple(call for call in read if call is not None)

    def _call(self, where: str, raw: Object) -> ToolCall | None:
        _is_function(self._fields, where, raw)
        id_ = self._fields.filled(where, raw, "id", "give the call an id that the tool's turn repeats")
        self._knows_all_calls &= id_ is not None
        self._calls.add(id_ or "")
        function = self._fields.mapping(f"{where}.function", raw.get("function"), CALL)
        if function is None:
            return None
        name = self._fields.filled(f"{where}.function", function, "name", "name the function")
        arguments = self._arguments(f"{where}.function", function)
        if id_ is None or name is None or arguments is None:
            return None
        return ToolCall(id_, name, arguments)

    def _arguments(self, where: str, function: Object) -> str | None:
        text = self._fields.text(where, function, "arguments")
        if text is None:
            return None
        try:
            is_object = isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            fix = 'write a JSON object as a string, like "{\\"city\\": \\"Ulm\\"}"'
            path = f"{where}.arguments"
            self._fields.find(path, "bad_arguments", "the arguments are no JSON object", fix)
        return text if is_object else None

    def _answered(self, where: str, raw: Object) -> str | None:
        id_ = self._fields.text(where, raw, "tool_call_id")
        if id_ is not None and id_ not in self._calls and self._knows_all_calls:
            message = f"no earlier turn calls a tool with the id {id_[:MOST_SHOWN]!r}"
            fix = "repeat the id of the call that this turn answers"
            self._fields.find(f"{where}.tool_call_id", "unknown_tool_call", message, fix)
        return id_
