"""POST /v1/adapters/compose: a new adapter out of registered ones."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from lorikeet_adapters.access import Access
from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_adapters.mix import Term
from lorikeet_adapters.recipe import MajoritySign, Method, Recipe
from lorikeet_adapters.record import AdapterRecord
from lorikeet_server.api.backstage import checked
from lorikeet_server.api.blame import blaming
from lorikeet_server.api.body import MANY, Body, read_body
from lorikeet_server.api.caller import view_of
from lorikeet_server.api.mix_body import WeightedAdapter
from lorikeet_server.api.precondition import answered_once, expected_generation
from lorikeet_server.api.records import record_object
from lorikeet_server.api.services import Services


class ComposeBody(Body):
    name: str
    adapters: list[WeightedAdapter] = Field(min_length=1, max_length=MANY)
    method: Literal["cat", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune"] = "cat"
    density: float = 0.5
    majority_sign_method: Literal["total", "frequency"] = "total"
    rank: int = 0
    replace: bool = False
    tenants: list[str] | None = Field(default=None, max_length=MANY)
    metadata: dict[str, Any] | None = None


async def compose_adapters(http: Request) -> Response:
    """201 with the record; 200 when the same combination already has this name."""
    services: Services = http.app.state.services
    body = await read_body(http, ComposeBody)
    expected = expected_generation(http)
    sign = MajoritySign(body.majority_sign_method)
    recipe = Recipe(Method(body.method), body.density, sign, body.rank)
    view, access = view_of(http), Access.of(body.tenants)
    terms = [Term(each.name, each.weight) for each in body.adapters]

    def make() -> tuple[AdapterRecord, bool]:
        with blaming("adapters"):
            return services.composer.make(
                view,
                body.name,
                terms,
                recipe,
                replace=body.replace,
                expected=expected,
                metadata=body.metadata,
                access=access,
            )

    async def work() -> tuple[dict[str, Any], int]:
        record, changed = await checked(http, make)
        state = services.stats().adapters.get(record.generation, AdapterState.REGISTERED)
        return record_object(record, services.model.name, state), 201 if changed else 200

    return await answered_once(http, body.model_dump(mode="json"), work)
