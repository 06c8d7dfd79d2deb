"""What a row says: a conversation, or a prompt with its completion."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lorikeet_trainer.finding import RowFinding
from lorikeet_trainer.jsonl import Record

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
TOOL_ROLES = frozenset({"tool", "function"})
MESSAGE_KEYS = frozenset({"role", "content"})
ONLY_TEXT = "train on text turns; tools, names, weights and attachments are not supported"


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


KEYS = {
    DataFormat.CHAT: frozenset({"messages"}),
    DataFormat.COMPLETION: frozenset({"prompt", "completion"}),
}


@dataclass(frozen=True, slots=True)
class Message:
    """`role` is system, user or assistant: developer is read as system, as the server does."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation whose last turn is the assistant's."""

    line: int
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """Plain text and its continuation, outside any chat template."""

    line: int
    prompt: str
    completion: str


def detect_format(record: Record) -> DataFormat | None:
    """The format whose keys the row has; None when it has those of neither or of both."""
    found = [each for each, keys in KEYS.items() if keys & record.value.keys()]
    return found[0] if len(found) == 1 else None


def read_example(record: Record, expected: DataFormat) -> tuple[Chat | Completion | None, list[RowFinding]]:
    """The row's meaning, or None with every reason why it has none."""
    actual = detect_format(record)
    if actual is None:
        return None, [unknown_format(record)]
    if actual is not expected:
        message = f"a {actual} row in a {expected} file"
        fix = "keep one format per file; the first row decides"
        return None, [RowFinding(record.line, "", "mixed_formats", message, fix)]
    reader = _Reader(record)
    if expected is DataFormat.CHAT:
        return reader.chat()
    return reader.completion()


def unknown_format(record: Record) -> RowFinding:
    keys = ", ".join(sorted(record.value)) or "none"
    message = f"neither a chat nor a prompt/completion row; its keys: {keys}"
    fix = 'write {"messages": [...]} or {"prompt": "...", "completion": "..."}'
    return RowFinding(record.line, "", "unknown_format", message, fix)


class _Reader:
    """Collects the findings of one row and goes on."""

    def __init__(self, record: Record) -> None:
        self._line = record.line
        self._value = record.value
        self._findings: list[RowFinding] = []

    def chat(self) -> tuple[Chat | None, list[RowFinding]]:
        self._known_keys("", self._value, KEYS[DataFormat.CHAT])
        raw = self._value["messages"]
        if not isinstance(raw, list) or not raw:
            self._find("messages", "no_messages", "not a list with at least one message", "add the turns")
            return None, self._findings
        messages = [self._message(f"messages[{index}]", each) for index, each in enumerate(raw)]
        last = messages[-1]
        if last is not None and last.role != "assistant":
            fix = "end each row with the answer to be learned"
            where = f"messages[{len(messages) - 1}].role"
            self._find(where, "last_not_assistant", f"the last turn is {last.role}, not assistant", fix)
        complete = tuple(message for message in messages if message is not None)
        return (None if self._findings else Chat(self._line, complete)), self._findings

    def completion(self) -> tuple[Completion | None, list[RowFinding]]:
        self._known_keys("", self._value, KEYS[DataFormat.COMPLETION])
        prompt = self._text("prompt", self._value, "prompt")
        completion = self._text("completion", self._value, "completion")
        if prompt == "":
            self._find(
                "prompt", "empty_prompt", "the prompt is empty", "give the text that is to be continued"
            )
        if completion is not None and not completion.strip():
            self._find(
                "completion", "empty_completion", "the completion is empty", "drop the row or fill it in"
            )
        if self._findings or prompt is None or completion is None:
            return None, self._findings
        return Completion(self._line, prompt, completion), self._findings

    def _message(self, where: str, raw: object) -> Message | None:
        if not isinstance(raw, dict):
            self._find(
                where, "not_an_object", "the message is no object", 'write {"role": ..., "content": ...}'
            )
            return None
        self._known_keys(where, raw, MESSAGE_KEYS)
        role = self._role(where, raw)
        content = self._text(f"{where}.content", raw, "content")
        if role == "assistant" and content is not None and not content.strip():
            fix = "drop the row or fill the answer in"
            self._find(f"{where}.content", "empty_assistant", "the assistant's turn is empty", fix)
        return None if role is None or content is None else Message(role, content)

    def _role(self, where: str, raw: dict[str, object]) -> str | None:
        role = self._text(f"{where}.role", raw, "role")
        if role is None:
            return None
        if role in ROLES:
            return ROLES[role]
        if role in TOOL_ROLES:
            self._find(
                f"{where}.role", "unsupported_role", f"turns of the role {role} are not trained on", ONLY_TEXT
            )
        else:
            fix = "use " + ", ".join(ROLES)
            self._find(f"{where}.role", "unknown_role", f"{role!r} is no known role", fix)
        return None

    def _text(self, where: str, raw: dict[str, object], key: str) -> str | None:
        if key not in raw:
            self._find(where, "missing_key", f"there is no {key}", "add it")
            return None
        text = raw[key]
        if not isinstance(text, str):
            self._find(where, "not_text", f"{key} is not a string", ONLY_TEXT)
            return None
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            self._find(
                where, "not_unicode", "half of a surrogate pair stands alone", "write the whole character"
            )
            return None
        return text

    def _known_keys(self, where: str, raw: dict[str, object], known: frozenset[str]) -> None:
        for key in sorted(raw.keys() - known):
            path = f"{where}.{key}" if where else key
            self._find(
                path, "unsupported_key", f"the key {key!r} is not supported", f"remove it; {ONLY_TEXT}"
            )

    def _find(self, field: str, code: str, message: str, fix: str) -> None:
        self._findings.append(RowFinding(self._line, field, code, message, fix))
