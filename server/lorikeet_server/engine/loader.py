"""Reads adapters beside running traffic: files to checked host tensors on a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lorikeet_adapters.errors import ComposeRefused, LorikeetError
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_server.engine.batch import Load
from lorikeet_server.engine.command import AdapterArrived, AdapterMissing, Command
from lorikeet_server.engine.request import Failure

log = logging.getLogger(__name__)
Fetch = Callable[[str], AdapterWeights]  # generation -> tensors; raises LorikeetError


class Loader:
    """`deliver` is called on the loader's thread with the one outcome of each load."""

    def __init__(self, fetch: Fetch, deliver: Callable[[Command], None]) -> None:
        self._fetch = fetch
        self._deliver = deliver
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="adapter-loader")

    def load(self, order: Load) -> None:
        self._pool.submit(self._load, order)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

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
