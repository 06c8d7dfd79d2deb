"""The naming rule: a name is safe in a URL, in a mix and as a path."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_adapters.errors import NameRefused
from lorikeet_adapters.names import MAX_BYTES, check_name


@pytest.mark.parametrize(
    "name", ["a", "7", "A.b_c-d:e", "owner/name", "o/n.v1:x", "a..b", "a" * MAX_BYTES, "a/" + "b" * 126]
)
def test_a_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "-a",
        "_a",
        ":a",
        "/a",
        "a/",
        "a//b",
        "a/b/c",
        "a/..",
        "../a",
        "a/.b",
        "a b",
        "a\n",
        "a\0",
        "a+b",
        "a,b",
        "a@b",
        "a\\b",
        "a%2e",
        "é",
        "a\u0661",
        "\ud800",
        "a" * (MAX_BYTES + 1),
        "é" * MAX_BYTES,
    ],
)
def test_no_name(name: str) -> None:
    with pytest.raises(NameRefused) as caught:
        check_name(name)
    str(caught.value).encode()


@given(st.text(alphabet="ab./:_-+ \n", max_size=8) | st.text(max_size=8))
def test_a_name_cannot_climb_or_be_taken_for_a_mix(text: str) -> None:
    try:
        name = check_name(text)
    except NameRefused:
        return
    assert not {"..", ".", ""} & set(PurePosixPath("root", name).parts)
    assert "+" not in name
    assert name.isascii()
    assert name.isprintable()
