"""Other tools' files become chat rows with nothing lost unsaid."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lorikeet_trainer.convert import Source, convert
from lorikeet_trainer.errors import DatasetRefused


def lines(*rows: Any) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def turns(data: bytes, source: Source | None = None) -> list[list[tuple[str, str]]]:
    rows = [json.loads(line) for line in convert(data, "data.jsonl", source).data.splitlines()]
    return [[(each["role"], each["content"]) for each in row["messages"]] for row in rows]


def refused(data: bytes, source: Source | None = None) -> list[tuple[int, str, str]]:
    with pytest.raises(DatasetRefused) as caught:
        convert(data, "data.jsonl", source)
    return [(each.line, each.field, each.code) for each in caught.value.findings if each.is_error]


def test_alpaca_puts_the_input_below_the_instruction() -> None:
    data = lines(
        {"instruction": "Translate", "input": "Lampe", "output": "lamp"},
        {"instruction": "Hello", "input": "", "output": "Hi", "system": "Be kind"},
        {"instruction": "Bye", "output": "Bye"},
    )
    assert turns(data) == [
        [("user", "Translate\n\nLampe"), ("assistant", "lamp")],
        [("system", "Be kind"), ("user", "Hello"), ("assistant", "Hi")],
        [("user", "Bye"), ("assistant", "Bye")],
    ]


def test_sharegpt_speakers_become_roles() -> None:
    said = [("system", "Be kind"), ("human", "Hi"), ("gpt", "Hello"), ("user", "Lamp?"), ("chatgpt", "Red")]
    row = {"id": 7, "conversations": [{"from": who, "value": text} for who, text in said]}
    roles = ["system", "user", "assistant", "user", "assistant"]
    assert turns(lines(row)) == [[(role, text) for role, (_, text) in zip(roles, said, strict=True)]]
    (warning,) = convert(lines(row), "data.jsonl").warnings
    assert (warning.field, warning.code) == ("id", "key_dropped")


def test_a_turn_keeps_its_weight_and_loses_nothing_unsaid() -> None:
    said = [
        {"from": "human", "value": "a", "weight": 0},
        {"from": "gpt", "value": "b", "weight": 0},
        {"from": "human", "value": "c", "weight": None},
        {"from": "gpt", "value": "d", "weight": 1, "ts": 17},
        {"from": "human", "value": "e", "weight": 1, "ts": 18},
        {"from": "gpt", "value": "f"},
    ]
    found = convert(lines({"conversations": said}, {"conversations": said}), "data.jsonl")
    weights = [turn.get("weight") for turn in json.loads(found.data.splitlines()[0])["messages"]]
    assert weights == [None, 0, None, 1, None, None]
    assert [(each.field, each.code) for each in found.warnings] == [
        ("conversations[].ts", "key_dropped"),
        ("conversations[].weight", "key_dropped"),  # of a question that was to be learned
    ]
    assert all("of 2 rows" in each.message for each in found.warnings)
    half = [*said[:1], {"from": "gpt", "value": "b", "weight": 0.5}]
    assert refused(lines({"conversations": half})) == [(1, "messages[1].weight", "bad_weight")]


def test_a_completion_loses_the_blanks_at_its_seam() -> None:
    assert turns(lines({"prompt": "Lamp?\n", "completion": " red"})) == [
        [("user", "Lamp?"), ("assistant", "red")]
    ]


def test_one_array_is_read_as_well_as_lines() -> None:
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "c", "output": ""}]
    assert turns(json.dumps(rows[:1], indent=2).encode()) == [[("user", "a"), ("assistant", "b")]]
    assert refused(b"\xef\xbb\xbf " + json.dumps([*rows, 3], indent=2).encode()) == [
        (2, "output", "empty_output"),
        (3, "", "not_an_object"),
    ]
    with pytest.raises(DatasetRefused, match="line 2, column 1"):
        convert(b'[{"instruction": "a"},\n]', "data.json")


@pytest.mark.parametrize(
    ("row", "field", "code"),
    [
        ({"instruction": "a"}, "output", "missing_key"),
        ({"instruction": 3, "output": "b"}, "instruction", "not_text"),
        ({"instruction": " ", "output": "b"}, "instruction", "empty_instruction"),
        ({"conversations": []}, "conversations", "not_a_list"),
        ({"conversations": [{"from": "tool", "value": "4"}]}, "conversations[0].from", "unknown_role"),
        ({"conversations": [{"from": "human"}]}, "conversations[0].value", "missing_key"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "messages[0].role", "last_not_assistant"),
        ({"prompt": "a", "completion": None}, "completion", "not_text"),
        ({"question": "a"}, "", "unknown_format"),
    ],
)
def test_what_has_no_place_in_a_chat_row_is_named(row: dict[str, Any], field: str, code: str) -> None:
    assert refused(lines(row)) == [(0 if code == "unknown_format" else 1, field, code)]


def test_a_named_source_is_required_of_every_row() -> None:
    data = lines({"instruction": "a", "output": "b"}, {"prompt": "a", "completion": "b"})
    assert refused(data) == [(2, "instruction", "missing_key"), (2, "output", "missing_key")]
    assert refused(data, Source.SHAREGPT)[0] == (1, "conversations", "not_a_list")
