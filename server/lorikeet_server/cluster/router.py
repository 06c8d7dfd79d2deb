"""Ray Serve's request router with our order of replicas. Loaded by Serve into whoever holds a handle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from ray.serve.request_router import (
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)

from lorikeet_server.cluster.affinity import Placed, order, placed
from lorikeet_server.cluster.call import Call
from lorikeet_server.cluster.tally import Tally


class AffinityRouter(RequestRouter):
    """Ranks all replicas for each request; Serve sends it to the first one that takes it.

    `count` is told of each, in the process that sends.
    """

    count: ClassVar[Callable[[Placed], object]] = lambda _: None

    def initialize_state(self, **settings: Any) -> None:
        self._slots = int(settings["slots"])

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        named = {each.replica_id.unique_id: each for each in candidate_replicas}
        call = _call(pending_request)
        wanted = [each for each in named if each not in call.avoid] if call else []
        load = {name: self._load(named[name]) for name in wanted or named}
        return [[named[name]] for name in order(call.adapter if call else "", load, self._slots)]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        if (call := _call(pending_request)) is not None:
            names = [each.unique_id for each in self.curr_replicas]
            if replica_id.unique_id in names:
                type(self).count(placed(call.adapter, replica_id.unique_id, names))

    def _load(self, replica: RunningReplica) -> int:
        """Requests that it has, as far as is known here; one that was not asked lately counts as idle."""
        return self.replica_queue_len_cache.get(replica.replica_id) or 0


def _call(pending: PendingRequest | None) -> Call | None:
    found = pending.args[0] if pending is not None and pending.args else None
    return found if isinstance(found, Call) else None


def count_placed(tally: Tally) -> None:
    """From now on each request that this process sends is counted there."""
    AffinityRouter.count = lambda how: tally.placed.labels(how).inc()
