"""How much of prompts a step computes while others decode: what those can wait for, not a number of tokens.

256 tokens of a prompt are a moment on one machine and seconds on another, and everybody who is
decoding waits for them.
"""

from __future__ import annotations

LEAST = 32  # tokens: a forward of fewer costs as much
SMOOTHING = 0.3  # how much the latest step says


class Pace:
    """`most` tokens, and as many as `seconds` allow where that is not 0."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._per_token = 0.0  # seconds, as far as it is known

    def note(self, tokens: int, seconds: float) -> None:
        """So many tokens of prompts took so long."""
        if tokens < LEAST:
            return  # what it took was mostly the forward itself
        latest = seconds / tokens
        known = self._per_token or latest
        self._per_token = known + SMOOTHING * (latest - known)

    @property
    def tokens(self) -> int:
        """Of prompts, in a step in which somebody decodes."""
        if not self._seconds or not self._per_token:
            return self._most
        return max(min(self._most, int(self._seconds / self._per_token)), min(LEAST, self._most))
