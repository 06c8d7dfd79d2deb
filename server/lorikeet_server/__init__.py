"""The server. Its package is the first of ours that a process imports, so that it knows when that began."""

import time

STARTED = time.monotonic()
