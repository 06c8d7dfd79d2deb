"""What others can see of a running server: facts of the engine and of HTTP, as Prometheus reads them.

One process, one registry. Histograms never carry an adapter's name; counters do for a bounded number.
"""

from __future__ import annotations

from lorikeet_server.metrics.loads import LoadTimes
from lorikeet_server.metrics.requests import Metrics

__all__ = ["LoadTimes", "Metrics"]
