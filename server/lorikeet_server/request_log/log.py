"""From the event loop to the disk: a bounded line of records, and one thread that writes them down.

Whoever offers a record never waits, neither for the disk nor for whoever reads. What finds no room, is too
large or cannot be written is dropped and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lorikeet_server.config import RequestLogConfig
from lorikeet_server.request_log.record import Record
from lorikeet_server.request_log.records import Records

log = logging.getLogger(__name__)
LARGEST = 1 << 20  # bytes of a record's texts
DAY_S = 86400.0
UPKEEP_S = 3600.0  # between two looks for what is too old, where nothing is written
COMPLAINT_S = 60.0  # between two errors in the log of what could not be written
CLOSE_S = 30.0

Make = Callable[[float], Record]  # of the time when the answer was complete


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long and how much is kept, and what may wait to be written: records, and characters of their texts."""

    days: int = 30
    bytes: int = 1 << 30
    waiting: int = 1024
    waiting_characters: int = 16 << 20


@dataclass(frozen=True, slots=True)
class _Waiting:
    at: float
    size: int
    make: Make


class RequestLog:
    """`records` is what is kept. Every method may be called from any thread."""

    def __init__(
        self, folder: Path, bounds: Bounds = Bounds(), clock: Callable[[], float] = time.time
    ) -> None:
        """Raises StoreError for a file that cannot be read."""
        self.records = Records(folder)
        self._bounds = bounds
        self._clock = clock
        self._line: list[_Waiting] = []
        self._characters = 0
        self._written = self._dropped = 0
        self._complained = -COMPLAINT_S
        self._ends = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Once nothing is offered any more: what waits is written, within CLOSE_S seconds."""
        with self._changed:
            self._ends = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.error("the request log could not be written within %g s; what waited is lost", CLOSE_S)
        else:
            self.records.close()

    def offer(self, size: int, make: Make) -> None:
        """Have a record of about `size` characters made and written by the other thread, if there is room."""
        with self._changed:
            full = len(self._line) >= self._bounds.waiting
            if full or size > LARGEST or self._characters + size > self._bounds.waiting_characters:
                self._dropped += 1
                return
            self._line.append(_Waiting(self._clock(), size, make))
            self._characters += size
            self._changed.notify()

    def totals(self) -> tuple[int, int]:
        """Records written and dropped since the start."""
        with self._changed:
            return self._written, self._dropped

    def _run(self) -> None:
        self._keep(lambda: self._retain(shrink=True))
        while True:
            with self._changed:
                if not self._line and not self._ends:
                    self._changed.wait(UPKEEP_S)
                batch, self._line, self._characters = self._line, [], 0
                if not batch and self._ends:
                    return
            self._write(batch)

    def _write(self, batch: list[_Waiting]) -> None:
        made = [record for each in batch if (record := _made(each)) is not None]
        if made:
            done = self._keep(lambda: self.records.add(made, self._since(), self._bounds.bytes))
        else:
            done = self._keep(self._retain)
        with self._changed:
            kept = len(made) if done else 0
            self._written += kept
            self._dropped += len(batch) - kept

    def _retain(self, shrink: bool = False) -> None:
        self.records.retain(self._since(), self._bounds.bytes)
        if shrink:
            self.records.shrink()

    def _since(self) -> float:
        return self._clock() - self._bounds.days * DAY_S

    def _keep(self, work: Callable[[], None]) -> bool:
        """Whether it could be done. A disk that fails says so at every record: the log hears of it now and then."""
        try:
            work()
        except Exception as error:  # whatever it is, what comes later may be written
            if time.monotonic() - self._complained >= COMPLAINT_S:
                self._complained = time.monotonic()
                log.error(
                    "the request log cannot be written, and requests are missing from it: %s",
                    error.__cause__ or error,
                )
            return False
        return True


def _made(waiting: _Waiting) -> Record | None:
    try:
        record = waiting.make(waiting.at)
        return record if record.size <= LARGEST else None
    except Exception:  # whatever the tokenizer makes of token ids
        log.exception("a record of the request log could not be made")
        return None


@contextmanager
def opened(config: RequestLogConfig, folder: Path) -> Iterator[RequestLog | None]:
    """The log in this data folder, as long as `with` lasts; None where there is to be none. Raises StoreError."""
    if not config.request_log:
        yield None
        return
    made = RequestLog(folder, Bounds(config.request_log_days, config.request_log_bytes))
    try:
        yield made
    finally:
        made.close()
