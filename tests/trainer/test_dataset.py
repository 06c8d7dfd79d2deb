"""Every row that cannot be trained on is found, named by line and field, and stops the whole file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lorikeet_trainer.dataset import load_dataset, read_dataset
from lorikeet_trainer.errors import DatasetRefused
from lorikeet_trainer.example import DataFormat
from lorikeet_trainer.finding import Severity
from lorikeet_trainer.rendering import Renderer
from tests.trainer.conftest import CONTEXT, chat, make_tokenizer

GOOD = json.dumps(chat("the lamp", "broken")).encode()
PLAIN = b'{"prompt": "the lamp is", "completion": " broken"}'


def message(**fields: object) -> bytes:
    """A chat row whose first message is as given and whose second is a good answer."""
    return json.dumps({"messages": [fields, {"role": "assistant", "content": "yes"}]}).encode()


def answer(**fields: object) -> bytes:
    """A chat row whose last message is as given."""
    return json.dumps({"messages": [{"role": "user", "content": "hello"}, fields]}).encode()


# A row, the field blamed and the code.
BAD_ROWS: dict[str, tuple[bytes, str, str]] = {
    "no json": (b'{"messages": [}', "", "not_json"),
    "too deep": (b"[" * 200_000, "", "not_json"),
    "an array": (b"[1]", "", "not_an_object"),
    "latin-1": (b'{"messages": "caf\xe9"}', "", "not_utf8"),
    "NaN": (b'{"messages": NaN}', "", "not_a_number"),
    "infinity": (b'{"messages": -Infinity}', "", "not_a_number"),
    "one key twice": (b'{"messages": [], "messages": []}', "", "duplicate_key"),
    "no known key": (b'{"text": "hello"}', "", "unknown_format"),
    "both formats": (b'{"messages": [], "prompt": "a"}', "", "unknown_format"),
    "the other format": (PLAIN, "", "mixed_formats"),
    "messages no list": (b'{"messages": "hello"}', "messages", "no_messages"),
    "no message": (b'{"messages": []}', "messages", "no_messages"),
    "tools": (
        json.dumps({**chat("hello", "yes"), "tools": []}).encode(),
        "tools",
        "unsupported_key",
    ),
    "a text as message": (b'{"messages": ["hello"]}', "messages[0]", "not_an_object"),
    "a weight": (
        answer(role="assistant", content="yes", weight=0),
        "messages[1].weight",
        "unsupported_key",
    ),
    "no role": (message(content="hello"), "messages[0].role", "missing_key"),
    "unknown role": (message(role="bot", content="hello"), "messages[0].role", "unknown_role"),
    "role no text": (message(role=["user"], content="hello"), "messages[0].role", "not_text"),
    "tool role": (message(role="tool", content="4"), "messages[0].role", "unsupported_role"),
    "no content": (message(role="user"), "messages[0].content", "missing_key"),
    "content parts": (message(role="user", content=[]), "messages[0].content", "not_text"),
    "null content": (answer(role="assistant", content=None), "messages[1].content", "not_text"),
    "lone surrogate": (
        b'{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "a"}]}',
        "messages[0].content",
        "not_unicode",
    ),
    "empty answer": (answer(role="assistant", content=" \n"), "messages[1].content", "empty_assistant"),
    "no answer": (answer(role="user", content="hello?"), "messages[1].role", "last_not_assistant"),
    "too long": (json.dumps(chat("lamp " * 200, "yes")).encode(), "", "too_long"),
}
BAD_PLAIN_ROWS: dict[str, tuple[bytes, str, str]] = {
    "no completion": (b'{"prompt": "the lamp"}', "completion", "missing_key"),
    "empty completion": (b'{"prompt": "the lamp", "completion": " "}', "completion", "empty_completion"),
    "empty prompt": (b'{"prompt": "", "completion": "a"}', "prompt", "empty_prompt"),
    "prompt no text": (b'{"prompt": 3, "completion": "a"}', "prompt", "not_text"),
    "extra key": (b'{"prompt": "a", "completion": "b", "label": 1}', "label", "unsupported_key"),
    "a chat": (GOOD, "", "mixed_formats"),
}


def refused(data: bytes, renderer: Renderer) -> DatasetRefused:
    with pytest.raises(DatasetRefused) as caught:
        read_dataset(data, "data.jsonl", renderer)
    return caught.value


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_chat_row_is_named_by_line_field_and_code(case: str, renderer: Renderer) -> None:
    row, field, code = BAD_ROWS[case]
    findings = refused(GOOD + b"\n" + row, renderer).findings
    assert [(each.line, each.field, each.code) for each in findings] == [(2, field, code)]
    assert findings[0].message
    assert findings[0].fix


@pytest.mark.parametrize("case", BAD_PLAIN_ROWS)
def test_a_bad_plain_row_is_named_by_line_field_and_code(case: str, renderer: Renderer) -> None:
    row, field, code = BAD_PLAIN_ROWS[case]
    findings = refused(PLAIN + b"\n" + row, renderer).findings
    assert [(each.line, each.field, each.code) for each in findings] == [(2, field, code)]


def test_all_findings_come_at_once_in_the_order_of_the_file(renderer: Renderer) -> None:
    two_faults = answer(role="assistant", content="", name="bot")
    data = b"\n".join([b"{", GOOD, two_faults, PLAIN, json.dumps(chat("lamp " * 200, "yes")).encode()])
    found = [(each.line, each.code) for each in refused(data, renderer).findings]
    assert found == [
        (1, "not_json"),
        (3, "unsupported_key"),
        (3, "empty_assistant"),
        (4, "mixed_formats"),
        (5, "too_long"),
    ]


def test_bad_json_is_named_by_column(renderer: Renderer) -> None:
    assert "column 15" in refused(b'{"messages": [}', renderer).findings[0].message


@pytest.mark.parametrize("data", [b"", b"\n  \n"])
def test_a_file_without_rows_is_refused(data: bytes, renderer: Renderer) -> None:
    (finding,) = refused(data, renderer).findings
    assert (finding.line, finding.code) == (0, "no_rows")


def test_a_missing_file_is_refused_without_its_folder(tmp_path: Path, renderer: Renderer) -> None:
    with pytest.raises(DatasetRefused, match=r"none\.jsonl cannot be used: No such file") as caught:
        load_dataset(tmp_path / "none.jsonl", renderer)
    assert str(tmp_path) not in str(caught.value)


def test_the_first_row_that_has_a_format_decides(renderer: Renderer) -> None:
    found = refused(b"[]\n" + PLAIN + b"\n" + GOOD, renderer).findings
    assert [(each.line, each.code) for each in found] == [(1, "not_an_object"), (3, "mixed_formats")]


def test_blank_lines_and_a_byte_order_mark_are_no_rows(renderer: Renderer) -> None:
    dataset = read_dataset(b"\xef\xbb\xbf" + GOOD + b"\r\n\n  \n", "data.jsonl", renderer)
    assert [row.line for row in dataset.rows] == [1]
    assert dataset.format is DataFormat.CHAT


def test_a_chat_needs_a_chat_template(renderer: Renderer) -> None:
    bare = replace(renderer, tokenizer=make_tokenizer(template=None))
    (finding,) = refused(GOOD, bare).findings
    assert finding.code == "no_chat_template"
    assert len(read_dataset(PLAIN, "data.jsonl", bare).rows) == 1


def test_the_limit_is_the_smaller_of_recipe_and_context(renderer: Renderer) -> None:
    row = json.dumps(chat("hello " * 4, "yes")).encode()
    length = read_dataset(row, "data.jsonl", renderer).longest
    assert read_dataset(row, "data.jsonl", renderer, length).longest == length
    with pytest.raises(DatasetRefused, match=f"has {length} tokens, the limit is {length - 1}"):
        read_dataset(row, "data.jsonl", renderer, length - 1)
    with pytest.raises(DatasetRefused, match=f"the limit is {CONTEXT}"):
        read_dataset(json.dumps(chat("lamp " * 200, "yes")).encode(), "data.jsonl", renderer, 10_000)


def test_a_duplicate_is_a_warning_and_no_refusal(renderer: Renderer) -> None:
    dataset = read_dataset(GOOD + b"\n" + GOOD, "data.jsonl", renderer)
    assert len(dataset.rows) == 2
    (warning,) = dataset.warnings
    assert (warning.line, warning.code, warning.severity) == (2, "duplicate", Severity.WARNING)
