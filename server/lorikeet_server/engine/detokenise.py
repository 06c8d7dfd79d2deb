"""Text as it becomes sayable: whole characters only, and never part of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
REPLACEMENT = "\ufffd"
# A character takes at most four bytes, and a token at least one: what is unfinished after so many
# tokens never will be finished, and is said as it stands.
LONGEST_CHARACTER = 4


class IncrementalText:
    """Turns tokens into text deltas.

    A delta is the difference between decoding a short window with and without the new tokens, so
    leading spaces and merged characters come out as in a whole decode. Text that ends in an
    unfinished character is held back, and so is a tail that might yet become a stop string.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._context = 0  # start of the window that gives the decoder its context
        self._said = 0  # tokens whose text is in `_held` or was given out
        self._held = ""

    def push(self, token: int) -> tuple[str, str | None]:
        """Add a token; returns (text to say now, the stop string that ended it or None)."""
        self._tokens.append(token)
        known = self._decode(self._tokens[self._context : self._said])
        window = self._decode(self._tokens[self._context :])
        if window.endswith(REPLACEMENT) and len(self._tokens) - self._said < LONGEST_CHARACTER:
            return "", None
        self._context, self._said = self._said, len(self._tokens)
        self._held += window[len(known) :]
        return self._release()

    def flush(self) -> tuple[str, str | None]:
        """No more tokens: what is still held, an unfinished character included."""
        known = self._decode(self._tokens[self._context : self._said])
        self._held += self._decode(self._tokens[self._context :])[len(known) :]
        self._said = self._context = len(self._tokens)
        said, stopped = self._release()
        if stopped is None:
            said, self._held = said + self._held, ""
        return said, stopped

    def _release(self) -> tuple[str, str | None]:
        found = [(at, text) for text in self._stop if (at := self._held.find(text)) >= 0]
        if found:
            at, text = min(found)
            said, self._held = self._held[:at], ""
            return said, text
        keep = max((_overlap(self._held, text) for text in self._stop), default=0)
        cut = len(self._held) - keep
        said, self._held = self._held[:cut], self._held[cut:]
        return said, None


def _overlap(text: str, stop: str) -> int:
    """Length of the longest tail of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
