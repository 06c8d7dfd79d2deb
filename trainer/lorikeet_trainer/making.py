"""Examples of any format to rows and pairs, many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from lorikeet_trainer.chat_rows import make_chat_rows
from lorikeet_trainer.example import Chat, ChatPair, Completion, Example, Labelled, Text, TextPair
from lorikeet_trainer.pairs import make_chat_pairs, make_text_pairs
from lorikeet_trainer.plain_rows import make_completion_rows, make_labelled_rows, make_text_rows
from lorikeet_trainer.workbench import Made, Workbench

TOGETHER = 512  # enough for all cores, and few enough for a bar that moves


def make_rows(bench: Workbench, examples: Iterable[Example]) -> Iterator[list[Made]]:
    """Batches of what became of the examples; what did not fit at all is in none."""
    rest = iter(examples)
    while batch := list(islice(rest, TOGETHER)):
        made: list[Made | None] = [
            *make_chat_rows(bench, [each for each in batch if isinstance(each, Chat)]),
            *make_completion_rows(bench, [each for each in batch if isinstance(each, Completion)]),
            *make_labelled_rows(bench, [each for each in batch if isinstance(each, Labelled)]),
            *make_text_rows(bench, [each for each in batch if isinstance(each, Text)]),
            *make_chat_pairs(bench, [each for each in batch if isinstance(each, ChatPair)]),
            *make_text_pairs(bench, [each for each in batch if isinstance(each, TextPair)]),
        ]
        # An answer is found in its wave, not in its row's place in the file.
        yield sorted((each for each in made if each is not None), key=lambda each: each.line)
