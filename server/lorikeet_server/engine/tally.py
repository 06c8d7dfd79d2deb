"""What the engine counts as it goes, and one reading of it with what its parts hold now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_server.engine.capacity import Capacity
from lorikeet_server.engine.host_tier import HostTier
from lorikeet_server.engine.lifecycle import RequestState
from lorikeet_server.engine.prefix_index import PrefixIndex
from lorikeet_server.engine.residency import Residency
from lorikeet_server.engine.runner import Runner
from lorikeet_server.engine.scheduler import Scheduler
from lorikeet_server.engine.stats import EngineStats


@dataclass(slots=True)
class Tally:
    """Totals since the start, beside the bounds of the cache."""

    capacity: Capacity
    steps: int = 0
    loads: int = 0
    failed_loads: int = 0
    # Who is where, as of so many changes of both tiers: most steps change nothing, and there may be thousands.
    _places: Mapping[str, AdapterState] = field(default_factory=dict)
    _as_of: tuple[Residency, int, int] | None = None

    def read(
        self,
        scheduler: Scheduler,
        residency: Residency,
        host: HostTier,
        prefixes: PrefixIndex,
        runner: Runner,
    ) -> EngineStats:
        count = scheduler.count
        if self._as_of != (changes := (residency, residency.changes, host.changes)):
            self._places, self._as_of = _places(residency, host), changes
        return EngineStats(
            running=count(RequestState.DECODE, RequestState.PREFILL),
            waiting=count(RequestState.WAITING),
            waiting_adapter=count(RequestState.WAITING_ADAPTER),
            slots=self.capacity.geometry.slots,
            rows_used=residency.rows_used,
            rows=residency.row_budget,
            preemptions=scheduler.preemptions,
            prefix_hit_tokens=prefixes.hit_tokens,
            prompt_tokens=prefixes.asked_tokens,
            prefix_bytes=len(prefixes) * self.capacity.block_bytes,
            cache_bytes=runner.cache_bytes,
            cache_limit=self.capacity.geometry.cells * self.capacity.column_bytes,
            cache_cells=self.capacity.geometry.cells,
            adapter_bytes=runner.rank_rows.bytes,
            host_adapter_bytes=host.bytes,
            host_hits=host.hits,
            steps=self.steps,
            loads=self.loads,
            failed_loads=self.failed_loads,
            evictions=residency.evictions,
            adapters=self._places,
        )


def _places(residency: Residency, host: HostTier) -> dict[str, AdapterState]:
    """What is kept in memory is on the host, though to those who ask for it again it is as good as read anew."""
    states = {
        each: state for each, state in residency.states().items() if state is not AdapterState.REGISTERED
    }
    return dict.fromkeys(host, AdapterState.HOST) | states
