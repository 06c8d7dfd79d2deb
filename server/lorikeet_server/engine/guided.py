"""Grammars and their guides, by llguidance: which tokens may come next, so that the text fits.

Guides of one grammar share what its lexer has learned of the vocabulary, which makes most masks a
look-up. The lexer's memory is bounded, and a sharer can fill it: a guide that meets an error begins
again on a lexer of its own, so what becomes of a request never depends on others with its schema.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer

from lorikeet_server.engine.constraint import Constraint, ConstraintKind, Refusal, Stuck
from lorikeet_server.engine.tokenizer import Tokenizer

# Between two parts of JSON: nothing, a space, or a new line and its indentation. Never endless space.
WHITESPACE = r"[ ]?|\n[ \t]{0,32}"
LIMITS = LLParserLimits(
    max_items_in_row=8000,
    step_max_items=100_000,
    max_lexer_states=25_000,  # about a kilobyte each
    max_grammar_size=200_000,
    verbose_errors=False,
)
SAMPLE = '{"a": [-1.5e3, true, null], "b c": "x\\n"}'


class TokenizerUnusable(ValueError):
    """The base's tokenizer does not say which bytes its tokens are, so no text can be demanded."""


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The vocabulary as llguidance sees it. `special` are texts that stand for one token and cannot be written."""

    tokenizer: LLTokenizer
    ends: tuple[int, ...]
    special: tuple[str, ...]

    def with_ends(self, mask: bytes, may_end: bool) -> bytes:
        """The mask with the tokens that end an answer allowed or forbidden, whatever text they have."""
        bits = bytearray(mask)
        for token in self.ends:
            place, bit = token >> 3, 1 << (token & 7)
            bits[place] = bits[place] | bit if may_end else bits[place] & ~bit
        return bytes(bits)


def read_lexicon(tokenizer: Tokenizer, width: int) -> Lexicon:
    """`width` is the model's number of logits. Takes a second for large vocabularies; raises TokenizerUnusable."""
    if not tokenizer.eos or max(tokenizer.eos) >= width:
        raise TokenizerUnusable("the base names no token that ends an answer")
    try:
        made = from_tokenizer(tokenizer.backend, n_vocab=width, eos_token=sorted(tokenizer.eos))
        read = made.decode_bytes(list(tokenizer.encode(SAMPLE)))
    except (ValueError, AttributeError) as error:
        raise TokenizerUnusable(_reason(str(error))) from error
    if read.decode(errors="replace").removeprefix(" ") != SAMPLE:
        raise TokenizerUnusable("its tokens do not spell the text they were made of")
    return Lexicon(made, tuple(sorted(tokenizer.eos)), tokenizer.special_texts)


class MatcherGuide:
    """One answer on its way through a grammar."""

    def __init__(self, grammar: CompiledGrammar, matcher: LLMatcher) -> None:
        self._grammar = grammar
        self._matcher = matcher
        self._tokens: list[int] = []
        self._shares = True

    def allowed(self) -> bytes:
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error() and self._restart():
            mask = self._matcher.compute_bitmask()
        self._check()
        mask = self._grammar.lexicon.with_ends(mask, self._matcher.is_accepting())
        if mask.count(0) == len(mask):
            raise Stuck("no token of the vocabulary continues the text")
        return mask

    def accept(self, token: int) -> None:
        if token in self._grammar.lexicon.ends:
            return  # it ends the request
        self._tokens.append(token)
        if not self._matcher.consume_token(token):
            self._restart()
            self._check()

    def _restart(self) -> bool:
        """Once: the same tokens again on a lexer that is shared with nobody."""
        if not self._shares:
            return False
        self._shares = False
        self._matcher = self._grammar.matcher()
        return self._matcher.consume_tokens(self._tokens)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise Stuck(_reason(self._matcher.get_error()))


class CompiledGrammar:
    """Made on any thread; guides begin and live on the engine's."""

    def __init__(self, lexicon: Lexicon, text: str) -> None:
        self.lexicon = lexicon
        self._text = text
        self._shared = self.matcher()

    def matcher(self) -> LLMatcher:
        """A matcher at the start, with a lexer of its own."""
        return LLMatcher(self.lexicon.tokenizer, self._text, log_level=0, limits=LIMITS)

    def begin(self) -> MatcherGuide:
        matcher = self._shared.deep_copy()
        matcher.compute_bitmask()
        if matcher.is_error():  # the lexer's memory is full
            self._shared = self.matcher()
            matcher = self._shared.deep_copy()
        return MatcherGuide(self, matcher)

    def objection(self) -> str | None:
        """Why nothing can be said under it; also makes the first mask, which is the slowest."""
        if self._shared.is_error():
            return _reason(self._shared.get_error())
        try:
            self.begin().allowed()
        except Stuck as stuck:
            return f"no text satisfies it ({stuck})"
        return None


def compile_constraint(constraint: Constraint, lexicon: Lexicon) -> CompiledGrammar | Refusal:
    """Bounded by LIMITS in time and memory; never raises for what a client wrote."""
    for text in lexicon.special:
        if text in constraint.text:
            return Refusal(f"`{text}` is one token to this base and cannot be written as text")
    if constraint.kind is ConstraintKind.CHOICE:
        source = LLMatcher.grammar_from_lark(_one_of(json.loads(constraint.text)))
    else:
        source = LLMatcher.grammar_from_json_schema(
            constraint.text, overrides={"whitespace_pattern": WHITESPACE}
        )
    grammar = CompiledGrammar(lexicon, source)
    objection = grammar.objection()
    return grammar if objection is None else Refusal(objection)


def _one_of(choices: Sequence[str]) -> str:
    """One terminal, so that a choice may begin with another."""
    return "start: CHOICE\nCHOICE: " + " | ".join(json.dumps(each) for each in choices)


def _reason(text: str) -> str:
    """One line of what llguidance says; of a pattern's error, which is drawn over several, first and last."""
    lines = [line for line in text.strip().splitlines() if line and not line.startswith("<")]
    if not lines or lines[0].startswith("panic"):
        return "it is too complex"
    return (f"{lines[0]} {lines[-1]}" if lines[0].endswith(":") else lines[0])[:200]
