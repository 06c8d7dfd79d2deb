"""The server as a process of its own, and the `lorikeet` command in this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from lorikeet_adapters.lock import holder_url

START_S = 90.0
ENTRY = (sys.executable, "-c", "from lorikeet_server.cli import main; main()")


class ServerProcess:
    """One server over one data folder; started when its address is first asked for, and again after it ended."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.data = folder / "data"
        self._log = folder / "stderr.txt"
        self._output = folder / "stdout.txt"
        self._words = ["serve", "--port", "0", "--data-dir", str(self.data), *words]
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    @property
    def log(self) -> str:
        """What the current process has written to standard error."""
        return self._log.read_text()

    @property
    def output(self) -> str:
        """What it has written to standard output."""
        return self._output.read_text()

    @property
    def url(self) -> str:
        if self._process is None:
            with self._log.open("wb") as log, self._output.open("wb") as output:
                self._process = subprocess.Popen(
                    [*ENTRY, *self._words],
                    stdout=output,
                    stderr=log,
                    env={**os.environ, "HF_HUB_OFFLINE": "1"},
                )
            self._url = self._wait_until_ready(self._process)
        return self._url

    @property
    def is_over(self) -> bool:
        """Not started, or ended by `end`."""
        return self._process is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.send(number)
        assert self._process is not None
        code = self._process.wait(START_S)
        self._process = None
        return code

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def until_it_says(self, words: str) -> None:
        deadline = time.monotonic() + START_S
        while words not in self.log:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)

    def close(self) -> None:
        if self._process is not None:
            self.end(signal.SIGKILL)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> str:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert process.poll() is None, self.log
            url = holder_url(self.data)
            try:
                if url is not None and httpx.get(f"{url}/health/ready").status_code == 200:
                    return url
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.05)
        raise AssertionError(f"the server is not ready after {START_S} s:\n{self.log}")


def lorikeet(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200", **environment}
    return subprocess.run(
        [*ENTRY, *words], capture_output=True, text=True, check=False, env=env, timeout=START_S
    )
