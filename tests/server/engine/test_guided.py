"""Grammars by themselves: what they let through, judged by jsonschema, and what becomes of hostile ones."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as TokenizersTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lorikeet_server.engine.constraint import Constraint, Refusal, Stuck
from lorikeet_server.engine.grammars import KEPT, Grammars
from lorikeet_server.engine.guided import (
    CompiledGrammar,
    Lexicon,
    TokenizerUnusable,
    compile_constraint,
    read_lexicon,
)
from lorikeet_server.engine.tokenizer import Tokenizer
from tests.server.engine.forms import CHOICES, SHAPES, TICKET, allowed, demo_lexicon, grammar_for, wander
from tests.tiny import VOCABULARY, make_tokenizer

QUICK_S = 2.0
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


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return demo_lexicon()[1]


@pytest.fixture(scope="module")
def tiny() -> Lexicon:
    """One token a byte."""
    return read_lexicon(Tokenizer(make_tokenizer(), frozenset({256})), VOCABULARY)


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


def follow(grammar: CompiledGrammar, text: str, lexicon: Lexicon) -> bool:
    """Whether the grammar lets this text through to its end, one token of the vocabulary after another."""
    guide = grammar.begin()
    for token in lexicon.tokenizer.tokenize_str(text):
        if token not in allowed(guide):
            return False
        guide.accept(token)
    return bool(set(lexicon.ends) & set(allowed(guide).tolist()))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=8)


@given(st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_object_can_be_said_compact_spaced_or_indented(tiny: Lexicon, value: dict[str, Any]) -> None:
    grammar = grammar_for(Constraint.json_object(), tiny)
    assert isinstance(grammar, CompiledGrammar)
    for indent, separators in ((None, (",", ":")), (None, (", ", ": ")), (2, (",", ": "))):
        text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
        assert follow(grammar, text, tiny)
    assert not follow(grammar, json.dumps([value]), tiny)


def test_blank_space_comes_to_an_end(tiny: Lexicon) -> None:
    grammar = grammar_for(Constraint.json_object(), tiny)
    assert isinstance(grammar, CompiledGrammar)
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
    assert isinstance(grammar, CompiledGrammar)
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


def fast(inner: TokenizersTokenizer) -> Tokenizer:
    wrapped = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    return Tokenizer(wrapped, frozenset({wrapped.eos_token_id}))


def test_a_sentencepiece_vocabulary_with_byte_fallback_works() -> None:
    """As Llama's: pieces with a mark for a space, and a token for each byte."""
    pieces = [
        "<unk>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁{",
        '{"',
        "a",
        "ab",
        '":',
        "é",
        "}",
    ]
    inner = TokenizersTokenizer(
        models.BPE({each: at for at, each in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = fast(inner)
    lexicon = read_lexicon(tokenizer, len(pieces) + 9)
    grammar = grammar_for(Constraint.json_schema(TICKET), lexicon)
    for seed in range(10):
        tokens = wander(grammar.begin(), lexicon.ends, seed, most=900)
        if tokens is not None:
            jsonschema.validate(json.loads(tokenizer.decode(tokens)), TICKET)


def lowercasing() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = TokenizersTokenizer(
        models.BPE({each: at for at, each in enumerate([*alphabet, "</s>", "<unk>"])}, [])
    )
    inner.normalizer = normalizers.Replace("n", "m")
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return fast(inner)


def wordwise() -> Tokenizer:
    inner = TokenizersTokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return fast(inner)


@pytest.mark.parametrize(
    "make",
    [lowercasing, wordwise, lambda: Tokenizer(make_tokenizer(), frozenset())],
    ids=["lower", "words", "endless"],
)
def test_a_tokenizer_that_cannot_be_used_refuses_constraints_only(make: Any) -> None:
    with pytest.raises(TokenizerUnusable):
        read_lexicon(make(), VOCABULARY)
    grammars = Grammars(lambda: read_lexicon(make(), VOCABULARY))
    made = grammars.compile(Constraint.json_object())
    assert made is not None
    outcome = made.result(timeout=60)
    assert isinstance(outcome, Refusal)
    assert "because of its tokenizer" in outcome.reason
    grammars.close()


def test_a_vocabulary_larger_than_the_model_is_refused() -> None:
    with pytest.raises(TokenizerUnusable):
        read_lexicon(Tokenizer(make_tokenizer(), frozenset({256})), 258)


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
