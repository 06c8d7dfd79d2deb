"""Who may ask for what. Whatever is not named here needs a key with the admin scope."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import Scope as Connection

from lorikeet_server.api.caller import OPERATOR, Caller
from lorikeet_server.errors import InvalidKey, ScopeMissing
from lorikeet_server.keyring import Keyring, Scope

UNMATCHED = "other"
FOUND = "lorikeet.routes"  # of a connection, where its routes are kept once they are found
METRICS = "/metrics"
VLLM_METRICS = "/metrics/vllm"
OPEN = frozenset({"/health", "/health/live", "/health/ready", "/startup", "/ping", "/openapi.json"})
CONSOLE_FILE = "/console/{file:path}"
ADMIN_ONLY = frozenset({Scope.ADMIN})
# One of these scopes is needed.
NEEDS: Mapping[str, frozenset[Scope]] = {
    "/v1/chat/completions": frozenset({Scope.GENERATE}),
    "/v1/completions": frozenset({Scope.GENERATE}),
    "/": frozenset({Scope.GENERATE}),
    "/generate": frozenset({Scope.GENERATE}),
    "/generate_stream": frozenset({Scope.GENERATE}),
    "/v1/models": frozenset({Scope.GENERATE, Scope.ADMIN}),
    "/v1/models/{name:path}": frozenset({Scope.GENERATE, Scope.ADMIN}),
    "/info": frozenset(Scope),
    "/v1/tokenize": frozenset({Scope.GENERATE}),
    "/v1/detokenize": frozenset({Scope.GENERATE}),
    "/tokenize": frozenset({Scope.GENERATE}),
    "/detokenize": frozenset({Scope.GENERATE}),
    METRICS: frozenset({Scope.METRICS}),
    VLLM_METRICS: frozenset({Scope.METRICS}),
    "/v1/load_lora_adapter": ADMIN_ONLY,
    "/v1/unload_lora_adapter": ADMIN_ONLY,
    "/v1/adapters": ADMIN_ONLY,
    "/v1/adapters/compose": ADMIN_ONLY,
    "/v1/adapters/history/{name:path}": ADMIN_ONLY,
    "/v1/adapters/activate/{name:path}": ADMIN_ONLY,
    "/v1/adapters/{name:path}": ADMIN_ONLY,
    "/v1/files": ADMIN_ONLY,
    "/v1/files/{id}": ADMIN_ONLY,
    "/v1/files/{id}/content": ADMIN_ONLY,
    "/v1/files/{id}/check": ADMIN_ONLY,
    "/v1/fine_tuning/jobs": ADMIN_ONLY,  # training takes the machine
    "/v1/fine_tuning/jobs/{id}": ADMIN_ONLY,
    "/v1/fine_tuning/jobs/{id}/cancel": ADMIN_ONLY,
    "/v1/fine_tuning/jobs/{id}/pause": ADMIN_ONLY,
    "/v1/fine_tuning/jobs/{id}/resume": ADMIN_ONLY,
    "/v1/fine_tuning/jobs/{id}/events": ADMIN_ONLY,
    "/v1/fine_tuning/jobs/{id}/checkpoints": ADMIN_ONLY,
    CONSOLE_FILE: frozenset(),  # open to everyone
    "/v1/requests": ADMIN_ONLY,
    "/v1/requests/{id}": ADMIN_ONLY,
    "/v1/datasets": ADMIN_ONLY,
    "/v1/aliases": ADMIN_ONLY,
    "/v1/aliases/{name:path}": ADMIN_ONLY,
}


class Gate:
    """`keys` None lets everyone in as the operator; what then protects the server is `Guard`."""

    def __init__(self, keys: Keyring | None, *, open_metrics: bool) -> None:
        self._keys = keys
        self._open = open_routes(open_metrics)

    def admit(self, connection: Connection, headers: Headers) -> Caller | None:
        """Who asks; None for a route that is open. Raises InvalidKey or ScopeMissing."""
        if self._keys is None:
            return OPERATOR
        route = template(connection)
        if route in self._open or is_console(connection["method"], route):
            return None
        caller = _authenticated(self._keys, headers)
        needed = scopes_of(route)
        if route != UNMATCHED and not needed & caller.scopes:
            words = " or ".join(f"`{each}`" for each in sorted(needed))
            raise ScopeMissing(f"the key `{caller.key}` lacks the scope {words}, which this route needs")
        return caller


def open_routes(open_metrics: bool) -> frozenset[str]:
    return OPEN | {METRICS, VLLM_METRICS} if open_metrics else OPEN


def is_console(method: str, route: str) -> bool:
    """Files of the package, the same for everyone; what the console shows is asked of other routes.

    At `/` it shares its path with generation, which is a POST and needs a key like any.
    """
    return route == CONSOLE_FILE or (route == "/" and method != "POST")


def scopes_of(route: str) -> frozenset[Scope]:
    """One of these is needed where a key is."""
    return NEEDS.get(route, ADMIN_ONLY)


def template(connection: Connection) -> str:
    """The template of the route that answers, found as the router finds it: by method and `path` alone.

    Not by a URL, which is put together from the Host header. The first route that matches in full
    answers, else the first whose method alone does not.
    """
    if "route" in connection:
        return getattr(connection["route"], "path", UNMATCHED)
    found = _answering(connection)
    return getattr(found[0], "path", UNMATCHED) if found else UNMATCHED


def methods_of(connection: Connection) -> frozenset[str]:
    """What this path can be asked with; a path that takes several methods has a route for each."""
    return frozenset().union(*(getattr(each, "methods", None) or () for each in _answering(connection)))


def _answering(connection: Connection) -> list[BaseRoute]:
    """The route that answers; where it is the method alone that is wrong, every route of the path. Found once."""
    if FOUND not in connection:
        found = [(each.matches(connection)[0], each) for each in connection["app"].routes]
        full = [route for match, route in found if match is Match.FULL]
        connection[FOUND] = full[:1] or [route for match, route in found if match is Match.PARTIAL]
    answering: list[BaseRoute] = connection[FOUND]
    return answering


def _authenticated(keys: Keyring, headers: Headers) -> Caller:
    given = headers.getlist("authorization")
    if not given:
        raise InvalidKey("this server needs an API key: send the header `Authorization: Bearer KEY`")
    kind, _, secret = given[0].partition(" ")
    key = keys.find(secret.strip()) if len(given) == 1 and kind.lower() == "bearer" else None
    if key is None:
        raise InvalidKey("this API key is not valid here; send the header `Authorization: Bearer KEY`")
    return Caller.holding(key)
