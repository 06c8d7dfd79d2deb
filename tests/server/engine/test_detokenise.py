"""Text as it becomes sayable: deltas add up to the whole, and stop strings never leak."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from lorikeet_server.engine.detokenise import IncrementalText
from lorikeet_server.engine.tokenizer import Tokenizer
from tests.tiny import make_tokenizer

TOKENIZER = Tokenizer(make_tokenizer(), frozenset())


def spoken(ids: Sequence[int], stop: Sequence[str] = ()) -> tuple[list[str], str | None]:
    text = IncrementalText(TOKENIZER.decode, stop)
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
