"""One row as it is trained on, beside what the server would render for it."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorikeet_trainer.encoding import Encoder
from lorikeet_trainer.example import Chat, ChatPair, Completion, Example, Labelled, TextPair
from lorikeet_trainer.formats import read_example
from lorikeet_trainer.jsonl import Record, parse_line
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.row import Pair, Row
from lorikeet_trainer.validator import Validated


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a row, special tokens spelled out."""

    text: str
    tokens: int
    learned: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """`spans` are of the row, or of the pair's prompt and its two answers, the chosen one first.

    `served` is the prompt that the server would make of the same request, None for plain text, which
    has no prompt; `same_prompt` tells whether its tokens are those that are trained on.
    """

    line: int
    spans: tuple[Span, ...]
    served: str | None
    same_prompt: bool


def take_sample(
    data: bytes, validated: Validated, renderer: Renderer, line: int | None = None
) -> Sample | None:
    """Of the row on this line, or the first; None when there is no such row, or it has errors."""
    rows = validated.rows or validated.pairs
    row = next((each for each in rows if line in (None, each.line)), None)
    if row is None or validated.format is None:
        return None
    raw = data.split(b"\n", row.line)[row.line - 1]
    record = parse_line(row.line, raw.removeprefix(codecs.BOM_UTF8))
    example = read_example(record, validated.format) if isinstance(record, Record) else []
    if isinstance(example, list):
        return None
    served = _served(example, row, renderer)
    prompt = row.prompt
    text = None if served is None else renderer.text(served)
    return Sample(row.line, tuple(_spans(row, renderer)), text, served in (None, prompt))


def _spans(row: Row | Pair, renderer: Renderer) -> Iterator[Span]:
    if isinstance(row, Pair):
        yield _span(renderer, row.prompt, learned=False)
        yield _span(renderer, row.chosen, learned=True)
        yield _span(renderer, row.rejected, learned=True)
        return
    done = 0
    for turn in row.turns:
        yield _span(renderer, row.input_ids[done : turn.start], learned=False)
        yield _span(renderer, row.input_ids[turn.start : turn.stop], learned=True)
        done = turn.stop


def _span(renderer: Renderer, ids: Sequence[int], *, learned: bool) -> Span:
    return Span(renderer.text(ids), len(ids), learned)


def _served(example: Example, row: Row | Pair, renderer: Renderer) -> tuple[int, ...] | None:
    """The server's own way: render up to the answer and wait, or take the plain prompt."""
    match example:
        case Chat() if isinstance(row, Row):
            learned = [index for index, message in enumerate(example.messages) if message.is_learned]
            before = example.messages[: learned[len(row.turns) - 1]]
            return renderer.prompt(before, example.tools)
        case ChatPair():
            return renderer.prompt(example.messages, example.tools)
        case Completion() | TextPair():
            return Encoder(renderer.tokenizer).plain([example.prompt])[0]
        case Labelled():
            return Encoder(renderer.tokenizer).plain([example.text])[0]
        case _:
            return None
