"""Encoding by pieces gives the ids of the whole text, or is given up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lorikeet_trainer.encoding import PROBED, Encoder
from lorikeet_trainer.rendering import Renderer
from tests.trainer.conftest import make_tokenizer

SPECIAL = ["<|a|>", "<|a|>b", "</s>", "<x>", "<y>", "<x><y>"]
WORDS = ["the", " ", "  ", "\n", "lamp", "é", "e\u0301", "日", "a", "b", "<|a", "|>", "</", "x<"]
TEXTS = st.lists(st.sampled_from(SPECIAL + WORDS), max_size=12).map("".join)


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    """Where it matters whether a piece opens the text, as sentencepiece's do."""
    pieces = [
        "<unk>",
        "▁",
        "▁the",
        "the",
        "▁lamp",
        "lamp",
        "a",
        "b",
        "é",
        "日",
        "x",
        "<",
        "|",
        ">",
        "/",
        "\n",
    ]
    inner = Tokenizer(models.Unigram([(piece, -float(n)) for n, piece in enumerate(pieces)], unk_id=0))
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    inner.decoder = decoders.Metaspace()
    tokens = [AddedToken(each, special=True, normalized=False) for each in SPECIAL]
    inner.add_special_tokens(tokens)
    return PreTrainedTokenizerFast(tokenizer_object=inner)


TOKENIZERS = {
    "byte level": byte_level(),
    "metaspace first": metaspace("first"),
    "metaspace always": metaspace("always"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(st.lists(TEXTS, min_size=1, max_size=4))
@settings(deadline=None, max_examples=150)
def test_pieces_are_encoded_as_the_whole(kind: str, texts: list[str]) -> None:
    tokenizer = TOKENIZERS[kind]
    encoder = Encoder(tokenizer)
    encoder.rendered(["the lamp"] * PROBED)  # from here on without looking at the whole text
    assert encoder.rendered(texts) == [
        tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts
    ]


@pytest.mark.parametrize("trait", ["lstrip", "single_word"])
def test_tokens_that_look_at_their_neighbours_are_encoded_whole(trait: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<|near|>", special=True, normalized=False, **{trait: True})])
    encoder = Encoder(tokenizer)
    encoder.rendered(["the lamp"] * PROBED)  # in which nothing tells that it matters
    texts = ["a <|near|> b", "a<|near|>b", "<|end|> <|near|>"]
    assert encoder.rendered(texts) == [
        tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts
    ]


def test_pieces_that_do_not_add_up_are_given_up(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first texts of a file are encoded both ways; whatever the reason, the whole text's ids are right."""
    encoder = Encoder(renderer.tokenizer)
    monkeypatch.setattr(encoder, "_by_pieces", lambda texts, cut: [(0,)] * len(texts))
    whole = tuple(
        renderer.tokenizer(["the lamp"], add_special_tokens=False, return_attention_mask=False)["input_ids"][
            0
        ]
    )
    for _ in range(3):
        assert encoder.rendered(["the lamp"] * PROBED) == [whole] * PROBED
