"""What grammars let through, judged by jsonschema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorikeet_server.engine.constraint import Constraint, Stuck
from lorikeet_server.engine.guided import (
    Lexicon,
    read_lexicon,
)
from lorikeet_server.engine.tokenizer import Tokenizer
from tests.server.engine.forms import (
    CHOICES,
    SHAPES,
    TICKET,
    allowed,
    follow,
    grammar_for,
    wander,
)
from tests.tiny import VOCABULARY, make_tokenizer

SCHEMAS: dict[str, Any] = {
    "ticket": TICKET,
    "shapes": SHAPES,
    "length": {"type": "string", "minLength": 2, "maxLength": 5},
    "pattern": {"type": "string", "pattern": "[a-c]{2}", "maxLength": 6},
    "number": {"type": "number", "minimum": -3.25, "exclusiveMaximum": 12.5},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 99},
    "quarter": {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 3},
    "enum": {"enum": ['é\n"', 1, 1.5, None, True, {"a": [1]}, []]},
    "enum and bound": {"enum": [1, 5, 10, "a"], "minimum": 4},
    "two of": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        "additionalProperties": False,
    },
    "all of": {
        "allOf": [
            {"properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]},
            {"type": "object", "properties": {"a": {"maximum": 7}}, "additionalProperties": False},
        ]
    },
    "one of": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"k": {"const": kind}},
                "required": ["k"],
                "additionalProperties": False,
            }
            for kind in ("a", "b")
        ]
    },
    "recursive": {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 0, "maximum": 3},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "required": ["n", "next"],
        "additionalProperties": False,
    },
    "pattern properties": {
        "type": "object",
        "patternProperties": {"^a[0-9]$": {"type": "boolean"}},
        "additionalProperties": False,
        "maxProperties": 3,
    },
    "not empty": {
        "type": "object",
        "properties": {"a": {}, "b": {}},
        "minProperties": 1,
        "additionalProperties": False,
    },
    "tuple": {"type": "array", "prefixItems": [{"const": 1}, {"type": "boolean"}], "items": False},
    "several types": {"type": ["integer", "null", "boolean"], "minimum": 0, "maximum": 9},
    **{f"format {each}": {"type": "string", "format": each} for each in ("ipv4", "ipv6", "uuid")},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_is_let_through_is_valid(lexicon: Lexicon, name: str) -> None:
    schema = SCHEMAS[name]
    grammar = grammar_for(Constraint.json_schema(schema), lexicon)
    judge = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    ended = 0
    for seed in range(25):
        tokens = wander(grammar.begin(), lexicon.ends, seed)
        if tokens is not None:
            judge.validate(json.loads(lexicon.tokenizer.decode_bytes(tokens)))
            ended += 1
    assert ended >= 5


def test_characters_of_several_tokens_are_always_whole(tiny: Lexicon) -> None:
    schema = {"type": "string", "minLength": 3, "maxLength": 3, "pattern": "^[é-🙂]*$"}
    grammar = grammar_for(Constraint.json_schema(schema), tiny)
    lengths = set()
    for seed in range(40):
        tokens = wander(grammar.begin(), tiny.ends, seed)
        assert tokens is not None
        text = json.loads(tiny.tokenizer.decode_bytes(tokens).decode())
        assert len(text) == 3
        lengths.add(len(text.encode()))
    assert max(lengths) > 6, "characters of three and four bytes must have come up"


# Not the name of a special token: `follow` would take it for that token, which no grammar allows.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=8).filter(
    lambda text: "<|" not in text
)


@given(st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_object_can_be_said_compact_spaced_or_indented(tiny: Lexicon, value: dict[str, Any]) -> None:
    grammar = grammar_for(Constraint.json_object(), tiny)
    for indent, separators in ((None, (",", ":")), (None, (", ", ": ")), (2, (",", ": "))):
        text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
        assert follow(grammar, text, tiny)
    assert not follow(grammar, json.dumps([value]), tiny)


def test_blank_space_comes_to_an_end(tiny: Lexicon) -> None:
    grammar = grammar_for(Constraint.json_object(), tiny)
    assert follow(grammar, '{\n    "a" : 1}', tiny)
    assert not follow(grammar, '{  "a": 1}', tiny)
    assert not follow(grammar, '{\n\n"a": 1}', tiny)
    assert not follow(grammar, "{\n" + 33 * " " + '"a": 1}', tiny)


def test_a_choice_is_one_of_the_texts_and_nothing_else(lexicon: Lexicon) -> None:
    grammar = grammar_for(Constraint.choice(CHOICES), lexicon)
    said = set()
    for seed in range(60):
        tokens = wander(grammar.begin(), lexicon.ends, seed)
        assert tokens is not None
        said.add(lexicon.tokenizer.decode_bytes(tokens).decode())
    assert said == set(CHOICES)


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_text_can_be_a_choice(tiny: Lexicon, choices: list[str]) -> None:
    grammar = grammar_for(Constraint.choice(choices), tiny)
    for each in choices:
        assert follow(grammar, each, tiny)
        assert follow(grammar, each + "x", tiny) == (each + "x" in choices)


def test_an_end_token_that_is_text_ends_only_where_the_text_may_end() -> None:
    """A generation config can name any token as an end."""
    quote = 1
    lexicon = read_lexicon(Tokenizer(make_tokenizer(), frozenset({256, quote})), VOCABULARY)
    guide = grammar_for(Constraint.choice(['a"b']), lexicon).begin()
    guide.accept(lexicon.tokenizer.tokenize_str("a")[0])
    with pytest.raises(Stuck, match="no token"):
        guide.allowed()
    guide = grammar_for(Constraint.choice(["a"]), lexicon).begin()
    guide.accept(lexicon.tokenizer.tokenize_str("a")[0])
    assert allowed(guide).tolist() == [quote, 256]
