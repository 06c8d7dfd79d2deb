"""Which records are rows to train on, and what stands in them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lorikeet_server.request_log.record import Rating
from lorikeet_server.request_log.rows import MOST_TURNS, Rows
from lorikeet_trainer.conversation import MOST_MESSAGES
from lorikeet_trainer.example import Chat, DataFormat
from lorikeet_trainer.formats import read_example
from lorikeet_trainer.jsonl import Record as TrainerRecord
from tests.server.kept import record


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("given", "row"),
    [
        ({}, {"prompt": "Where is my order?", "completion": "On its way."}),
        ({"correction": "Here."}, {"prompt": "Where is my order?", "completion": "Here."}),
        (
            {"correction": "Here.", "rating": Rating.DOWN, "finish_reason": "length", "answer": ""},
            {"prompt": "Where is my order?", "completion": "Here."},
        ),
        (
            {"messages": ({"role": "system", "content": ""}, user(" ä "))},
            {
                "messages": [
                    {"role": "system", "content": ""},
                    user(" ä "),
                    assistant("On its way."),
                ]
            },
        ),
        (
            {"messages": (user("a"), assistant("b"), user("c"))},
            {
                "messages": [
                    user("a"),
                    {**assistant("b"), "weight": 0},
                    user("c"),
                    assistant("On its way."),
                ]
            },
        ),
    ],
)
def test_a_row_is_what_was_said_or_should_have_been(given: dict[str, Any], row: dict[str, Any]) -> None:
    rows = Rows()
    assert json.loads(rows.line(record(**given))) == row
    assert (rows.chats, rows.texts) == (("messages" in given), ("messages" not in given))
    assert not rows.left_out


@pytest.mark.parametrize(
    ("reason", "given"),
    [
        ("rated_down", {"rating": Rating.DOWN}),
        ("cut_off", {"finish_reason": "length", "rating": Rating.UP}),
        ("empty", {"answer": " \n"}),
        ("empty", {"correction": " "}),
        ("empty", {"prompt": " "}),
        ("empty", {"messages": (user("a"), assistant(""), user("b"))}),
        ("too_long", {"messages": (user("a"),) * MOST_TURNS}),
    ],
)
def test_what_is_unfit_is_left_out_with_its_reason(reason: str, given: dict[str, Any]) -> None:
    rows = Rows()
    assert rows.line(record(**given)) == b""
    assert (rows.left_out, rows.count) == ({reason: 1}, 0)


def test_the_same_row_is_there_once() -> None:
    rows = Rows()
    lines = [rows.line(record(correction=text)) for text in ("", "Here.", "On its way.", "here.")]
    assert [bool(each) for each in lines] == [True, True, False, True]
    assert (rows.count, rows.left_out) == (3, {"duplicate": 1})


def test_the_longest_row_is_one_for_the_trainer() -> None:
    (line,) = [Rows().line(record(messages=(user("a"),) * (MOST_TURNS - 1)))]
    example = read_example(TrainerRecord(1, json.loads(line)), DataFormat.CHAT)
    assert isinstance(example, Chat)
    assert len(example.messages) == MOST_TURNS == MOST_MESSAGES
