"""Texts to token ids, many at a time.

Most of a data file's text is rendered several times over: each prompt is the beginning of its row, and
one system prompt may open every row. A tokenizer cuts a text at its special tokens first and treats the
pieces between as texts of their own. So a text's ids are its pieces' ids in a row, and each piece needs
tokenising once:

    <|system|>Be brief.  <|end|>\\n  <|user|>Hi  <|end|>\\n  <|assistant|>
    <|system|>Be brief.  <|end|>\\n  <|user|>Hi  <|end|>\\n  <|assistant|>Hello!  <|end|>\\n
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Protocol

PROBED = 256  # texts that are encoded both ways before the pieces are trusted

Ids = tuple[int, ...]


class AddedToken(Protocol):
    """How a token that stands outside the model's vocabulary is found in a text."""

    content: str
    special: bool
    normalized: bool
    lstrip: bool
    single_word: bool


class Encoded(Protocol):
    @property
    def ids(self) -> list[int]: ...


class Backend(Protocol):
    """The part of the tokenizers library's class that is used here."""

    def encode_batch_fast(self, input: list[str], *, add_special_tokens: bool) -> list[Encoded]: ...


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that turns texts into ids; only a fast one has a backend."""

    is_fast: bool
    backend_tokenizer: Backend
    added_tokens_decoder: Mapping[int, AddedToken]

    def __call__(
        self, text: list[str], *, add_special_tokens: bool, return_attention_mask: bool
    ) -> Mapping[str, list[list[int]]]: ...

    def get_vocab(self) -> dict[str, int]: ...


class Encoder:
    """Not for several threads: it learns from what it encodes whether pieces can be trusted."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cut = _pieces_pattern(tokenizer)
        self._probed = 0
        # One object for each id: a hundred thousand rows would hold millions of equal integers.
        self._id = list(range(max(tokenizer.get_vocab().values(), default=0) + 1))

    def plain(self, texts: Sequence[str]) -> list[Ids]:
        """With what the tokenizer puts around plain text, if anything."""
        return self._encode(list(texts), special=True)

    def rendered(self, texts: Sequence[str]) -> list[Ids]:
        """Texts that bring their own special tokens."""
        if self._cut is None:
            return self._encode(list(texts), special=False)
        if self._probed >= PROBED:
            return self._by_pieces(texts, self._cut)
        whole = self._encode(list(texts), special=False)
        self._probed += len(texts)
        if self._by_pieces(texts, self._cut) != whole:
            self._cut = None
        return whole

    def _by_pieces(self, texts: Sequence[str], cut: re.Pattern[str]) -> list[Ids]:
        pieces = [_pieces(text, cut) for text in texts]
        distinct = list(dict.fromkeys(chain.from_iterable(pieces)))
        # Not through transformers, which spends as long again on masks and offsets nobody reads.
        encoded = self._tokenizer.backend_tokenizer.encode_batch_fast(distinct, add_special_tokens=False)
        same = self._id.__getitem__
        ids = {piece: tuple(map(same, each.ids)) for piece, each in zip(distinct, encoded, strict=True)}
        return [tuple(chain.from_iterable([ids[piece] for piece in each])) for each in pieces]

    def _encode(self, texts: list[str], *, special: bool) -> list[Ids]:
        if not texts:
            return []
        encoded = self._tokenizer(texts, add_special_tokens=special, return_attention_mask=False)
        same = self._id.__getitem__
        return [tuple(map(same, ids)) for ids in encoded["input_ids"]]


def special_texts(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """What becomes one special token wherever it stands in a text; None when there is no such."""
    texts = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return _any_of(texts) if texts else None


def _pieces_pattern(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """Finds the tokens at which the tokenizer cuts first; None where their neighbours matter to it."""
    tokens = [token for token in tokenizer.added_tokens_decoder.values() if not token.normalized]
    if not tokenizer.is_fast or not tokens or any(token.lstrip or token.single_word for token in tokens):
        return None
    return _any_of([token.content for token in tokens])


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    """The longest of those that begin at one place, as tokenizers find them."""
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)))


def _pieces(text: str, cut: re.Pattern[str]) -> list[str]:
    """The text before the first special token, if any, then each special token with what follows it."""
    starts = [match.start() for match in cut.finditer(text)]
    if not starts:
        return [text]
    edges = [*starts, len(text)]
    head = [text[: starts[0]]] if starts[0] else []
    return head + [text[start:stop] for start, stop in pairwise(edges)]
