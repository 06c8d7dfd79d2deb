"""A process of its own that asks one address again and again: `python -m tests.prober URL`, ended by its standard input.

Its last line is one JSON list: how many seconds after it was due to be asked for each answer came; -1 for one that
did not come or was not 200.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time
from urllib.parse import urlsplit

PAUSE_S = 0.1
GIVEN_UP_S = 30.0


def probe(url: str) -> list[float]:
    """Ask until standard input ends, at moments fixed before: an answer that is late has kept the next ones waiting."""
    parts = urlsplit(url)
    taken: list[float] = []
    wire = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=GIVEN_UP_S)
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(due - time.monotonic(), 0.0))[0]:
        try:
            wire.request("GET", parts.path)
            answer = wire.getresponse()
            answer.read()
            taken.append(time.monotonic() - due if answer.status == 200 else -1.0)
        except OSError:
            taken.append(-1.0)
            wire.close()
        due += PAUSE_S
    return taken


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
