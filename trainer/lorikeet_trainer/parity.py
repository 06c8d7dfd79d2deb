"""What training's own forward says of held-out rows, written down before the model is let go.

The gate puts the same tokens to the exported adapter through the serving engine. Prompts are measured
as well as answers: of an answer that it knows by heart an adapter is sure at any scale, of a prompt not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from lorikeet_trainer.errors import EvaluationRefused
from lorikeet_trainer.jsonl import Record, parse_jsonl
from lorikeet_trainer.row import Pair, Row

PARITY_FILE = "parity.json"
MOST_ROWS = 32  # enough for a mean, few enough for a CPU
PLAIN_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Sent:
    """What a client sends to get a prompt: the turns (role, content) of a conversation, or plain text."""

    messages: tuple[tuple[str, str], ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """One held-out sequence: what is to be said after `prompt` is `answer`, its end of turn included.

    `sent` is None where the row's form leaves open what a client would send. The worse answer of a
    pair `is_rejected` and stands right behind the better one.
    """

    line: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    sent: Sent | None = None
    is_rejected: bool = False

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.prompt + self.answer


@dataclass(frozen=True, slots=True)
class Trace:
    """Log-probabilities in nats of every token but the first, each after those before it.

    `adapted` is with the adapter, `base` without.
    """

    held: Held
    adapted: tuple[float, ...]
    base: tuple[float, ...]


def hold_out(data: bytes, rows: Sequence[Row | Pair], most: int = MOST_ROWS) -> tuple[Held, ...]:
    """The sequences of up to `most` of these rows, evenly spread; `data` is the file they were read from."""
    chosen = [rows[index * len(rows) // most] for index in range(most)] if len(rows) > most else rows
    lines = {each.line: each.value for each in parse_jsonl(data) if isinstance(each, Record)}
    return tuple(held for row in chosen for held in _held(row, lines.get(row.line, {})))


@torch.no_grad()
def measure(model: PeftModel, held: Sequence[Held]) -> tuple[Trace, ...]:
    """Run the training model over them, one at a time, with the adapter and without. Ends in eval mode."""
    model.eval()
    return tuple(_trace(model, each) for each in held)


def write_parity(folder: Path, traces: Sequence[Trace]) -> None:
    text = json.dumps([asdict(each) for each in traces], ensure_ascii=False)
    (folder / PARITY_FILE).write_text(text + "\n", encoding="utf-8")


def read_parity(folder: Path) -> tuple[Trace, ...]:
    """Raises EvaluationRefused when there is none, or none of this version."""
    try:
        return tuple(map(_read_trace, json.loads((folder / PARITY_FILE).read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EvaluationRefused(
            f"`{folder / PARITY_FILE}` is no record of a training's own log-probabilities: {error}"
        ) from error


def sent(row: Mapping[str, object], turns: int = 1) -> Sent | None:
    """By the row's own words, not by what training made of them; None for what only training can render.

    `turns` is how many of a conversation's answers training kept: it waits for the last of those.
    """
    given = row.get("input", row)
    told = given if isinstance(given, dict) else {}
    words = told.get("messages", told.get("prompt", told.get("text") if "label" in told else None))
    if isinstance(words, str):
        return Sent(text=words)
    if not isinstance(words, list) or "tools" in told:
        return None
    if told is row and "messages" in row:
        words = words[: _answer_place(words, turns)]
    plain = tuple(_plain(words))
    return Sent(plain) if plain and len(plain) == len(words) else None


def _answer_place(messages: Sequence[object], turns: int) -> int:
    """Where the last learned answer stands; 0 where there are not so many."""
    learned = [
        place
        for place, each in enumerate(messages)
        if isinstance(each, dict) and each.get("role") == "assistant" and each.get("weight") != 0
    ]
    return learned[turns - 1] if len(learned) >= turns else 0


def _plain(messages: Sequence[object]) -> Iterator[tuple[str, str]]:
    """Turns of nothing but text."""
    for each in messages:
        if isinstance(each, dict) and "tool_calls" not in each and each.get("role") in PLAIN_ROLES:
            content = each.get("content")
            if isinstance(content, str):
                yield PLAIN_ROLES[each["role"]], content


def _held(row: Row | Pair, value: Mapping[str, object]) -> Iterator[Held]:
    if isinstance(row, Pair):
        told = sent(value)
        yield Held(row.line, row.prompt, row.chosen, told)
        yield Held(row.line, row.prompt, row.rejected, told, is_rejected=True)
    elif "text" in value and "label" not in value:
        yield Held(row.line, row.prompt, row.reference)  # whole texts: nobody sends a first token
    else:
        yield Held(row.line, row.prompt, row.reference, sent(value, len(row.turns)))


def _trace(model: PeftModel, held: Held) -> Trace:
    adapted = _logprobs(model, held.tokens)
    with model.disable_adapter():
        return Trace(held, adapted, _logprobs(model, held.tokens))


def _logprobs(model: PeftModel, tokens: Sequence[int]) -> tuple[float, ...]:
    ids = torch.tensor([tokens], device=model.device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, :-1]
    own = torch.log_softmax(logits.float(), -1).gather(-1, ids[0, 1:, None])[:, 0]
    return tuple(own.tolist())


def _read_trace(value: dict[str, Any]) -> Trace:
    held, told = value["held"], value["held"]["sent"]
    if told is not None:
        told = Sent(tuple((role, content) for role, content in told["messages"]), told["text"])
    numbers = {key: tuple(held[key]) for key in ("prompt", "answer")}
    return Trace(Held(**{**held, **numbers, "sent": told}), tuple(value["adapted"]), tuple(value["base"]))
