"""Text as it becomes sayable: whole characters only, and never part of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
REPLACEMENT = "\ufffd"
# The bytes of a character that is not complete yet: at most three, and some decoders show each by itself.
UNFINISHED = 3
# A window without a place to cut it is cut back to so many tokens once it holds more than the other number.
KEPT_TOKENS = 12
MOST_TOKENS = 24


class Characters:
    """Turns tokens into whole characters, which together are the decoded text of all tokens.

    Decoders look back, so new tokens are decoded behind some that have been said:

        tokens   t t t | t t        text   k k k k | n n n ? ?
                 known   new               known     new, the last of it perhaps unfinished

    What is unfinished at the end shows as U+FFFD and is kept back, up to the most that one character
    can show. The window moves on once nothing is unfinished, so a token costs two short decodes.

    A decoder with byte fallback shows a whole run of bytes as U+FFFD when any of it is wrong, also what
    was right before. What is said stays said: there the text differs from that of all tokens at once.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._known = 0  # of the tokens, those whose text was said
        self._known_text = ""
        self._said = 0  # characters of the new tokens' text that were said
        self._length = 0  # of the text of all these tokens

    def push(self, token: int) -> str:
        self._tokens.append(token)
        before = self._length
        new = self._new_text()
        # Text that gets shorter was a run of bytes and is complete now: if U+FFFD ends it, that is meant.
        unfinished = _trailing(new) if self._length >= before else 0
        if not unfinished:
            ready = new[self._said :]
            self._move_on(changed=bool(ready))
            return ready
        ready = "" if self._is_one_character() else new[self._said : len(new) - unfinished]
        self._said += len(ready)
        if len(self._tokens) > MOST_TOKENS:
            ready += self._cut(new[self._said :])
        return ready

    def flush(self) -> str:
        """No more tokens: what is still kept back, an unfinished character included."""
        rest = self._new_text()[self._said :]
        self._tokens, self._known, self._known_text, self._said, self._length = [], 0, "", 0, 0
        return rest

    def _new_text(self) -> str:
        text = self._decode(self._tokens)
        self._length = len(text)
        if text.startswith(self._known_text):
            return text[len(self._known_text) :]
        # Bytes that are wrong, or not complete, have changed what their run showed before.
        return self._decode(self._tokens[self._known :])

    def _is_one_character(self) -> bool:
        """Nothing but an unfinished character is new, however much of the text is U+FFFD for now."""
        alone = self._decode(self._tokens[self._known :])
        return len(alone) <= UNFINISHED and not alone.rstrip(REPLACEMENT)

    def _move_on(self, changed: bool) -> None:
        """All is said. What was new is known, and what was known is forgotten when it is not needed."""
        self._said = 0
        if not changed and (self._known_text or len(self._tokens) > MOST_TOKENS):
            # Left out by the decoder, as special tokens are. Behind them alone a space would seem to lead.
            del self._tokens[self._known :]
            return
        behind = self._decode(self._tokens[self._known :])
        if behind:
            del self._tokens[: self._known]
        elif len(self._tokens) > MOST_TOKENS:
            del self._tokens[:-KEPT_TOKENS]
        self._known = len(self._tokens)
        self._known_text = behind or self._decode(self._tokens)
        self._length = len(self._known_text)

    def _cut(self, unsaid: str) -> str:
        """No end of a token is the end of a character here: begin anywhere, and count what is unsaid from the end.

        UTF-8 falls into step by itself within a character. Returns what is given up as unfinished for good.
        """
        del self._tokens[:-KEPT_TOKENS]
        text = self._decode(self._tokens)
        self._known, self._known_text, self._length = 0, "", len(text)
        self._said = max(len(text) - len(unsaid), 0)
        return "" if text.endswith(unsaid) else unsaid


class IncrementalText:
    """Turns tokens into text deltas; a tail that might yet become a stop string is held back.

    The stop string that is complete first ends the text, of several the longest: tokens may be cut
    in any way, the result is the same.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self._characters = Characters(decode)
        self._stop = tuple(stop)
        self._held = ""

    def push(self, token: int, may_stop: bool = True) -> tuple[str, str | None]:
        """Add a token; returns (text to say now, the stop string that ended it or None).

        Text pushed while it may not stop is said at once and is no part of a stop string.
        """
        self._held += self._characters.push(token)
        if not may_stop:
            said, self._held = self._held, ""
            return said, None
        return self._release()

    def flush(self) -> tuple[str, str | None]:
        """No more tokens: what is still held, an unfinished character included."""
        self._held += self._characters.flush()
        said, stopped = self._release()
        if stopped is None:
            said, self._held = said + self._held, ""
        return said, stopped

    def _release(self) -> tuple[str, str | None]:
        found = [(at + len(text), at, text) for text in self._stop if (at := self._held.find(text)) >= 0]
        if found:
            _, at, text = min(found)
            said, self._held = self._held[:at], ""
            return said, text
        keep = max((_overlap(self._held, text) for text in self._stop), default=0)
        cut = len(self._held) - keep
        said, self._held = self._held[:cut], self._held[cut:]
        return said, None


def _trailing(text: str) -> int:
    """How many U+FFFD end the text, as far as they may be a character to come."""
    end = text[-UNFINISHED:]
    return len(end) - len(end.rstrip(REPLACEMENT))


def _overlap(text: str, stop: str) -> int:
    """Length of the longest tail of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
