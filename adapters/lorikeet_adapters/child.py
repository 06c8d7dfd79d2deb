"""A script of this package in a process of its own: it can hang, grow or crash without touching the caller."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

log = logging.getLogger("lorikeet")
HERE = Path(__file__).parent
MAX_LOGGED = 4000  # characters of what a failed script had to say


class ChildTimeout(Exception):
    """The script ran past its time and was killed."""


class ChildDied(Exception):
    """The script ended without an answer."""


class Child:
    """Runs `python -I SCRIPT REQUEST`; the script answers with one JSON object on standard output.

    Isolated: no module of the working directory or of PYTHONPATH can take a library's place. Killed at
    the end of `with`, whatever happens. `request["parent"]` is a file descriptor that reaches its end
    when the caller dies, for a script that could outlive it.
    """

    def __init__(
        self,
        script: str,
        request: Mapping[str, object],
        environment: Mapping[str, str],
        stdin: IO[bytes] | None = None,
    ) -> None:
        self._script = script
        theirs, self._ours = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(HERE / script), json.dumps({**request, "parent": theirs})],
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs],
                env=dict(environment),
                start_new_session=True,  # the terminal's Ctrl-C is the caller's to pass on
            )
        except BaseException:
            os.close(self._ours)
            raise
        finally:
            os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        with self._process:  # closes the pipes and waits
            os.close(self._ours)

    def kill(self) -> None:
        """From any thread; `wait` then raises ChildDied."""
        self._process.kill()

    def wait(self, timeout: float) -> dict[str, Any]:
        """The script's answer. Raises ChildTimeout after `timeout` seconds, ChildDied when there is none."""
        try:
            out, err = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ChildTimeout from None
        try:
            answer: dict[str, Any] = json.loads(out)
        except ValueError:
            said = err.decode(errors="replace")[-MAX_LOGGED:]
            log.warning("%s ended with %s: %s", self._script, self._process.returncode, said)
            raise ChildDied from None
        return answer
