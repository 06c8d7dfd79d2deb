"""Vocabularies of several makes, and those that cannot be used."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from tokenizers import Tokenizer as TokenizersTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lorikeet_server.engine.constraint import Constraint, Refusal
from lorikeet_server.engine.grammars import Grammars
from lorikeet_server.engine.guided import (
    TokenizerUnusable,
    read_lexicon,
)
from lorikeet_server.engine.tokenizer import Tokenizer
from tests.server.engine.forms import (
    TICKET,
    grammar_for,
    wander,
)
from tests.tiny import VOCABULARY, make_tokenizer


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
