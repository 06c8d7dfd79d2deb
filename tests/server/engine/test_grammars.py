"""Compilation: what is refused, what hostile schemas cost, and what is kept."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lorikeet_server.engine.constraint import Constraint, Refusal, Stuck
from lorikeet_server.engine.grammars import KEPT, Grammars
from lorikeet_server.engine.guided import (
    CompiledGrammar,
    Lexicon,
    compile_constraint,
)
from tests.server.engine.forms import (
    allowed,
    follow,
    grammar_for,
)

QUICK_S = 2.0
UNCOMPILABLE: dict[str, tuple[Any, str]] = {
    "no type at all": ({"allOf": [{"type": "string"}, {"type": "null"}]}, "Unsatisfiable"),
    "empty range": ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
    "itself": ({"$ref": "#"}, "no text satisfies it"),
    "a circle": (
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        "no text satisfies it",
    ),
    "look-around": ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    "back-reference": ({"type": "string", "pattern": "(a)\\1"}, "backreferences"),
    "broken pattern": ({"type": "string", "pattern": "(("}, "regex parse error"),
    "overlapping oneOf": ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
    "large multiple": ({"type": "integer", "multipleOf": 10**9 + 7}, "fuel"),
    "special token": ({"const": "a <|end|> b"}, "`<|end|>` is one token"),
}
HEAVY: dict[str, Any] = {
    "catastrophic": {"type": "string", "pattern": "^(a+)+$"},
    "repetitions": {"type": "string", "pattern": "((a{1000}){1000}){1000}"},
    "exponential states": {"type": "string", "pattern": "(a|b)*a(a|b){25}"},
    "many states": {"type": "string", "pattern": ".*a.{200}b.{200}"},
    "alternatives": {"type": "string", "pattern": "|".join(f"{n}.*" for n in range(100))},
    "long": {"type": "string", "minLength": 100_000},
    "many items": {"type": "array", "minItems": 100_000},
    "enum": {"enum": [f"value number {n}" for n in range(1024)]},
    "optional": {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(256)}},
    "never complete": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "crossed": {
        "allOf": [
            {"anyOf": [{"properties": {f"{part}{n}": {"type": "integer"}}} for n in range(4)]}
            for part in range(5)
        ]
    },
    "ambiguous": {
        "type": "array",
        "items": {
            "anyOf": [{"properties": {"a": {"type": "string", "maxLength": n}}} for n in range(1, 150)]
        },
    },
}


@pytest.mark.parametrize("name", UNCOMPILABLE)
def test_what_cannot_be_compiled_is_refused_with_a_reason(tiny: Lexicon, name: str) -> None:
    schema, reason = UNCOMPILABLE[name]
    refusal = compile_constraint(Constraint.json_schema(schema), tiny)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason
    assert len(refusal.reason) < 300


@pytest.mark.safety("security 11")
@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_schema_is_quick_or_refused(lexicon: Lexicon, name: str) -> None:
    began = time.process_time()
    grammar = compile_constraint(Constraint.json_schema(HEAVY[name]), lexicon)
    assert time.process_time() - began < QUICK_S
    if isinstance(grammar, Refusal):
        return
    slowest = 0.0
    guide = grammar.begin()
    for token in lexicon.tokenizer.tokenize_str('"' + 200 * "ab" if "pattern" in HEAVY[name] else '{"a":'):
        began = time.process_time()
        try:
            possible = allowed(guide)
        except Stuck:
            break
        slowest = max(slowest, time.process_time() - began)
        if token not in possible:
            break
        guide.accept(token)
    assert slowest < 0.2


def test_a_lexer_filled_by_others_does_not_fail_a_request(tiny: Lexicon) -> None:
    """Every guide of a grammar learns into one lexer of bounded memory."""
    grammar = grammar_for(Constraint.json_schema({"type": "string", "pattern": "^.*a.{90}b.{90}$"}), tiny)
    assert isinstance(grammar, CompiledGrammar)
    waiting = grammar.begin()
    for each in tiny.tokenizer.tokenize_str('"ab'):
        waiting.accept(each)
    expected = allowed(waiting).tolist()
    filled = 0
    for seed in range(60):
        guide = grammar.begin()
        guide.accept(tiny.tokenizer.tokenize_str('"')[0])
        try:
            for step in range(400):
                allowed(guide)
                guide.accept(tiny.tokenizer.tokenize_str("ab"[hash((seed, step)) % 2])[0])
        except Stuck:
            break
        filled += not guide._shares
    assert filled, "the test must fill the shared lexer"
    assert allowed(waiting).tolist() == expected
    assert follow(grammar, '"' + "a" + 90 * "x" + "b" + 90 * "y" + '"', tiny)


def test_what_was_compiled_is_kept_and_bounded(tiny: Lexicon) -> None:
    grammars = Grammars(lambda: tiny)
    first = grammars.compile(Constraint.choice(["a"]))
    assert first is not None
    assert grammars.compile(Constraint.choice(["a"])) is first
    first.result(timeout=60)
    for number in range(3 * KEPT):
        made = grammars.compile(Constraint.choice([str(number)]))
        assert made is not None
        made.result(timeout=60)
    assert len(grammars._made) == KEPT
    assert grammars.compile(Constraint.choice(["a"])) is not first
    grammars.close()
