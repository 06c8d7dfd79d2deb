"""Files of other tools to chat rows: alpaca, sharegpt, and prompts with completions."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from lorikeet_trainer.errors import DatasetRefused
from lorikeet_trainer.example import DataFormat
from lorikeet_trainer.fields import Fields, Object
from lorikeet_trainer.finding import MOST_SHOWN, RowFinding, Severity
from lorikeet_trainer.formats import read_example
from lorikeet_trainer.jsonl import Record, parse_array, parse_jsonl

SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}


class Source(StrEnum):
    ALPACA = "alpaca"
    SHAREGPT = "sharegpt"
    COMPLETIONS = "completions"


USED = {
    Source.ALPACA: frozenset({"instruction", "input", "output", "system"}),
    Source.SHAREGPT: frozenset({"conversations", "system"}),
    Source.COMPLETIONS: frozenset({"prompt", "completion"}),
}
MARKS = {"instruction": Source.ALPACA, "conversations": Source.SHAREGPT, "prompt": Source.COMPLETIONS}


@dataclass(frozen=True, slots=True)
class Converted:
    """Chat rows as JSON lines; `warnings` name what of the source is in none of them."""

    source: Source
    rows: int
    data: bytes
    warnings: tuple[RowFinding, ...]


def convert(data: bytes, name: str, source: Source | None = None) -> Converted:
    """Every row, or none: raises DatasetRefused. Without `source` the first row tells.

    Reads JSON lines and a file that is one array, where a row's line is its number.
    """
    records, findings = _records(data)
    source = source or next((mark for each in records if (mark := _mark(each)) is not None), None)
    if source is None:
        message = "the rows are neither alpaca, sharegpt nor prompts with completions"
        fix = "name the source with --from, or see whether the file is of a format that is trained on already"
        raise DatasetRefused(name, [*findings, RowFinding(0, "", "unknown_format", message, fix)])
    lines = []
    dropped: Counter[str] = Counter()
    for record in records:
        row = _chat(record, source, findings)
        dropped.update(key[:MOST_SHOWN] for key in _left_out(record.value, source))
        if row is not None:
            lines.append(json.dumps(row, ensure_ascii=False))
    findings += _lost(dropped)
    if any(finding.is_error for finding in findings):
        raise DatasetRefused(name, sorted(findings, key=lambda finding: finding.line))
    text = "".join(line + "\n" for line in lines)
    return Converted(source, len(lines), text.encode(), tuple(findings))


def _records(data: bytes) -> tuple[list[Record], list[RowFinding]]:
    is_array = data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    read = parse_array(data) if is_array else list(parse_jsonl(data))
    records = [each for each in read if isinstance(each, Record)]
    findings = [each for each in read if isinstance(each, RowFinding)]
    return records, findings


def _mark(record: Record) -> Source | None:
    return next((MARKS[key] for key in MARKS if key in record.value), None)


def _chat(record: Record, source: Source, findings: list[RowFinding]) -> Object | None:
    """The row as chat; what the chat reader says of it is said of the source's row."""
    fields = Fields(record.line)
    readers: dict[Source, Callable[[Fields, Object], Iterator[Object]]] = {
        Source.ALPACA: _alpaca,
        Source.SHAREGPT: _sharegpt,
        Source.COMPLETIONS: _completion,
    }
    turns = list(readers[source](fields, record.value))
    findings += fields.findings
    if fields.findings:
        return None
    row: Object = {"messages": turns}
    read = read_example(Record(record.line, dict(row)), DataFormat.CHAT)
    if isinstance(read, list):
        findings += read
        return None
    return row


def _alpaca(fields: Fields, raw: Object) -> Iterator[Object]:
    yield from _system(fields, raw)
    instruction = fields.filled("", raw, "instruction", "drop the row or fill it in")
    given = fields.text("", raw, "input") if raw.get("input") is not None else ""
    yield _turn("user", f"{instruction}\n\n{given}" if given else instruction)
    yield _turn("assistant", fields.filled("", raw, "output", "drop the row or fill it in"))


def _completion(fields: Fields, raw: Object) -> Iterator[Object]:
    """Blanks at the seam held the two apart; the chat template does that now."""
    for key, role in (("prompt", "user"), ("completion", "assistant")):
        text = fields.filled("", raw, key, "drop the row or fill it in")
        yield _turn(role, None if text is None else text.strip())


def _sharegpt(fields: Fields, raw: Object) -> Iterator[Object]:
    yield from _system(fields, raw)
    shape = '{"from": ..., "value": ...}'
    turns = fields.mappings("conversations", raw.get("conversations"), shape) or []
    for index, turn in enumerate(turns):
        where = f"conversations[{index}]"
        speaker = fields.text(where, turn, "from")
        if speaker is not None and speaker not in SPEAKERS:
            message = f"turns from {speaker[:MOST_SHOWN]!r} have no role in a chat row"
            fix = "use " + ", ".join(SPEAKERS) + "; write tool calls in OpenAI's shape"
            fields.find(f"{where}.from", "unknown_role", message, fix)
        spoken = _turn(SPEAKERS.get(speaker or "", ""), fields.text(where, turn, "value"))
        yield {**spoken, "weight": turn["weight"]} if _is_weighted(turn) else spoken


def _system(fields: Fields, raw: Object) -> Iterator[Object]:
    if raw.get("system"):
        yield _turn("system", fields.text("", raw, "system"))


def _turn(role: str, text: str | None) -> Object:
    return {"role": role, "content": text}


def _is_weighted(turn: Object) -> bool:
    """An answer's weight is the chat row's; what the chat reader says of it is said of the source's row."""
    return SPEAKERS.get(str(turn.get("from"))) == "assistant" and turn.get("weight") is not None


def _left_out(raw: Object, source: Source) -> set[str]:
    """What of the row a chat row has no place for, each key once. A question's weight of 0 is what it has there."""
    lost = set(raw.keys() - USED[source])
    said = raw.get("conversations") if source is Source.SHAREGPT else None
    for turn in said if isinstance(said, list) else []:
        keys = turn.keys() - {"from", "value"} if isinstance(turn, dict) else set()
        if "weight" in keys and (_is_weighted(turn) or not turn["weight"]):
            keys -= {"weight"}
        lost |= {f"conversations[].{key}" for key in keys}
    return lost


def _lost(dropped: Counter[str]) -> Iterator[RowFinding]:
    for key, count in sorted(dropped.items()):
        message = f"the key {key!r} of {count} rows is in no chat row"
        fix = "nothing, unless you need it"
        yield RowFinding(0, key, "key_dropped", message, fix, Severity.WARNING)
