"""Records as rows to train on: which are fit for it, and what the trainer reads of them.

The trainer refuses a column it does not know, so a row does not say which record it was.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from enum import StrEnum
from typing import Any

from lorikeet_server.request_log.record import Rating, Record

MOST_TURNS = 1024  # of a row; the trainer's bound
ASSISTANT = "assistant"


class LeftOut(StrEnum):
    """Why a record is no row."""

    RATED_DOWN = "rated_down"  # and not corrected
    CUT_OFF = "cut_off"  # ended by its length, and not corrected
    EMPTY = "empty"  # a prompt, a turn of the assistant or an answer with nothing in it
    TOO_LONG = "too_long"  # more turns than a row may have
    DUPLICATE = "duplicate"
    NOT_FOUND = "not_found"  # an id that whoever asks has no record of


class Rows:
    """One line for each record that is fit, and counts of those made, by format, and of those left out."""

    def __init__(self) -> None:
        self.chats = 0
        self.texts = 0
        self.left_out: Counter[str] = Counter()
        self._seen: set[bytes] = set()

    @property
    def count(self) -> int:
        return self.chats + self.texts

    def line(self, record: Record) -> bytes:
        """JSON and a line feed; nothing for a record that is left out."""
        answer = record.correction or record.answer
        reason = _unfit(record, answer)
        if reason is None:
            made = json.dumps(_row(record, answer), ensure_ascii=False).encode() + b"\n"
            digest = hashlib.sha256(made).digest()
            if digest not in self._seen:
                self._seen.add(digest)
                self.chats += record.messages is not None
                self.texts += record.messages is None
                return made
            reason = LeftOut.DUPLICATE
        self.left_out[reason] += 1
        return b""


def _unfit(record: Record, answer: str) -> LeftOut | None:
    if not record.correction:
        if record.rating is Rating.DOWN:
            return LeftOut.RATED_DOWN
        if record.finish_reason == "length":
            return LeftOut.CUT_OFF
    said = [answer, *(each["content"] for each in record.messages or () if each["role"] == ASSISTANT)]
    if record.messages is None:
        said.append(record.prompt or "")
    if not all(each.strip() for each in said):
        return LeftOut.EMPTY
    if len(record.messages or ()) >= MOST_TURNS:
        return LeftOut.TOO_LONG
    return None


def _row(record: Record, answer: str) -> dict[str, Any]:
    """Of a chat the last answer alone is learned: earlier ones are records of their own, judged by themselves."""
    if record.messages is None:
        return {"prompt": record.prompt, "completion": answer}
    turns = [{**each, "weight": 0} if each["role"] == ASSISTANT else each for each in record.messages]
    return {"messages": [*turns, {"role": ASSISTANT, "content": answer}]}
