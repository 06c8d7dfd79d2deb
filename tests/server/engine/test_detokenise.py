"""Text as it becomes sayable: deltas add up to the whole, and stop strings never leak."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorikeet_server.engine.detokenise import IncrementalText
from lorikeet_server.engine.tokenizer import Tokenizer
from tests.tiny import make_tokenizer
from tests.tokenizers import byte_level, sentencepiece, size

TOKENIZER = Tokenizer(make_tokenizer(), frozenset())


def spoken(
    ids: Sequence[int], stop: Sequence[str] = (), tokenizer: Tokenizer = TOKENIZER
) -> tuple[list[str], str | None]:
    text = IncrementalText(tokenizer.decode, stop)
    said = []
    for token in ids:
        delta, stopped = text.push(token)
        said.append(delta)
        if stopped is not None:
            return said, stopped
    delta, stopped = text.flush()
    return [*said, delta], stopped


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_deltas_add_up_to_the_whole_text(text: str) -> None:
    deltas, _ = spoken(TOKENIZER.encode(text))
    assert "".join(deltas) == text


@settings(max_examples=200, deadline=None)
@given(
    text=st.text("ab é😀", max_size=30), stop=st.lists(st.text("ab é😀", min_size=1, max_size=4), max_size=3)
)
def test_nothing_of_a_stop_string_is_ever_said(text: str, stop: list[str]) -> None:
    deltas, stopped = spoken(TOKENIZER.encode(text), stop)
    found = [text.find(each) for each in stop if each in text]
    said = "".join(deltas)
    assert (stopped is not None) == bool(found)
    if not found:
        assert said == text
        return
    # The first stop string to be complete ends the text; nothing before it is lost, nothing of it is said.
    assert text.startswith(said)
    assert stopped is not None
    assert text[len(said) :].startswith(stopped)
    assert not any(each in said for each in stop)


def complete_first(text: str, stop: Sequence[str]) -> tuple[int, str] | None:
    """(where it begins, the stop string) as a reader finds it who gets the text letter by letter."""
    for end in range(1, len(text) + 1):
        complete = [each for each in stop if text[:end].endswith(each)]
        if complete:
            longest = max(complete, key=len)
            return end - len(longest), longest
    return None


@settings(max_examples=300, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("tokenizer", [byte_level(), sentencepiece()], ids=["bytes", "pieces"])
def test_stop_strings_do_not_depend_on_how_text_is_cut_into_tokens(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    """One inside another, in characters of several bytes, behind what is held back, U+FFFD itself."""
    ids = data.draw(st.lists(st.integers(0, size(tokenizer) - 1), max_size=25))
    deltas, _ = spoken(ids, tokenizer=tokenizer)
    whole = "".join(deltas)
    cuts = st.integers(0, len(whole))
    parts = st.builds(lambda a, b: whole[min(a, b) : max(a, b)][:5], cuts, cuts).filter(bool)
    stop = data.draw(
        st.lists(parts | st.sampled_from(["zz", "\ufffd\ufffd"]) if whole else st.just("a"), max_size=4)
    )
    found = complete_first(whole, stop)
    deltas, stopped = spoken(ids, stop, tokenizer)
    if found is None:
        assert ("".join(deltas), stopped) == (whole, None)
    else:
        assert ("".join(deltas), stopped) == (whole[: found[0]], found[1])


@pytest.mark.parametrize(
    ("text", "stop", "said", "stopped"),
    [
        ("say STOPPED", ["STOPPED", "STOP"], "say ", "STOP"),
        ("say NONSTOP", ["STOP", "NONSTOP"], "say ", "NONSTOP"),
        ("abcd", ["b", "abc"], "a", "b"),
        ("aab", ["ab"], "a", "ab"),
        ("ends in ST", ["STOP"], "ends in ST", None),
        ("日本語です", ["語"], "日本", "語"),
        ("a🦜b", ["🦜b"], "a", "🦜b"),
        ("x\ufffd\ufffdy", ["\ufffdy"], "x\ufffd", "\ufffdy"),
    ],
)
def test_the_stop_string_that_is_complete_first_ends_the_text(
    text: str, stop: list[str], said: str, stopped: str | None
) -> None:
    for tokenizer in (TOKENIZER, byte_level()):
        encode = tokenizer.encode if tokenizer is TOKENIZER else lambda text: tuple(text.encode())
        deltas, ended_by = spoken(encode(text), stop, tokenizer)
        assert ("".join(deltas), ended_by) == (said, stopped)


def test_an_unfinished_character_is_held_back_and_comes_out_at_the_end() -> None:
    first_byte = TOKENIZER.encode("é")[0]
    assert spoken([*TOKENIZER.encode("a"), first_byte])[0] == ["a", "", "\ufffd"]


def test_bytes_that_never_become_a_character_do_not_hold_back_what_follows() -> None:
    """Continuation bytes only: no token after them would ever make the text end in a whole character."""
    stray = TOKENIZER.encode("é")[1]
    deltas, stopped = spoken([stray] * 9 + list(TOKENIZER.encode("on.")), stop=["n."])
    assert "".join(deltas[:9]).count("\ufffd") >= 4, "said while it goes on"
    assert "".join(deltas).endswith("o")
    assert stopped == "n."


def test_a_stop_string_across_tokens_is_found() -> None:
    assert len(TOKENIZER.encode("STOP")) > 1
    deltas, stopped = spoken(TOKENIZER.encode("say STOP now"), ["STOP"])
    assert ("".join(deltas), stopped) == ("say ", "STOP")
