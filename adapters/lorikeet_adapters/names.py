"""The naming rule: adapters, aliases and the base share one namespace."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from lorikeet_adapters.errors import NameRefused

MAX_BYTES = 128
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._:-]*)?")
MOST_COMPARED = 500  # names of others, so that a crowd of unknown names costs no time
RESERVED = ("activate", "history")  # /v1/adapters/history/NAME is a route of its own


def check_name(name: str) -> str:
    """Return `name`, or raise NameRefused. A path that resembles a name cannot climb: no part starts with a dot."""
    if len(name.encode("utf-8", "replace")) > MAX_BYTES or not NAME.fullmatch(name):
        raise NameRefused(
            f"{name[:MAX_BYTES]!r} is no adapter name: letters, digits and ._:- with at most one slash, "
            f"starting with a letter or digit, {MAX_BYTES} bytes at most"
        )
    owner, slash, _ = name.partition("/")
    if slash and owner in RESERVED:
        raise NameRefused(f"{name!r} would be hidden by the route /v1/adapters/{owner}; choose another owner")
    return name


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` may be a slip for, or None."""
    alike = [each for each in known if abs(len(each) - len(name)) <= 3][:MOST_COMPARED]
    by_case = {each.casefold(): each for each in alike}
    return next((by_case[each] for each in get_close_matches(name.casefold(), by_case, 1, 0.7)), None)
