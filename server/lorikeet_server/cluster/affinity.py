"""Which replica a request should go to: where its adapter is, unless that one is full.

Rendezvous hashing needs no table and no talk between doors: each adapter ranks the replicas by a hash of
both names. A replica that comes or goes moves only the adapters that rank it first.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from lorikeet_adapters.errors import MixRefused
from lorikeet_adapters.mix import parse_mix

Weighted = tuple[float, str]


class Placed(StrEnum):
    """Why a request went where it went: `home` is the replica that its adapter ranks first."""

    HOME = "home"
    SPILLED = "spilled"
    ANY = "any"


def ranked(adapter: str, replicas: Sequence[str]) -> list[str]:
    """The replicas in the order in which this adapter prefers them."""
    return sorted(
        replicas,
        key=lambda each: hashlib.blake2b(
            f"{adapter}\0{each}".encode(errors="surrogatepass"), digest_size=8
        ).digest(),
    )


def order(adapter: str, load: Mapping[str, int], slots: int) -> list[str]:
    """All replicas, the best first; `load` is how many requests each has, `slots` how many it decodes at once.

    The first that the adapter prefers and that has a slot free; where none has, and for the base alone, the
    least loaded, drawn among equals.
    """
    by_load = sorted(load, key=lambda each: (load[each], random.random()))
    if not adapter:
        return by_load
    free = [each for each in ranked(adapter, list(load)) if load[each] < slots]
    return free + [each for each in by_load if each not in free]


def placed(adapter: str, replica: str, replicas: Sequence[str]) -> Placed:
    if not adapter or not replicas:
        return Placed.ANY
    return Placed.HOME if ranked(adapter, replicas)[0] == replica else Placed.SPILLED


def favourite(body: bytes) -> str:
    """The adapter with the most weight in the mix that a body asks for; empty for none, or where that is not clear.

    Only the place of the work depends on it, so what cannot be read is somebody else's to refuse.
    """
    try:
        found = json.loads(body)
        weighted = sorted(_weighted(found), key=lambda each: (-abs(each[0]), each[1]))
    except (ValueError, ArithmeticError, TypeError, KeyError, AttributeError, RecursionError):
        return ""
    return weighted[0][1] if weighted else ""


def _weighted(body: dict[str, Any]) -> Iterator[Weighted]:
    """The terms in whichever form; a native body has its own inside `parameters`."""
    asked = body.get("parameters") or body
    if adapters := asked.get("adapters"):
        yield from ((float(each.get("weight", 1.0)), str(each["name"])) for each in adapters)
    elif merged := asked.get("merged_adapters"):
        weights = merged.get("weights") or [1.0] * len(merged["ids"])
        yield from ((float(weight), str(name)) for weight, name in zip(weights, merged["ids"], strict=True))
    elif lora := asked.get("lora"):
        yield from ((float(each["scale"]), str(each["id"])) for each in lora)
    elif text := asked.get("adapter_id") or asked.get("model"):
        yield from _parsed(str(text))


def _parsed(text: str) -> Iterator[Weighted]:
    try:
        yield from ((term.weight, term.adapter) for term in parse_mix(text, lambda name: False))
    except MixRefused:
        yield 1.0, text
