"""A mix: which adapters a request adds to the base, with what weights. The base is the empty mix."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lorikeet_adapters.errors import MixRefused

MAX_WEIGHT = 100.0
MAX_TERMS = 16
# A plain decimal: an exponent's sign would read as the next term's plus.
WEIGHT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Term:
    """`adapter` is a name while a request is read, a generation once it is resolved."""

    adapter: str
    weight: float


@dataclass(frozen=True, slots=True)
class Mix:
    """Terms in one order, none zero, no adapter twice: equal mixes are equal values."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def of(cls, terms: Iterable[Term]) -> Mix:
        """Check and normalise: equal adapters are summed, zeros dropped, the rest sorted."""
        weights: dict[str, list[float]] = {}
        for term in terms:
            _check_weight(term)
            weights.setdefault(term.adapter, []).append(term.weight)
        if len(weights) > MAX_TERMS:
            raise MixRefused(f"a mix names {len(weights)} adapters, the most is {MAX_TERMS}")
        # fsum is exact, so that the order of the terms cannot change the sum and with it the digest.
        sums = [Term(adapter, math.fsum(each)) for adapter, each in sorted(weights.items())]
        for total in sums:
            _check_weight(total)
        return cls(tuple(each for each in sums if each.weight != 0.0))

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(term.adapter for term in self.terms)

    @property
    def is_single(self) -> bool:
        """One adapter as it was trained."""
        return len(self.terms) == 1 and self.terms[0].weight == 1.0

    @property
    def digest(self) -> str:
        """SHA-256 over adapters and exact weights; what keys any cache of computed state."""
        canonical = json.dumps([[term.adapter, term.weight.hex()] for term in self.terms])
        return hashlib.sha256(canonical.encode()).hexdigest()


BASE_MIX = Mix()


def parse_mix(text: str, is_name: Callable[[str], bool]) -> tuple[Term, ...]:
    """Read `a`, `a:0.7` or `a:0.7+b:0.3`; an exact name wins over parsing.

    Returns the terms as written, to be resolved and normalised. Raises MixRefused. A text with
    neither a weight nor a plus is one name, known or not. Spaces around a plus mean nothing.
    """
    if is_name(text):
        return (Term(text, 1.0),)
    parts = [part.strip(" ") for part in text.split("+")] if "+" in text else [text]
    return tuple(_parse_term(part, text, is_name) for part in parts)


def _parse_term(part: str, whole: str, is_name: Callable[[str], bool]) -> Term:
    if not part:
        raise MixRefused(f"the mix `{whole}` has an empty term; write it like `formal:0.7+friendly:0.3`")
    name, colon, weight = part.rpartition(":")
    if is_name(part) or not colon:
        return Term(part, 1.0)
    if not name or not WEIGHT.fullmatch(weight):
        if "+" not in whole and not is_name(name):
            return Term(part, 1.0)  # no mix at all: an unknown name with a colon in it
        raise MixRefused(f"the weight `{weight}` in `{whole}` is not a plain decimal number")
    return Term(name, float(weight))


def _check_weight(term: Term) -> None:
    if not math.isfinite(term.weight):
        raise MixRefused(f"the weight of `{term.adapter}` is not a finite number")
    if abs(term.weight) > MAX_WEIGHT:
        raise MixRefused(f"the weight {term.weight:g} of `{term.adapter}` is beyond ±{MAX_WEIGHT:g}")
