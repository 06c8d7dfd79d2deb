"""Ray Serve's request router with our order of replicas. Loaded by Serve into whoever holds a handle."""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from lorikeet_server.cluster import tally
from lorikeet_server.cluster.affinity import order
from lorikeet_server.cluster.call import Call


class AffinityRouter(RequestRouter):
    """Ranks all replicas for each request; Serve sends it to the first one that takes it.

    Serve pickles this module by value: what is set in it here is not seen where it runs,
    and of what it imports only modules are the same there.
    """

    def initialize_state(self, **settings: Any) -> None:
        self._slots = int(settings["slots"])

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        named = {each.replica_id.unique_id: each for each in candidate_replicas}
        tally.KNOWN[:] = named
        call = _call(pending_request)
        load = {name: self._load(each) for name, each in named.items()}
        return [[named[name]] for name in order(call.adapter if call else "", load, self._slots)]

    def _load(self, replica: RunningReplica) -> int:
        """Requests that it has, as far as is known here; one that was not asked lately counts as idle."""
        return self.replica_queue_len_cache.get(replica.replica_id) or 0


def _call(pending: PendingRequest | None) -> Call | None:
    found = pending.args[0] if pending is not None and pending.args else None
    return found if isinstance(found, Call) else None
