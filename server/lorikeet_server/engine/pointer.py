"""Places inside a JSON document, and how a reference and a message spell them."""

from __future__ import annotations

from urllib.parse import unquote

Path = tuple[str, ...]
SHOWN = 40  # characters of a name


def spelled(path: Path) -> str:
    """A JSON pointer for messages, long names cut."""
    parts = (part[:SHOWN].replace("~", "~0").replace("/", "~1") for part in path)
    return "/".join(("#", *parts))


def parse_pointer(reference: str) -> Path | None:
    """The place that a reference within the document means; None when it leads elsewhere."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    parts = unquote(reference[1:]).split("/")[1:]
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in parts)
