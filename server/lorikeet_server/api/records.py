"""How adapters, aliases and what happened to them look on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_adapters.record import AdapterRecord, Freed
from lorikeet_adapters.stored import StoredAlias, StoredEvent, Target
from lorikeet_server.errors import RequestRefused

T = TypeVar("T")
TIERS = {AdapterState.HOST: "host", AdapterState.DEVICE: "device"}
INCOMPATIBLE = "incompatible"  # a state that only the wire has: the engine never sees such an adapter
PAGE, MOST = 100, 1000


def record_object(
    record: AdapterRecord, base: str, state: AdapterState = AdapterState.REGISTERED
) -> dict[str, Any]:
    """`state` is the engine's; a deletion under way and a base it does not fit come before that."""
    shown = AdapterState.RETIRED if record.leaving else INCOMPATIBLE if record.findings else state
    return {
        "object": "adapter",
        "id": record.name,
        "generation": record.generation,
        "generations": list(record.generations),
        "state": str(shown),
        "tier": TIERS.get(state, "disk"),
        "rank": record.rank,
        "ranks": dict(record.ranks),
        "bytes": record.bytes,
        "targets": sorted({module.rpartition(".")[2] for module in record.ranks}),
        "base": base,
        "pinned": record.pinned,
        "tenants": None if record.access.tenants is None else list(record.access.tenants),
        "leases": record.leases,
        "last_used": None if record.last_used is None else int(record.last_used),
        "created": int(record.created),
        "source": dict(record.source),
        "provenance": None if record.provenance is None else dict(record.provenance),
        "warnings": list(record.warnings),
        "findings": [dict(each) for each in record.findings],
        "metadata": dict(record.metadata),
    }


def event_object(event: StoredEvent) -> dict[str, Any]:
    return {
        "object": "adapter.event",
        "id": str(event.id),
        "name": event.name,
        "event": str(event.event),
        "generation": event.generation or None,
        "targets": [target_object(each) for each in event.targets] or None,
        "created": int(event.at),
    }


def alias_object(alias: StoredAlias, history: Iterable[StoredEvent] = ()) -> dict[str, Any]:
    return {
        "object": "alias",
        "id": alias.name,
        "targets": [target_object(each) for each in alias.targets],
        "created": int(alias.created),
        "updated": int(alias.updated),
        "history": [event_object(each) for each in history],
    }


def target_object(target: Target) -> dict[str, Any]:
    return {"name": target.name, "generation": target.generation, "weight": target.weight}


def freed_object(name: str, freed: Freed) -> dict[str, Any]:
    """Device and host are null where the engine did not say in time."""
    memory = freed.memory
    sizes = {
        "device": None if memory is None else memory.device,
        "host": None if memory is None else memory.host,
        "disk": freed.disk,
    }
    return {"object": "adapter", "id": name, "deleted": True, "freed": sizes}


def list_object(data: Sequence[dict[str, Any]], has_more: bool = False) -> dict[str, Any]:
    return {"object": "list", "data": list(data), "has_more": has_more}


def page_of(http: Request, each: Callable[[T], dict[str, Any]], sorted_items: Sequence[T]) -> dict[str, Any]:
    """One page of objects sorted by their id: those after `after`, at most `limit`."""
    limit, after = read_page(http)
    rest = [made for made in map(each, sorted_items) if after is None or made["id"] > after]
    return list_object(rest[:limit], len(rest) > limit)


def read_page(http: Request) -> tuple[int, str | None]:
    """`limit` and `after` of the query. Raises RequestRefused for another field, or a limit that is none."""
    query = http.query_params
    for unknown in sorted(query.keys() - {"limit", "after"}):
        raise RequestRefused(f"{unknown[:100]}: the query takes limit and after only", param=unknown[:100])
    limit = query.get("limit", str(PAGE))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 5 and 1 <= int(limit) <= MOST):
        raise RequestRefused(f"limit: must be a number from 1 to {MOST}", param="limit")
    return int(limit), query.get("after")
