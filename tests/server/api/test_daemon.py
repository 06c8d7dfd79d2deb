"""What never ends must not keep a process that has ended otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest

WORDS = (
    "import time; from lorikeet_server.api.daemon import begun; begun(lambda: time.sleep(3600)); print('out')"
)


@pytest.mark.safety("reliability 1")
def test_the_process_ends_while_the_work_goes_on() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WORDS], timeout=60, check=True, capture_output=True, text=True
    )
    assert ended.stdout == "out\n"
