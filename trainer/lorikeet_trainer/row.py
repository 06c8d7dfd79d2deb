"""Rows as the model sees them: token ids, and which of them are learned. Plain values, no library."""

from __future__ import annotations

from dataclasses import dataclass

IGNORED = -100  # the label that torch's cross-entropy leaves out


@dataclass(frozen=True, slots=True)
class Turn:
    """Tokens [start, stop) of a row are learned; the last of them ends the turn."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Row:
    """One row ready for training; it ends with its last learned token. `answer` is its last turn's text."""

    line: int
    input_ids: tuple[int, ...]
    turns: tuple[Turn, ...]
    answer: str

    @property
    def labels(self) -> tuple[int, ...]:
        """The input ids where they are learned, IGNORED elsewhere."""
        labels = [IGNORED] * len(self.input_ids)
        for turn in self.turns:
            labels[turn.start : turn.stop] = self.input_ids[turn.start : turn.stop]
        return tuple(labels)

    @property
    def tokens(self) -> int:
        return len(self.input_ids)

    @property
    def longest(self) -> int:
        """The length of its one sequence."""
        return len(self.input_ids)

    @property
    def learned_tokens(self) -> int:
        return sum(turn.stop - turn.start for turn in self.turns)

    @property
    def prompt(self) -> tuple[int, ...]:
        """What the server would be sent, as tokens, to get the last turn."""
        return self.input_ids[: self.turns[-1].start]

    @property
    def reference(self) -> tuple[int, ...]:
        """The last turn's tokens, end of turn included."""
        return self.input_ids[self.turns[-1].start :]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, for preference training; all three are token ids.

    `prompt` is what the server would be sent. `prompt + chosen` and `prompt + rejected` are what the
    model would have produced, so each answer ends with its end of turn. The answers differ.
    """

    line: int
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Of both sequences: the prompt counts twice, as it does in training."""
        return 2 * len(self.prompt) + self.learned_tokens

    @property
    def learned_tokens(self) -> int:
        return len(self.chosen) + len(self.rejected)

    @property
    def longest(self) -> int:
        """The length of the longer sequence."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))
