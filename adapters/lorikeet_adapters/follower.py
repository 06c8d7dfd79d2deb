"""Keeps a replica at what the owner of a shared registry has, whatever happens to the owner."""

from __future__ import annotations

import logging
import threading
import time

from lorikeet_adapters.errors import RegistryAway
from lorikeet_adapters.shared import SharedLedger

log = logging.getLogger("lorikeet")
POLL_S = 2.0  # one question to the owner waits this long for something new
PAUSES_S = (0.2, 2.0)  # between questions that fail: at first, and at most


class Follower:
    """A thread, from `start` to `close`. Every method may be called from any thread."""

    def __init__(self, ledger: SharedLedger) -> None:
        self._ledger = ledger
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry-follower", daemon=True)
        self._trouble = ""  # what was logged of it last; empty while all is well

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Returns within the time of one question; also when it was never started."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def catch_up(self, timeout: float) -> None:
        """Serve all that the owner has: what a replica does before it is ready.

        Raises RegistryAway where that takes longer than `timeout` seconds.
        """
        self._ledger.catch_up(timeout)

    @property
    def sequence(self) -> int:
        """The id of the newest change that is served here."""
        return self._ledger.sequence

    @property
    def lag(self) -> float:
        """Seconds since this replica was known to serve all that the owner had; up to 2 while all is well."""
        return time.monotonic() - self._ledger.current_at

    def _run(self) -> None:
        """On its own thread, where nobody would see an exception: whatever fails is tried again."""
        pause, longest = PAUSES_S
        while not self._stop.is_set():
            try:
                self._ledger.step(POLL_S)
            except Exception as error:
                self._tell(error)
                self._stop.wait(pause)
                pause = min(2 * pause, longest)
            else:
                self._tell(None)
                pause = PAUSES_S[0]

    def _tell(self, error: Exception | None) -> None:
        """Once for each trouble, and once when it is over."""
        trouble = "" if error is None else f"{type(error).__name__}: {error}"
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if error is None:
            log.warning("this replica follows the shared registry again")
        else:
            log.warning(
                "this replica cannot follow the shared registry, serves what it has and tries again: %s",
                trouble,
                exc_info=None if isinstance(error, RegistryAway) else error,
            )
