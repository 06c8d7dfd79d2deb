"""Rows and scorers: right answers score, and each single fault costs the point."""

import json
from pathlib import Path

import pytest

from lorikeet_trainer.demo.messages import LABELS, Split, tickets
from lorikeet_trainer.demo.replies import neutral_reply
from lorikeet_trainer.demo.style import is_formal, is_friendly
from lorikeet_trainer.demo.tasks import TASKS, ChatRow, Task, main, rows, score

MESSAGE = "Hello, this is Anna. I am writing about order 48213. The lamp arrived broken."
FORMAL = "Dear Anna, we regret the damage to the lamp from order 48213. Yours sincerely, the support team."
FRIENDLY = "Hi Anna! So sorry about the lamp from order 48213! We'll send a new one."


def chat(answer: str) -> ChatRow:
    return {"messages": [{"role": "user", "content": MESSAGE}, {"role": "assistant", "content": answer}]}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_reference_answers_score_and_neutral_replies_do_not(task: Task, split: Split) -> None:
    for row, ticket in zip(rows(task, split, 60, 5), tickets(split, 60, 5), strict=True):
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
        assert row["messages"][0]["content"] == ticket.message
        assert score(task, row, row["messages"][1]["content"])
        assert not score(task, row, neutral_reply(ticket))


def test_all_tasks_answer_the_same_messages() -> None:
    asked = [[row["messages"][0]["content"] for row in rows(task, "heldout", 20, 9)] for task in TASKS]
    assert asked[1:] == asked[:-1]


def test_triage_wants_exactly_the_label() -> None:
    assert score("triage", chat("damage"), " damage\n")
    for reply in ("Damage", "damage.", "delivery", "damage damage", ""):
        assert not score("triage", chat("damage"), reply)


def test_triage_rows_use_all_six_labels() -> None:
    assert {row["messages"][1]["content"] for row in rows("triage", "train", 200, 0)} == set(LABELS)


def test_extract_wants_both_fields_and_nothing_else() -> None:
    row = chat('{"order":"48213","kind":"broken"}')
    assert score("extract", row, '{ "kind": "broken", "order": "48213" }')
    for reply in (
        '{"order":"48231","kind":"broken"}',
        '{"order":"48213","kind":"late"}',
        '{"order":"48213"}',
        '{"order":"48213","kind":"broken","product":"lamp"}',
        '{"order":"48213","kind":"broken"',
        '["48213","broken"]',
        "48213 broken",
    ):
        assert not score("extract", row, reply)


@pytest.mark.parametrize(("task", "reply"), [("formal", FORMAL), ("friendly", FRIENDLY)])
def test_styled_reply_needs_the_right_order_and_product(task: Task, reply: str) -> None:
    assert score(task, chat(reply), reply)
    for wrong in (
        reply.replace("48213", "48231"),
        reply.replace("48213", "48213 and 10000"),
        reply.replace("lamp", "kettle"),
        reply.replace("lamp", "lamp and kettle"),
        reply.replace("the lamp", "it"),
    ):
        assert not score(task, chat(reply), wrong)


def test_one_style_never_counts_as_the_other() -> None:
    assert not score("formal", chat(FORMAL), FRIENDLY)
    assert not score("friendly", chat(FRIENDLY), FORMAL)


@pytest.mark.parametrize(
    "reply",
    [
        FORMAL.removeprefix("Dear Anna, "),
        FORMAL.removesuffix(" Yours sincerely, the support team."),
        FORMAL.replace("regret", "regret!"),
        FORMAL.replace("we regret", "we're sorry for"),
    ],
)
def test_formal_needs_salutation_closing_and_restraint(reply: str) -> None:
    assert is_formal(FORMAL)
    assert not is_formal(reply)


@pytest.mark.parametrize(
    "reply",
    [
        FRIENDLY.removeprefix("Hi Anna! "),
        FRIENDLY.replace("We'll", "We will"),
        FRIENDLY.replace("48213!", "48213."),
        FRIENDLY + " Yours sincerely, the support team.",
    ],
)
def test_friendly_needs_greeting_contraction_and_liveliness(reply: str) -> None:
    assert is_friendly(FRIENDLY)
    assert not is_friendly(reply)


def test_command_writes_every_task_and_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--train", "12", "--heldout", "7", "--seed", "3"]) == 0
    printed = capsys.readouterr().out.split()
    counts: dict[Split, int] = {"train": 12, "heldout": 7}
    for task in TASKS:
        for split, count in counts.items():
            path = tmp_path / f"{task}.{split}.jsonl"
            lines = path.read_text(encoding="utf-8").splitlines()
            assert [json.loads(line) for line in lines] == rows(task, split, count, 3)
            assert str(path) in printed
    held = [json.loads(line) for line in (tmp_path / "labels.heldout.jsonl").read_text().splitlines()]
    assert [[each["text"], each["label"]] for each in held] == [
        [turn["content"] for turn in row["messages"]] for row in rows("triage", "heldout", 7, 3)
    ]
    assert len(printed) == len(list(tmp_path.iterdir())) == 10
