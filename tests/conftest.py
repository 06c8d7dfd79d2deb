"""For every test: one torch thread and no hub, in this process and in those it starts."""

from __future__ import annotations

import os

# Tiny tensors on two threads wait for each other longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
