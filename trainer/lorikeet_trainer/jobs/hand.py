"""A worker at work, as the supervisor has it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from lorikeet_trainer.jobs.process import WorkerProcess

log = logging.getLogger("lorikeet")
STOP_S = 300.0  # for a checkpoint, once a worker was told to stop


@dataclass(frozen=True, slots=True)
class Ended:
    """The last thing heard of a worker."""

    code: int


@dataclass(slots=True)
class Hand:
    """Since when it has been silent, or told to stop, in `time.monotonic` seconds."""

    process: WorkerProcess
    heard: float
    told: float | None = None
    killed: bool = False

    def watch(self, job: str, silence: float, *, stops: bool) -> None:
        """Tell it to stop, once; kill it when it does not, or has been silent for too long."""
        now = time.monotonic()
        if stops and self.told is None:
            self.told = now
            self.process.stop()
        late = self.told is not None and now - self.told > STOP_S
        if not self.killed and (late or now - self.heard > silence):
            log.warning("the worker of %s does not %s and is ended", job, "stop" if late else "speak")
            self.killed = True
            self.process.kill()
