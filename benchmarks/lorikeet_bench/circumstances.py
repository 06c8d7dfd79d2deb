"""What ran where, in words: of a server that was asked over HTTP the machine is not known, only the client's is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLIENT = "client_"
Document = Mapping[str, Any]


def machine_facts(document: Document) -> str:
    """Of the machine that measured, which is called the client's where it asked a server."""
    side = CLIENT if "url" in document else ""
    cpu, cores, threads = (document.get(f"{side}{key}") for key in ("cpu_model", "cpu_count", "threads"))
    return ("client: " if side else "") + f"{cpu}, {cores} cores, {threads} threads"


def server_facts(document: Document) -> str:
    """What the server said of itself at /info."""
    told = document.get("server") or {}
    return "server: " + (
        ", ".join(f"{key} {value}" for key, value in told.items()) or "says nothing of itself"
    )
