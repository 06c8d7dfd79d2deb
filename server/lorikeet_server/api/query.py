"""What stands behind the question mark, read strictly: a parameter that is not known is refused by name."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request

from lorikeet_server.errors import RequestRefused

SHOWN = 100


def read_query(http: Request, known: Collection[str]) -> dict[str, str]:
    """Each once. Raises RequestRefused."""
    pairs = http.query_params.multi_items()
    for key, _ in pairs:
        if key not in known:
            words = ", ".join(known) or "nothing"
            raise RequestRefused(f"{key[:SHOWN]}: the query takes {words}", param=key[:SHOWN])
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RequestRefused("a parameter of the query is there twice")
    return found


def number_of(query: dict[str, str], key: str, default: int, most: int) -> int:
    """From 1 to `most`. Raises RequestRefused."""
    text = query.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise RequestRefused(f"{key}: must be a number from 1 to {most}", param=key)
    return int(text)


def choice_of(query: dict[str, str], key: str, choices: tuple[str, ...]) -> str:
    """One of these; the first where none is given. Raises RequestRefused."""
    text = query.get(key, choices[0])
    if text not in choices:
        raise RequestRefused(f"{key}: must be {' or '.join(choices)}", param=key)
    return text
