"""The fields of one row, read with a finding for everything that is not as it must be."""

from __future__ import annotations

from collections.abc import Mapping

from lorikeet_trainer.finding import MOST_SHOWN, RowFinding

Object = Mapping[str, object]
MOST_KEYS = 20  # unknown ones that are named: a hostile row has a million


class Fields:
    """Reads on after a fault, so that one pass names all of a row's. A reading of None left a finding."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.findings: list[RowFinding] = []

    def find(self, field: str, code: str, message: str, fix: str) -> None:
        self.findings.append(RowFinding(self.line, field, code, message, fix))

    def only(self, where: str, raw: Object, known: frozenset[str], why: str) -> None:
        """Every other key is refused by name."""
        for key in sorted(each[:MOST_SHOWN] for each in (raw.keys() - known))[:MOST_KEYS]:
            self.find(
                inside(where, key),
                "unsupported_key",
                f"the key {key!r} is not supported",
                f"remove it; {why}",
            )

    def has(self, where: str, raw: Object, key: str) -> bool:
        if key not in raw:
            self.find(inside(where, key), "missing_key", f"there is no {key}", "add it")
        return key in raw

    def text(self, where: str, raw: Object, key: str) -> str | None:
        """A string that is Unicode."""
        if not self.has(where, raw, key):
            return None
        text = raw[key]
        if not isinstance(text, str):
            self.find(inside(where, key), "not_text", f"{key} is not a string", "write it as a string")
            return None
        return self.unicode(inside(where, key), text)

    def filled(self, where: str, raw: Object, key: str, fix: str) -> str | None:
        """A string with more in it than blanks."""
        text = self.text(where, raw, key)
        if text is not None and not text.strip():
            self.find(inside(where, key), f"empty_{key}", f"the {key} is empty", fix)
            return None
        return text

    def unicode(self, where: str, text: str) -> str | None:
        if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text):
            return text
        self.find(where, "not_unicode", "half of a surrogate pair stands alone", "write the whole character")
        return None

    def mapping(self, where: str, raw: object, shape: str) -> Object | None:
        if isinstance(raw, dict):
            return raw
        self.find(where, "not_an_object", "this is no object", f"write {shape}")
        return None

    def mappings(self, where: str, raw: object, shape: str) -> list[Object] | None:
        """A list with at least one object in it."""
        if not isinstance(raw, list) or not raw:
            self.find(where, "not_a_list", "this is no list with something in it", f"write [{shape}, ...]")
            return None
        read = [self.mapping(f"{where}[{index}]", each, shape) for index, each in enumerate(raw)]
        return [each for each in read if each is not None]


def inside(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
