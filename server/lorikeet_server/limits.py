"""How many requests may be open, and for how long: decided before the engine hears of them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lorikeet_server.config import HttpConfig
from lorikeet_server.engine.request import Request
from lorikeet_server.errors import RequestRefused, ServerBusy, TenantBusy


@dataclass(frozen=True, slots=True)
class Limits:
    """`requests` of all and `tenant_requests` of each tenant that has a name may be open.

    Every one is begun within `queue_seconds` and ended within `total_seconds`, whatever it asks for itself.
    """

    requests: int
    tenant_requests: float = math.inf
    queue_seconds: float = math.inf
    total_seconds: float = math.inf

    @classmethod
    def of(cls, http: HttpConfig) -> Limits:
        return cls(http.max_open_requests, http.max_tenant_requests, http.queue_seconds, http.request_seconds)

    def timed(self, request: Request) -> Request:
        """The same request with the moments at which it is given up."""
        now = time.monotonic()
        return replace(
            request,
            start_by=min(request.start_by, now + self.queue_seconds),
            end_by=min(request.end_by, now + self.total_seconds),
        )

    def check(self, open_of: Mapping[str, int], requests: Sequence[Request]) -> None:
        """`open_of` counts the open requests by tenant. Raises TenantBusy, ServerBusy or RequestRefused."""
        for tenant, new in Counter(each.tenant for each in requests if each.tenant).items():
            self._check_tenant(open_of.get(tenant, 0), new)
        if sum(open_of.values()) + len(requests) > self.requests:
            raise ServerBusy(f"{self.requests} requests are waiting or running; try again in a second")

    def _check_tenant(self, running: int, new: int) -> None:
        if new > self.tenant_requests:
            raise RequestRefused(
                f"this asks for {new} answers at once, a tenant may have {self.tenant_requests}; ask for fewer"
            )
        if running + new > self.tenant_requests:
            raise TenantBusy(
                f"{running} requests of your tenant are waiting or running, it may have "
                f"{self.tenant_requests}; try again in a second"
            )
