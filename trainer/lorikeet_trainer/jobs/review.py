"""The process that checks data files: started when first needed, kept warm, ended when it is idle.

Its imports take seconds, and a large file minutes of a processor that answers need.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorikeet_trainer.jobs.briefing import Base
from lorikeet_trainer.jobs.errors import CheckFailed, CheckTimedOut

log = logging.getLogger("lorikeet")
COMMAND = (sys.executable, "-P", "-m", "lorikeet_trainer.review")  # -P: no module of the folder is imported
PATIENCE_S = 120.0
IDLE_S = 300.0


class Review:
    """Every method may be called from any thread; one file is checked at a time, in the order they come."""

    def __init__(
        self,
        base: Base,
        command: Sequence[str] = COMMAND,
        *,
        patience: float = PATIENCE_S,
        idle: float = IDLE_S,
    ) -> None:
        self._base = base
        self._command = command
        self._patience, self._idle = patience, idle
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._used = 0.0
        self._alarm: threading.Timer | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        process = self._process
        return None if process is None else process.pid

    def check(self, file: Path, name: str, line: int | None) -> dict[str, Any] | None:
        """The trainer's Report as a value of JSON; None for a file that is not there any more.

        `name` is what the report calls the file, `line` the row whose loss mask is shown, None the first that
        can be. Raises CheckFailed, CheckTimedOut.
        """
        question = {
            "model": self._base.source,
            "trust_remote_code": self._base.trust_remote_code,
            "file": str(file.resolve()),
            "name": name,
            "line": line,
        }
        with self._turn:
            answer = self._ask(json.dumps(question).encode() + b"\n")
            self._used = time.monotonic()
            self._set_alarm()
        report: dict[str, Any] | None = answer.get("report")
        return report

    def close(self) -> None:
        """For good; a check that is under way fails at once."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        with self._turn:
            self._end()
            if self._alarm is not None:
                self._alarm.cancel()

    def _ask(self, question: bytes) -> dict[str, Any]:
        process = self._running()
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        limit = threading.Timer(self._patience, give_up)
        limit.daemon = True
        limit.start()
        try:
            answer = _spoken(process, question)
        finally:
            limit.cancel()
        if answer is not None:
            return answer
        self._end()
        if late.is_set():
            raise CheckTimedOut(
                f"the file was not checked within {self._patience:g} s; "
                "`lorikeet data validate` checks it without a limit"
            )
        self._refuse_closed()
        log.error("the process that checks data files ended with %s", process.returncode)
        raise CheckFailed(
            "the process that checks files has ended; the next check starts it again, and the server's log "
            "has the reason"
        )

    def _running(self) -> subprocess.Popen[bytes]:
        """One that died while nobody asked is nobody's error."""
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # the terminal's Ctrl-C is the server's to pass on
            )
        try:
            self._refuse_closed()  # after it can be seen: `close` ends it, or is heard of here
        except CheckFailed:
            self._end()
            raise
        return self._process

    def _refuse_closed(self) -> None:
        if self._closed:
            raise CheckFailed("the server is stopping and checks no file")

    def _end(self) -> None:
        """Only by who has the turn."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what was written and never read
                if pipe is not None:
                    pipe.close()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = threading.Timer(self._idle, self._end_if_idle)
        self._alarm.daemon = True
        self._alarm.start()

    def _end_if_idle(self) -> None:
        with self._turn:
            if time.monotonic() - self._used >= self._idle:
                self._end()


def _spoken(process: subprocess.Popen[bytes], question: bytes) -> dict[str, Any] | None:
    """The answer; None where the process has ended without one."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(question)
        process.stdin.flush()
        line = process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
    except (OSError, ValueError):
        return None
    return answer or None
