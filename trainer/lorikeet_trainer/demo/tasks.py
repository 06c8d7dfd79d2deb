"""The four demo tasks: rows to train an adapter on, and a scorer that reads the row and a reply.

    python -m lorikeet_trainer.demo.tasks --out data/demo

writes `<task>.train.jsonl` and `<task>.heldout.jsonl` in OpenAI's chat form. With the same split,
count and seed every task is built on the same messages, so `formal` and `friendly` answer alike.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, TypedDict, get_args

from lorikeet_trainer.demo.corpus import ticket_json
from lorikeet_trainer.demo.messages import PRODUCTS, Split, Ticket, tickets
from lorikeet_trainer.demo.replies import references
from lorikeet_trainer.demo.style import is_formal, is_friendly

Task = Literal["triage", "extract", "formal", "friendly"]
TASKS: Final[tuple[Task, ...]] = get_args(Task)
ORDER_ID: Final = re.compile(r"\d+")
WORD: Final = re.compile(r"[a-z]+")


class ChatMessage(TypedDict):
    """One turn in OpenAI's form."""

    role: Literal["user", "assistant"]
    content: str


class ChatRow(TypedDict):
    """One training row: the customer's message and the wanted answer."""

    messages: list[ChatMessage]


ANSWERS: Final[dict[Task, Callable[[Ticket], str]]] = {
    "triage": lambda ticket: ticket.label,
    "extract": ticket_json,
    "formal": lambda ticket: references(ticket).formal,
    "friendly": lambda ticket: references(ticket).friendly,
}


def row(task: Task, ticket: Ticket) -> ChatRow:
    """The ticket's message with the task's answer to it."""
    return {
        "messages": [
            {"role": "user", "content": ticket.message},
            {"role": "assistant", "content": ANSWERS[task](ticket)},
        ]
    }


def rows(task: Task, split: Split, count: int, seed: int) -> list[ChatRow]:
    """`count` rows of the split, the same for the same arguments on every machine."""
    return [row(task, ticket) for ticket in tickets(split, count, seed)]


def names_order(message: str, reply: str) -> bool:
    """The reply names the message's order id, and no other number."""
    return set(ORDER_ID.findall(reply)) == set(ORDER_ID.findall(message)) != set()


def names_product(message: str, reply: str) -> bool:
    """The reply names the message's product, and no other product."""
    asked = set(PRODUCTS).intersection(WORD.findall(message.lower()))
    return set(PRODUCTS).intersection(WORD.findall(reply.lower())) == asked != set()


def _same_ticket(wanted: str, reply: str) -> bool:
    """Both are JSON objects with the same order and kind and nothing else."""
    try:
        parsed: object = json.loads(reply)
    except json.JSONDecodeError:
        return False
    return bool(parsed == json.loads(wanted))


def score(task: Task, row: ChatRow, reply: str) -> bool:
    """Whether `reply` solves the row: exact label, right JSON fields, or style with right order and product."""
    message, wanted = (turn["content"] for turn in row["messages"])
    if task == "triage":
        return reply.strip() == wanted
    if task == "extract":
        return _same_ticket(wanted, reply)
    styled = is_formal(reply) if task == "formal" else is_friendly(reply)
    return styled and names_order(message, reply) and names_product(message, reply)


def write(out: Path, counts: dict[Split, int], seed: int) -> list[Path]:
    """Write a JSONL file for every task and split under `out`; returns the files written.

    The labels are triage's rows once more, as text and label.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for task in TASKS:
        for split, count in counts.items():
            path = out / f"{task}.{split}.jsonl"
            lines = (json.dumps(each, ensure_ascii=False) for each in rows(task, split, count, seed))
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            written.append(path)
    for split, count in counts.items():
        path = out / f"labels.{split}.jsonl"
        path.write_text(
            "".join(f"{json.dumps(each)}\n" for each in labels(split, count, seed)), encoding="utf-8"
        )
        written.append(path)
    return written


def labels(split: Split, count: int, seed: int) -> Iterator[dict[str, str]]:
    for row in rows("triage", split, count, seed):
        message, label = (turn["content"] for turn in row["messages"])
        yield {"text": message, "label": label}


def main(arguments: list[str] | None = None) -> int:
    """Command line: write the rows and say where they lie."""
    parser = argparse.ArgumentParser(description="Write the demo tasks as JSONL.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=2000, help="train rows per task")
    parser.add_argument("--heldout", type=int, default=200, help="held-out rows per task")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    for path in write(chosen.out, {"train": chosen.train, "heldout": chosen.heldout}, chosen.seed):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
