"""Whole characters out of any tokens of any kind of tokenizer: together they are the decode of all at once."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorikeet_server.engine.detokenise import MOST_TOKENS, REPLACEMENT, UNFINISHED, IncrementalText
from lorikeet_server.engine.tokenizer import Tokenizer
from tests.tokenizers import EMOJI, byte_id, byte_level, sentencepiece, size, special_id, word_piece

BYTES, PIECES, WORDS = byte_level(), sentencepiece(), word_piece()
FIRST_BYTE = byte_id(0)


def said_after_each(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text said after each token, and at the end after the flush."""
    text = IncrementalText(tokenizer.decode)
    said = [""]
    for token in ids:
        said.append(said[-1] + text.push(token)[0])
    return [*said[1:], said[-1] + text.flush()[0]]


def hold(tokenizer: Tokenizer, ids: Sequence[int]) -> None:
    """Nothing is lost or taken back, and what is kept back is at most one unfinished character."""
    *steps, all_of_it = said_after_each(tokenizer, ids)
    assert all_of_it == tokenizer.decode(ids)
    for count, said in enumerate(steps, 1):
        assert all_of_it.startswith(said)
        now = tokenizer.decode(ids[:count])
        if not now.endswith(REPLACEMENT):
            assert said == now, "what is whole is said at once"


@settings(max_examples=250, deadline=None)
@given(
    st.lists(st.integers(0, size(BYTES) - 1) | st.sampled_from([0xFF, 0xF0, 0x9F, 0xE2, 0x82]), max_size=60)
)
def test_byte_level_tokens_in_any_order(ids: list[int]) -> None:
    """Nearly all of it is no UTF-8, and stays U+FFFD for good."""
    hold(BYTES, ids)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([*range(13), special_id(PIECES)]) | st.text(min_size=1, max_size=3), max_size=40)
)
def test_sentencepiece_with_byte_fallback(parts: list[int | str]) -> None:
    """Pieces, special tokens and characters written as bytes; two spaces, a space alone, one at the start."""
    ids: list[int] = []
    for part in parts:
        ids += [part] if isinstance(part, int) else [byte_id(byte) for byte in part.encode("utf-8", "ignore")]
    hold(PIECES, ids)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, size(WORDS) - 1), max_size=30))
def test_word_pieces_with_clean_up(ids: list[int]) -> None:
    hold(WORDS, ids)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, size(PIECES) - 1) | st.integers(FIRST_BYTE, FIRST_BYTE + 255), max_size=40))
def test_bytes_that_are_no_text_leave_what_is_text_alone(ids: list[int]) -> None:
    """One wrong byte turns its whole run into U+FFFD, also what was said; around the run nothing changes."""
    said = said_after_each(PIECES, ids)[-1]
    words = [PIECES.token_text(token) for token in ids if token < FIRST_BYTE and token != 1]
    place = 0
    for word in words:
        place = said.index(word.strip(), place) + len(word.strip())


@pytest.mark.parametrize(
    ("tokenizer", "cycle"),
    [
        (BYTES, [0xFF]),
        (BYTES, [0xA9]),
        (BYTES, [0xE2, 0x82]),
        (BYTES, [256 + 14]),  # the end of one character and the beginning of the next
        (BYTES, [*"\ufffd".encode()]),
        (BYTES, [special_id(BYTES)]),
        (BYTES, [0xF0, special_id(BYTES), special_id(BYTES)]),
        (BYTES, [97]),
        (PIECES, [byte_id(0xFF)]),
        (PIECES, [byte_id(0xE2), byte_id(0x82)]),
        (PIECES, [1]),
        (PIECES, [special_id(PIECES)]),
        (PIECES, [special_id(PIECES), 4]),
        (PIECES, [byte_id(byte) for byte in EMOJI]),
        (WORDS, [3, 5]),
    ],
)
def test_a_window_never_grows_without_bound(tokenizer: Tokenizer, cycle: list[int]) -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return tokenizer.decode(ids)

    ids = (cycle * 2000)[:2000]
    text = IncrementalText(decode)
    said = "".join(text.push(token)[0] for token in ids)
    whole = tokenizer.decode(ids)
    assert longest <= MOST_TOKENS + 1
    assert whole.startswith(said)
    assert len(whole) - len(said) <= UNFINISHED, "said while it goes on"
    assert said + text.flush()[0] == whole


def test_a_long_answer_of_everything_is_the_decode_of_all_at_once() -> None:
    chance = random.Random(1)
    ids = [chance.randrange(size(BYTES)) for _ in range(10_000)]
    assert said_after_each(BYTES, ids)[-1] == BYTES.decode(ids)


def test_what_is_before_an_unfinished_character_is_said() -> None:
    """Merges end within characters: in Japanese a word may have no token's end that is a character's."""
    assert said_after_each(BYTES, [256 + 6, 0xA9]) == ["a", "aé", "aé"]


def test_a_space_behind_a_special_token_stays() -> None:
    assert PIECES.decode([5, special_id(PIECES), 4]) == "a a"
    assert said_after_each(PIECES, [5, special_id(PIECES), 4])[-1] == "a a"


def test_what_was_said_of_a_run_of_bytes_that_turns_out_wrong_stays_said() -> None:
    euro = [byte_id(byte) for byte in "€".encode()]
    assert PIECES.decode([*euro, byte_id(0xFF), 5]) == REPLACEMENT * 4 + "a"
    assert said_after_each(PIECES, [*euro, byte_id(0xFF), 5])[-1] == "€" + REPLACEMENT + "a"
