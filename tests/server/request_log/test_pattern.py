"""A text is found where it occurs, and nowhere else: against Python's own search."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_server.request_log.pattern import ESCAPE, glob_of, like_of

# Letters whose two cases are one character each: SQLite's own idea of case ends with ASCII.
TEXTS = st.text(st.sampled_from("aAzZäÄéÉжЖ09 _%*?[]^-!\\\n"), max_size=12)


def occurs(text: str, sought: str) -> bool:
    with closing(sqlite3.connect(":memory:")) as connection:
        ((found,),) = connection.execute(
            f"SELECT ?1 LIKE ?2 ESCAPE '{ESCAPE}' AND ?1 GLOB ?3", (text, like_of(sought), glob_of(sought))
        ).fetchall()
        return bool(found)


@given(TEXTS, TEXTS)
def test_it_finds_what_python_finds(text: str, sought: str) -> None:
    assert occurs(text, sought) == (sought.lower() in text.lower())
    assert occurs(text + sought.swapcase() + text, sought)


@pytest.mark.parametrize("sought", ["%", "_", "*", "?", "[a-z]", "[^x]", "]", "50% *off*", "straße"])
def test_no_character_means_another(sought: str) -> None:
    assert occurs(f"say {sought} twice", sought)
    assert not occurs("abc xyz 5000 off", sought)
