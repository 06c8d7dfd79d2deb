"""How many requests may be open, and for how long: decided before the engine hears of them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lorikeet_server.config import HttpConfig
from lorikeet_server.engine.request import Request
from lorikeet_server.errors import RequestRefused, ServerBusy, TenantBusy


@dataclass(frozen=True, slots=True)
class Amount:
    """Requests, and the tokens of their prompts, which the server holds until they end."""

    requests: float = 0
    tokens: float = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.requests + other.requests, self.tokens + other.tokens)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.requests - other.requests, self.tokens - other.tokens)

    @classmethod
    def of(cls, requests: Iterable[Request]) -> Amount:
        return sum((cls(1, len(each.prompt)) for each in requests), cls())

    def over(self, most: Amount) -> str:
        """What there is too much of, as words; empty when it fits."""
        if self.requests > most.requests:
            return f"{most.requests:,} requests"
        return f"prompts of {most.tokens:,} tokens together" if self.tokens > most.tokens else ""


UNBOUNDED = Amount(math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be open at once: `total` of all, `tenant` of each tenant that has a name.

    Every request is begun within `queue_seconds` and ended within `total_seconds`, whatever it asks for itself.
    """

    total: Amount
    tenant: Amount = UNBOUNDED
    queue_seconds: float = math.inf
    total_seconds: float = math.inf

    @classmethod
    def of(cls, http: HttpConfig) -> Limits:
        total = Amount(http.max_open_requests, http.max_open_tokens)
        tenant = Amount(http.max_tenant_requests, http.max_tenant_tokens)
        return cls(total, tenant, http.queue_seconds, http.request_seconds)

    def timed(self, request: Request) -> Request:
        """The same request with the moments at which it is given up."""
        now = time.monotonic()
        return replace(
            request,
            start_by=min(request.start_by, now + self.queue_seconds),
            end_by=min(request.end_by, now + self.total_seconds),
        )

    def check(self, open_of: Mapping[str, Amount], requests: Sequence[Request]) -> None:
        """`open_of` is what each tenant has open. Raises TenantBusy, ServerBusy or RequestRefused.

        All of `requests` are one tenant's, as one call asked for them.
        """
        tenant, new = requests[0].tenant, Amount.of(requests)
        if tenant:
            _fits(new, self.tenant, "a tenant")
            if most := (open_of.get(tenant, Amount()) + new).over(self.tenant):
                raise TenantBusy(f"your tenant may have {most} waiting or running; try again in a second")
        _fits(new, self.total, "the server")
        if most := (sum(open_of.values(), Amount()) + new).over(self.total):
            raise ServerBusy(f"{most} are waiting or running, as many as may be; try again in a second")


def _fits(new: Amount, bound: Amount, whose: str) -> None:
    """What could not begin even alone is not worth another try."""
    if most := new.over(bound):
        raise RequestRefused(
            f"this asks for {new.requests:,} answers to prompts of {new.tokens:,} tokens together, "
            f"{whose} may have {most} open; ask for less at once"
        )
