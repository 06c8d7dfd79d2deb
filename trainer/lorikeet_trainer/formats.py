"""Which format a row has, and the row as an example."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from lorikeet_trainer.conversation import FILL, check_calls, read_messages, read_tools
from lorikeet_trainer.example import (
    Chat,
    ChatPair,
    Completion,
    DataFormat,
    Example,
    Labelled,
    Message,
    Text,
    TextPair,
)
from lorikeet_trainer.fields import MOST_KEYS, Fields, Object, inside
from lorikeet_trainer.finding import MOST_SHOWN, RowFinding
from lorikeet_trainer.jsonl import Record

REQUIRED = {
    DataFormat.CHAT: frozenset({"messages"}),
    DataFormat.COMPLETION: frozenset({"prompt", "completion"}),
    DataFormat.TEXT: frozenset({"text"}),
    DataFormat.CLASSIFICATION: frozenset({"text", "label"}),
    DataFormat.PREFERENCE: frozenset({"prompt", "chosen", "rejected"}),
    DataFormat.OPENAI_PREFERENCE: frozenset({"input", "preferred_output", "non_preferred_output"}),
}
TOOL_KEYS = frozenset({"tools", "parallel_tool_calls"})
OPTIONAL = {DataFormat.CHAT: TOOL_KEYS, DataFormat.PREFERENCE: TOOL_KEYS}
# A key that only one format has; `prompt` and `text` decide where none of these stands.
MARKS = {
    "messages": DataFormat.CHAT,
    "completion": DataFormat.COMPLETION,
    "label": DataFormat.CLASSIFICATION,
    "chosen": DataFormat.PREFERENCE,
    "rejected": DataFormat.PREFERENCE,
    "preferred_output": DataFormat.OPENAI_PREFERENCE,
    "non_preferred_output": DataFormat.OPENAI_PREFERENCE,
}
WEAK_MARKS = {"prompt": DataFormat.COMPLETION, "text": DataFormat.TEXT}
DATA_KEYS = frozenset().union(*REQUIRED.values())
CONVERTIBLE = {"conversations": "sharegpt", "instruction": "alpaca"}


def detect_format(record: Record) -> DataFormat | None:
    """The one format that all of the row's data keys belong to; None when there is no such."""
    keys = DATA_KEYS & record.value.keys()
    found = {MARKS[key] for key in keys & MARKS.keys()}
    found = found or {WEAK_MARKS[key] for key in keys & WEAK_MARKS.keys()}
    return next((each for each in found if len(found) == 1 and keys <= REQUIRED[each]), None)


def read_example(
    record: Record, expected: DataFormat, labels: Collection[str] = ()
) -> Example | list[RowFinding]:
    """The row's meaning, or every reason why it has none. Without `labels` any label will do."""
    actual = detect_format(record)
    if actual is None and not REQUIRED[expected] <= record.value.keys():
        return [unknown_format(record)]
    if actual not in (None, expected):
        message = f"a {actual} row in a {expected} file"
        fix = "keep one format per file; the first row decides"
        return [RowFinding(record.line, "", "mixed_formats", message, fix)]
    fields = Fields(record.line)
    example = _Reader(fields, record.value, expected, labels).read()
    return example if example is not None and not fields.findings else fields.findings


def unknown_format(record: Record) -> RowFinding:
    keys = ", ".join(key[:MOST_SHOWN] for key in sorted(record.value)[:MOST_KEYS]) or "none"
    message = f"the row is of no known format; its keys: {keys}"
    source = next((CONVERTIBLE[key] for key in CONVERTIBLE if key in record.value), None)
    fix = 'write {"messages": [...]} or {"prompt": "...", "completion": "..."}'
    if source is not None:
        fix = f"turn the file into chat rows with `lorikeet data convert --from {source}`"
    return RowFinding(record.line, "", "unknown_format", message, fix)


class _Reader:
    def __init__(self, fields: Fields, raw: Object, format: DataFormat, labels: Collection[str]) -> None:
        self._fields = fields
        self._raw = raw
        self._format = format
        self._labels = labels

    def read(self) -> Example | None:
        known = REQUIRED[self._format] | OPTIONAL.get(self._format, frozenset())
        self._fields.only("", self._raw, known, f"a {self._format} row has no such key")
        readers = {
            DataFormat.CHAT: self._chat,
            DataFormat.COMPLETION: self._completion,
            DataFormat.TEXT: self._text,
            DataFormat.CLASSIFICATION: self._labelled,
            DataFormat.PREFERENCE: self._preference,
            DataFormat.OPENAI_PREFERENCE: self._openai_preference,
        }
        return readers[self._format]()

    def _chat(self) -> Chat | None:
        messages = read_messages(self._fields, "messages", self._raw["messages"])
        tools = read_tools(self._fields, self._raw)
        if self._fields.findings:
            return None
        check_calls(self._fields, "messages", messages, tools)
        last = len(messages) - 1
        if messages[last].role != "assistant":
            message = f"the last turn is {messages[last].role}, not assistant"
            fix = "end each row with the answer to be learned"
            self._fields.find(f"messages[{last}].role", "last_not_assistant", message, fix)
        elif not any(message.is_learned for message in messages):
            message = "every answer has the weight 0, so nothing would be learned"
            self._fields.find("messages", "no_learned_token", message, "drop the row, or a weight")
        return Chat(self._fields.line, messages, tools)

    def _completion(self) -> Completion | None:
        prompt = self._fill("prompt", "give the text that is to be continued")
        completion = self._fill("completion", "drop the row or fill it in")
        if prompt is None or completion is None:
            return None
        return Completion(self._fields.line, prompt, completion)

    def _text(self) -> Text | None:
        text = self._fill("text", "drop the row or fill it in")
        return None if text is None else Text(self._fields.line, text)

    def _labelled(self) -> Labelled | None:
        text = self._fill("text", "drop the row or fill it in")
        label = self._fill("label", "name the class")
        if label is not None and self._labels and label not in self._labels:
            near = difflib.get_close_matches(label, self._labels, 1)
            fix = (
                f"did you mean {near[0]!r}?"
                if near
                else "use one of " + ", ".join(sorted(self._labels)[:MOST_KEYS])
            )
            self._fields.find(
                "label", "unknown_label", f"{label[:MOST_SHOWN]!r} is not in the set of labels", fix
            )
        if text is None or label is None:
            return None
        return Labelled(self._fields.line, text, label)

    def _fill(self, key: str, fix: str) -> str | None:
        return self._fields.filled("", self._raw, key, fix)

    def _have(self, keys: tuple[str, ...]) -> bool:
        return [self._fields.has("", self._raw, key) for key in keys] == [True] * len(keys)

    def _preference(self) -> ChatPair | TextPair | None:
        raw = self._raw
        if not self._have(("prompt", "chosen", "rejected")):
            return None
        if not isinstance(raw["prompt"], str):
            return self._chat_pair(raw, "prompt", "prompt", ("chosen", "rejected"))
        if TOOL_KEYS & raw.keys():
            fix = "write prompt, chosen and rejected as lists of messages"
            self._fields.find("prompt", "not_messages", "plain text has no tools", fix)
        prompt = self._fill("prompt", "give the text that is to be continued")
        chosen, rejected = self._fill("chosen", FILL), self._fill("rejected", FILL)
        if prompt is None or chosen is None or rejected is None:
            return None
        self._differ("rejected", chosen, rejected)
        return TextPair(self._fields.line, prompt, chosen, rejected)

    def _openai_preference(self) -> ChatPair | None:
        keys = ("input", "preferred_output", "non_preferred_output")
        if not self._have(keys):
            return None
        given = self._fields.mapping("input", self._raw["input"], '{"messages": [...]}')
        if given is None:
            return None
        self._fields.only("input", given, TOOL_KEYS | {"messages"}, "an input has messages and tools")
        if not self._fields.has("input", given, "messages"):
            return None
        return self._chat_pair(given, "messages", "input.messages", (keys[1], keys[2]))

    def _chat_pair(self, given: Object, key: str, where: str, answers: tuple[str, str]) -> ChatPair | None:
        messages = read_messages(self._fields, where, given[key])
        tools = read_tools(self._fields, given, where.rpartition(".")[0])
        chosen, rejected = self._answer(answers[0]), self._answer(answers[1])
        if self._fields.findings or chosen is None or rejected is None:
            return None
        if messages[-1].role == "assistant":
            path = f"{where}[{len(messages) - 1}].role"
            fix = "end the prompt with the turn that is answered"
            self._fields.find(path, "prompt_answered", "the prompt ends with an answer", fix)
        check_calls(self._fields, where, messages, tools)
        self._differ(answers[1], chosen, rejected)
        for name, answer in zip(answers, (chosen, rejected), strict=True):
            check_calls(self._fields, name, (answer,), tools)
        return ChatPair(self._fields.line, messages, chosen, rejected, tools, where, answers)

    def _answer(self, key: str) -> Message | None:
        found = len(self._fields.findings)
        messages = read_messages(self._fields, key, self._raw[key])
        if len(self._fields.findings) > found:
            return None
        if len(messages) != 1 or messages[0].role != "assistant":
            fix = "write a list with the one answer in it"
            self._fields.find(key, "not_one_answer", "this is not one turn of the assistant", fix)
            return None
        if not messages[0].learned:
            path = inside(f"{key}[0]", "weight")
            self._fields.find(path, "bad_weight", "an answer of a pair has the weight 0", "remove it")
        return messages[0]

    def _differ(self, where: str, chosen: object, rejected: object) -> None:
        if chosen == rejected:
            fix = "drop the row; a preference is between two"
            self._fields.find(where, "same_answers", "both answers are the same", fix)
