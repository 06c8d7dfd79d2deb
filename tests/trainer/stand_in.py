"""A worker without a model: speaks `messages`, writes real checkpoints of a real adapter, obeys SIGTERM.

`python -m tests.trainer.stand_in ADAPTER FOLDER`: step n of its "training" is a pure function of the seed
and the step before, kept in the checkpoint, so a run that is killed must end with the bytes of one that is
not. The first row of the training file says how it ends: done, quarantined, failed, crash or hang.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from lorikeet_trainer.messages import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_STOPPED,
    Began,
    Done,
    Failed,
    Message,
    Phase,
    Saved,
    Stepped,
    Stopped,
    to_line,
)

STEPS, EVERY = 12, 3
STEP_S = 0.02
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class StandIn:
    def __init__(self, template: Path, folder: Path) -> None:
        self.template = template
        self.folder = folder
        self.request = json.loads((folder / "request.json").read_text())
        first = Path(self.request["training_file"]).read_text().partition("\n")[0]
        self.row = json.loads(first)
        self.total = self.row.get("steps", STEPS)
        self.stopping = False
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, *_: object) -> None:
        self.stopping = True

    def work(self) -> int:
        ending = self.row.get("ends", "done")
        say(Began(Phase.VALIDATING))
        if ending == "failed":
            say(Failed("invalid_training_file", "line 3, messages: no assistant turn", "training_file"))
            return EXIT_FAILED
        if ending.startswith("failed "):
            say(Failed(ending.removeprefix("failed "), "/secret/base cannot be loaded"))
            return EXIT_FAILED
        step, state = self.resumed()
        say(Began(Phase.TRAINING, self.total))
        while step < self.total:
            if self.stopping:
                self.save(step, state)
                say(Stopped(step))
                return EXIT_STOPPED
            time.sleep(STEP_S)  # what a step of a model would take
            step, state = (
                step + 1,
                hashlib.sha256(state + str(self.request["recipe"]["seed"]).encode()).digest(),
            )
            valid = 1.0 / step if step % EVERY == 0 else None
            say(
                Stepped(
                    step, self.total, 2.0 / step, 0.5, 1e-4, 8, 100.0, valid, None if valid is None else 0.5
                )
            )
            if step % EVERY == 0:
                self.save(step, state)
                if ending == "crash":
                    os.kill(os.getpid(), signal.SIGKILL)
            if ending == "crash early":
                os._exit(9)
            if ending == "hang":
                signal.pause()
        return self.end(ending, state)

    def end(self, ending: str, state: bytes) -> int:
        say(Began(Phase.GATING, self.total))
        self.write(self.folder / "adapter", state)
        record = {"base": {"source": "/secret/base", "quantization": "fp32"}}
        (self.folder / "adapter" / "training_provenance.json").write_text(json.dumps(record))
        bad = ending == "quarantined"
        say(Done("adapter", self.total, 96, 2.0 / self.total, bad, "worse than its parent" if bad else ""))
        return EXIT_DONE

    def resumed(self) -> tuple[int, bytes]:
        """The newest complete checkpoint, told again: whoever listened may have died before it heard."""
        found = sorted((self.folder / "checkpoints").glob("step-*"))
        for each in [*found]:
            if not (each / "complete").exists():
                shutil.rmtree(each)
        done = [each for each in found if each.exists()]
        if not done:
            return 0, b""
        step = int(done[-1].name.rpartition("-")[2])
        self.tell(step, done[-1])
        return step, (done[-1] / "state").read_bytes()

    def save(self, step: int, state: bytes) -> None:
        folder = self.folder / "checkpoints" / f"step-{step:06}"
        if not (folder / "complete").exists():
            self.write(folder, state)
            (folder / "state").write_bytes(state)
            (folder / "complete").touch()
        self.tell(step, folder)

    def tell(self, step: int, folder: Path) -> None:
        say(
            Saved(
                step, str(folder.relative_to(self.folder)), 2.0 / max(step, 1), 0.5, 1.0 / max(step, 1), 0.5
            )
        )

    def write(self, folder: Path, state: bytes) -> None:
        """The template's adapter, with one value of each tensor that depends on the whole way here."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        tensors = load_file(self.template / WEIGHTS)
        mark = np.float32(int.from_bytes(state[:2], "big") / 65536 + 0.01)
        for tensor in tensors.values():
            tensor.flat[0] = mark
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        shutil.copy(self.template / CONFIG, folder / CONFIG)


def say(message: Message) -> None:
    print(to_line(message), flush=True)


if __name__ == "__main__":
    sys.exit(StandIn(Path(sys.argv[1]), Path(sys.argv[2])).work())
