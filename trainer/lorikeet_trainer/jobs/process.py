"""One worker process: started, listened to, told to stop, and known again after the server's own death."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from lorikeet_trainer.jobs.job import Lease
from lorikeet_trainer.messages import Message, from_line

log = logging.getLogger("lorikeet")
COMMAND = (sys.executable, "-P", "-m", "lorikeet_trainer.worker")  # -P: no module of the folder is imported
LOG = "worker.log"
HELD = "held"  # a lock that the worker inherits, so the kernel knows while one is there
MAX_LINE = 1 << 16


class WorkerProcess:
    """Calls `on_message` for each line and `on_end` with the exit code, both on a thread of its own."""

    def __init__(
        self,
        folder: Path,
        on_message: Callable[[Message], None],
        on_end: Callable[[int], None],
        command: Sequence[str] = COMMAND,
    ) -> None:
        with (folder / LOG).open("ab") as errors, (folder / HELD).open("wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._process = subprocess.Popen(
                [*command, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=[held.fileno()],
                start_new_session=True,  # the terminal's Ctrl-C is the server's to pass on
            )
        self.lease = lease_of(self._process.pid)
        self._on_message, self._on_end = on_message, on_end
        self._listening = threading.Thread(target=self._listen, name="job-worker", daemon=True)

    def listen(self) -> None:
        """From here on it is heard; what it said before was kept in the pipe."""
        self._listening.start()

    def stop(self) -> None:
        """Ask for a checkpoint and an end."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """With everything it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> bool:
        """Until everything it said has been passed on; False when that takes longer."""
        self._listening.join(seconds)
        return not self._listening.is_alive()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            while line := lines.readline(MAX_LINE):
                try:
                    self._on_message(from_line(line.decode()))
                except ValueError:
                    log.warning("a training worker said %r, which is no message", line[:200])
        self._on_end(self._process.wait())


def lease_of(pid: int) -> Lease:
    """A process that has ended already has no start time any more, and nobody to be taken for it."""
    try:
        return Lease(pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return Lease(pid, 0.0)


def end_orphan(folder: Path, lease: Lease | None, patience: float) -> bool:
    """Kill the worker that a dead server left in this folder; False when one is there that does not go."""
    if lease is not None:
        with suppress(psutil.Error, ProcessLookupError):
            found = psutil.Process(lease.pid)
            if abs(found.create_time() - lease.started) < 1.0:
                os.killpg(lease.pid, signal.SIGKILL)
                found.wait(patience)
    return _is_free(folder / HELD, patience)


def _is_free(held: Path, patience: float) -> bool:
    """A worker whose lease was never written down ends at its first word, as nobody listens; wait for that."""
    deadline = time.monotonic() + patience
    while held.exists():
        with held.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
        time.sleep(0.05)
    return True
