"""Who sends a request, and what of the registry exists for them."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from lorikeet_adapters.errors import AccessRefused
from lorikeet_adapters.view import View
from lorikeet_server.api.services import Services
from lorikeet_server.keyring import Key, Scope


@dataclass(frozen=True, slots=True)
class Caller:
    """`key` is the name of a key, empty where there are none; `tenant` None is the operator."""

    key: str
    tenant: str | None
    scopes: frozenset[Scope]

    @classmethod
    def holding(cls, key: Key) -> Caller:
        return cls(key.name, key.tenant, key.scopes)


OPERATOR = Caller("", None, frozenset(Scope))  # everybody, as long as there are no keys


def caller_of(http: Request) -> Caller:
    """A route that is open to everyone has none, and asking for it is an error of ours."""
    caller: Caller = http.scope["caller"]
    return caller


def view_of(http: Request) -> View:
    """The registry, as far as it is there for the caller; the routes use no other."""
    services: Services = http.app.state.services
    return View(services.registry, caller_of(http).tenant)


def public_view(services: Services) -> View:
    """What is everyone's, for metrics: no tenant has the empty name."""
    return View(services.registry, "")


def check_operator(http: Request, message: str) -> None:
    """Raises AccessRefused with this message for a tenant's key."""
    if caller_of(http).tenant is not None:
        raise AccessRefused(message)
