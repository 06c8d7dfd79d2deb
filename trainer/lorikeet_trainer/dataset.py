"""A data file, checked whole and turned into rows: one function for every command that reads one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lorikeet_trainer.errors import DatasetRefused
from lorikeet_trainer.example import Chat, Completion, DataFormat, detect_format, read_example, unknown_format
from lorikeet_trainer.finding import RowFinding, Severity
from lorikeet_trainer.jsonl import Record, parse_jsonl, unreadable
from lorikeet_trainer.rendering import Renderer, Row


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows that can be trained on. `name` is the file's name without its folder."""

    name: str
    sha256: str
    format: DataFormat
    rows: tuple[Row, ...]
    warnings: tuple[RowFinding, ...] = ()

    @property
    def tokens(self) -> int:
        return sum(len(row.input_ids) for row in self.rows)

    @property
    def learned_tokens(self) -> int:
        return sum(row.learned_tokens for row in self.rows)

    @property
    def longest(self) -> int:
        return max(len(row.input_ids) for row in self.rows)


def load_dataset(path: Path, renderer: Renderer, max_length: int | None = None) -> Dataset:
    """Read, check, render and mask. Raises DatasetRefused with every finding at once."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    return read_dataset(data, path.name, renderer, max_length)


def read_dataset(data: bytes, name: str, renderer: Renderer, max_length: int | None = None) -> Dataset:
    """`load_dataset` for bytes at hand. `max_length` None means the base's context."""
    limit = min(max_length or renderer.context, renderer.context)
    findings: list[RowFinding] = []
    expected, examples = _read_examples(data, findings)
    if expected is DataFormat.CHAT and renderer.tokenizer.chat_template is None:
        message = "the base has no chat template, so it cannot render conversations"
        findings.append(
            RowFinding(
                0, "messages", "no_chat_template", message, "use prompt/completion rows, or an instruct base"
            )
        )
        examples = []
    rows = _render(examples, renderer, limit, findings)
    findings += _duplicates(rows)
    findings.sort(key=lambda finding: finding.line)
    if expected is None or any(finding.is_error for finding in findings):
        raise DatasetRefused(name, findings)
    return Dataset(name, hashlib.sha256(data).hexdigest(), expected, tuple(rows), tuple(findings))


def _read_examples(
    data: bytes, findings: list[RowFinding]
) -> tuple[DataFormat | None, list[Chat | Completion]]:
    records: list[Record] = []
    for each in parse_jsonl(data):
        if isinstance(each, Record):
            records.append(each)
        else:
            findings.append(each)
    if not records and not findings:
        findings.append(
            RowFinding(0, "", "no_rows", "there is no row in it", "write one JSON object per line")
        )
    expected = next((found for record in records if (found := detect_format(record))), None)
    examples: list[Chat | Completion] = []
    for record in records:
        if expected is None:
            findings.append(unknown_format(record))
            continue
        example, reasons = read_example(record, expected)
        findings += reasons
        if example is not None:
            examples.append(example)
    return expected, examples


def _render(
    examples: Iterable[Chat | Completion], renderer: Renderer, limit: int, findings: list[RowFinding]
) -> list[Row]:
    rows = []
    for example in examples:
        row = renderer.row(example)
        if isinstance(row, RowFinding):
            findings.append(row)
        elif len(row.input_ids) > limit:
            message = f"the row has {len(row.input_ids)} tokens, the limit is {limit}"
            findings.append(RowFinding(row.line, "", "too_long", message, "shorten it; rows are never cut"))
        else:
            rows.append(row)
    return rows


def _duplicates(rows: Iterable[Row]) -> list[RowFinding]:
    first: dict[tuple[int, ...], int] = {}
    findings = []
    for row in rows:
        earlier = first.setdefault(row.input_ids, row.line)
        if earlier != row.line:
            message = f"the same as line {earlier}"
            fix = "remove it, unless it is meant to count twice"
            findings.append(RowFinding(row.line, "", "duplicate", message, fix, Severity.WARNING))
    return findings
