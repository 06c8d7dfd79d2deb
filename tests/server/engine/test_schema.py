"""Which schemas are taken, and how those that are not are named. None may take long."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_server.engine.constraint import Constraint
from lorikeet_server.engine.schema import ANNOTATIONS, JUDGES, SchemaRefused, checked_schema

QUICK_S = 1.0


def nested(depth: int, key: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {key: [schema]} if key == "anyOf" else {key: {"p": schema}}
    return schema


def crossed(parts: int, alternatives: int) -> dict[str, Any]:
    def one(part: int, number: int) -> dict[str, Any]:
        return {"properties": {f"p{part}_{number}": {"type": "integer"}}}

    return {"allOf": [{"anyOf": [one(p, n) for n in range(alternatives)]} for p in range(parts)]}


HOSTILE: dict[str, tuple[Any, str]] = {
    "false": (False, "#: must be a JSON object"),
    "no object": (["type"], "#: must be a JSON object"),
    "a number for a schema": ({"properties": {"a": 3}}, "#/properties/a: must be a schema"),
    "deep": (nested(60, "properties"), "nested deeper than 32"),
    "deep alternatives": (nested(33, "anyOf"), "nested deeper than 32"),
    "very deep": (nested(400, "properties"), "nested deeper than 32"),
    "deep constant": ({"const": nested(100_000, "x")}, "nested too deeply"),
    "huge": ({"const": "x" * 100_000}, "#: it has over 65536 bytes"),
    "many schemas": ({"anyOf": [{"type": "null"}] * 5000}, "over 2048 schemas"),
    "many properties": ({"properties": {str(n): {} for n in range(300)}}, "#/properties: has 300 entries"),
    "many required": ({"required": [str(n) for n in range(300)]}, "#/required: has over 256"),
    "huge enum": ({"enum": list(range(100_000))}, "#/enum: must be a list of 1 to 1024"),
    "empty enum": ({"enum": []}, "#/enum: must be a list of 1 to 1024"),
    "remote reference": ({"$ref": "https://example.com/s.json"}, "#/$ref: only references within"),
    "file reference": ({"$ref": "file:///etc/passwd"}, "#/$ref: only references within"),
    "relative reference": ({"$ref": "other.json#/a"}, "#/$ref: only references within"),
    "dangling reference": ({"$ref": "#/$defs/none"}, "#/$defs/none is no schema of this document"),
    "reference into a value": ({"$ref": "#/const", "const": {"not": {}}}, "#/const is no schema"),
    "reference into an annotation": ({"default": {"not": {}}, "$ref": "#/default"}, "#/default is no schema"),
    "reference of a wrong type": ({"$ref": 3}, "#/$ref: must be a string"),
    "minLength 1e9": ({"minLength": 10**9}, "#/minLength: must be a whole number from 0 to 100000"),
    "maxItems -1": ({"maxItems": -1}, "#/maxItems: must be a whole number"),
    "minItems true": ({"minItems": True}, "#/minItems: must be a whole number"),
    "minProperties 2": ({"minProperties": 2}, "#/minProperties: can only be 0 or 1"),
    "huge number": ({"maximum": 10**400}, "#/maximum: must be a number between"),
    "draft 4's bound": ({"exclusiveMinimum": True, "minimum": 3}, "#/exclusiveMinimum: must be a number"),
    "multipleOf 0": ({"multipleOf": 0}, "#/multipleOf: must be above 0"),
    "long pattern": ({"pattern": "a" * 1000}, "#/pattern: must be a regular expression of at most 512"),
    "unknown format": ({"format": "credit-card"}, "#/format: must be one of date, "),
    "unknown type": ({"type": "decimal"}, "#/type: must be one or several of"),
    "tuple of draft 7": ({"items": [{"type": "null"}]}, "#/items: must be a schema"),
    "draft 4": ({"$schema": "http://json-schema.org/draft-04/schema#"}, "#/$schema: must be one of"),
    "options for the compiler": ({"x-guidance": {"lenient": True}}, "#/x-guidance: this keyword is not"),
    "combinations": (crossed(8, 4), "#: its parts hold at once and have over 1024 combinations"),
    "combinations below": ({"properties": {"a": crossed(20, 3)}}, "#/properties/a: its parts hold at once"),
    "combinations by reference": (
        {
            "$defs": {str(n): {"anyOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(30)}
            | {"30": {"type": "null"}},
            "allOf": [{"$ref": "#/$defs/0"}, {"$ref": "#/$defs/25"}],
        },
        "#: its parts hold at once",
    ),
    **{
        keyword: ({"items": {keyword: value}}, f"#/items/{keyword}: this keyword is not supported")
        for keyword, value in {
            "not": {},
            "if": {},
            "contains": {},
            "uniqueItems": True,
            "propertyNames": {},
            "dependentRequired": {},
            "unevaluatedProperties": False,
            "additionalItems": False,
            "nullable": True,
            "$id": "https://example.com/",
            "$dynamicRef": "#a",
            "contentEncoding": "base64",
        }.items()
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_schema_is_refused_with_its_place(name: str) -> None:
    schema, reason = HOSTILE[name]
    began = time.process_time()
    with pytest.raises(SchemaRefused) as refused:
        checked_schema(schema)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 4000
    assert time.process_time() - began < QUICK_S


def test_every_reason_is_told_at_once() -> None:
    with pytest.raises(SchemaRefused) as refused:
        checked_schema({"properties": {"a": {"not": {}}, "b/c": {"minLength": -1}}, "if": True})
    assert [each.partition(": ")[0] for each in str(refused.value).split("; ")] == [
        "#/properties/a/not",
        "#/properties/b~1c/minLength",
        "#/if",
    ]


def test_annotations_are_left_out_and_the_order_of_keys_is_kept() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "T",
        "properties": {
            "title": {"type": "string", "description": "a property named like a keyword"},
            "a": True,
        },
        "default": {"not": "a schema"},
    }
    text = checked_schema(schema)
    assert text == '{"properties": {"title": {"type": "string"}, "a": true}}'


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$ref": "#"},
        {"$defs": {"a b/c~d": {"type": "null"}}, "$ref": "#/$defs/a%20b~1c~0d"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"items": {"allOf": [{"$ref": "#"}, {"anyOf": [{"$ref": "#"}, {"type": "null"}]}]}},
        crossed(5, 4),
    ],
)
def test_these_are_taken(schema: Any) -> None:
    assert json.loads(checked_schema(schema)) == schema


KEYS = st.sampled_from(
    [*JUDGES, "properties", "items", "anyOf", "allOf", "$defs", "prefixItems", *ANNOTATIONS]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_is_sent_is_taken_as_it_stays_or_refused(value: Any) -> None:
    try:
        text = Constraint.json_schema(value).text
    except SchemaRefused:
        return
    assert checked_schema(json.loads(text)) == text


def test_true_is_any_value() -> None:
    assert checked_schema(True) == "{}"


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ([], "send 1 to 1024"),
        ([str(n) for n in range(2000)], "send 1 to 1024"),
        (["a", ""], "may not be empty"),
        (["x" * 40_000, "y" * 40_000], "over 65536 bytes"),
    ],
)
def test_bad_choices_are_refused(choices: list[str], reason: str) -> None:
    with pytest.raises(SchemaRefused, match=reason):
        Constraint.choice(choices)
