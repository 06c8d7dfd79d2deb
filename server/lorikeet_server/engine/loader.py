"""Reads adapters beside running traffic: files to checked host tensors, off the engine's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from lorikeet_adapters.errors import ComposeRefused, LorikeetError
from lorikeet_adapters.merges import is_merge
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_server.engine.batch import Load
from lorikeet_server.engine.command import AdapterArrived, AdapterMissing, Command
from lorikeet_server.engine.request import Failure

log = logging.getLogger(__name__)
Fetch = Callable[[str], AdapterWeights]  # generation -> tensors; raises LorikeetError


class Lane:
    """A thread that reads what stands in a line. The line can be changed until its turn has come.

    No locks: the engine's thread replaces the line and never changes one, and only the lane's own
    thread knows what it has begun.
    """

    def __init__(self, read: Callable[[Load], None], name: str) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._line: tuple[Load, ...] = ()
        self._latest = 0  # ticket
        self._begun: set[int] = set()

    def load(self, line: Sequence[Load]) -> None:
        """Read these, in this order, as far as they are not begun; what stood in the line before is forgotten."""
        self._line = tuple(line)
        fresh = [order.ticket for order in line if order.ticket > self._latest]
        self._latest = max(fresh, default=self._latest)
        for _ in fresh:  # a turn for each; what was taken out of the line leaves its turn empty
            self._pool.submit(self._take_turn)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _take_turn(self) -> None:
        line = self._line
        self._begun.intersection_update(order.ticket for order in line)
        order = next((each for each in line if each.ticket not in self._begun), None)
        if order is not None:
            self._begun.add(order.ticket)
            self._read(order)


class Loader:
    """`deliver` is called on a loader's thread with the one outcome of each load.

    Merges have a lane of their own: making one computes, and nobody's files wait for that.
    """

    def __init__(self, fetch: Fetch, deliver: Callable[[Command], None]) -> None:
        self._fetch = fetch
        self._deliver = deliver
        self._files = Lane(self._load, "adapter-loader")
        self._merges = Lane(self._load, "adapter-merger")

    def load(self, line: Sequence[Load]) -> None:
        """All that is to be read, the next first. It replaces the line given before, but for what has begun."""
        self._files.load([order for order in line if not is_merge(order.generation)])
        self._merges.load([order for order in line if is_merge(order.generation)])

    def close(self) -> None:
        self._files.close()
        self._merges.close()

    def _load(self, order: Load) -> None:
        outcome: Command
        try:
            outcome = AdapterArrived(order, self._fetch(order.generation))
        except LorikeetError as error:  # a merge that cannot be made is no fault of an adapter's files
            code = "invalid_composition" if isinstance(error, ComposeRefused) else "adapter_refused"
            outcome = AdapterMissing(order, Failure(code, str(error)))
        except Exception:
            # Whatever else it is must still end the requests that wait for this adapter.
            log.exception("loading adapter %s failed", order.generation[:12])
            failure = Failure("adapter_load_failed", "the adapter could not be loaded")
            outcome = AdapterMissing(order, failure)
        self._deliver(outcome)
