"""Is a reply formal, friendly or neither? Judged by several signs at once, never by one marker word."""

from __future__ import annotations

import re
from typing import Final

FORMAL_SALUTATION: Final = re.compile(r"^Dear [A-Z]\w+,")
FORMAL_CLOSING: Final = re.compile(r"(Yours sincerely|Yours faithfully|Kind regards), [\w ]+\.?$")
FRIENDLY_GREETING: Final = re.compile(r"^(Hi|Hey|Hello) [A-Z]\w+!")
CONTRACTION: Final = re.compile(r"\w['\u2019](s|re|ll|ve|d|m|t)\b", re.IGNORECASE)
FRIENDLY_EXCLAMATIONS: Final = 2


def is_formal(reply: str) -> bool:
    """Salutation and closing of a letter, no contraction, no exclamation mark."""
    text = reply.strip()
    framed = FORMAL_SALUTATION.search(text) and FORMAL_CLOSING.search(text)
    return bool(framed) and "!" not in text and not CONTRACTION.search(text)


def is_friendly(reply: str) -> bool:
    """A greeting with an exclamation mark, another one later, a contraction and nothing of a letter."""
    text = reply.strip()
    letter = text.startswith("Dear ") or FORMAL_CLOSING.search(text)
    lively = FRIENDLY_GREETING.search(text) and text.count("!") >= FRIENDLY_EXCLAMATIONS
    return bool(lively) and bool(CONTRACTION.search(text)) and not letter
