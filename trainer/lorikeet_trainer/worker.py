"""The training process: `python -m lorikeet_trainer.worker FOLDER`. What it says is in `messages`.

FOLDER/request.json is the job. Everything else in the folder is written here: checkpoints/, adapter/,
findings.jsonl, parity.json. One worker at a time has a folder.
"""

from __future__ import annotations

import fcntl
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lorikeet_adapters.errors import AdapterRefused, BaseModelRefused, LorikeetError
from lorikeet_trainer.device import Device, see_only
from lorikeet_trainer.errors import (
    DatasetRefused,
    DeviceRefused,
    EvaluationRefused,
    LossNotFinite,
    NothingLearned,
    RecipeRefused,
    RequestRefused,
    ResumeRefused,
)
from lorikeet_trainer.messages import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, Failed, Message, Stopped, to_line
from lorikeet_trainer.request import Request
from lorikeet_trainer.stop import Signal, StopNow

LOCK_FILE = "worker.lock"
# By class, the nearest ancestor first.
CODES: dict[type[BaseException], str] = {
    AdapterRefused: "invalid_parent",
    BaseModelRefused: "base_model_refused",
    DatasetRefused: "invalid_training_file",
    DeviceRefused: "no_such_device",
    EvaluationRefused: "cannot_judge",
    LossNotFinite: "loss_not_finite",
    NothingLearned: "nothing_learned",
    RecipeRefused: "invalid_recipe",
    RequestRefused: "invalid_request",
    ResumeRefused: "cannot_resume",
    LorikeetError: "refused",
    MemoryError: "out_of_memory",
    OSError: "cannot_write",
    BaseException: "internal_error",
}


class Voice:
    """Standard output for messages alone: what libraries print goes to standard error."""

    def __init__(self, stop: Signal) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._stop = stop
        self._heard = True
        os.dup2(2, 1)

    def say(self, message: Message) -> None:
        """When nobody listens any more, the work so far is kept and no more is done."""
        if not self._heard:
            return
        try:
            self._out.write(to_line(message) + "\n")
            self._out.flush()
        except BrokenPipeError:
            self._heard = False
            self._stop.ask()


def main(folder: Path) -> int:
    stop = Signal()
    stop.install()
    voice = Voice(stop)
    try:
        with held(folder):
            voice.say(_work(folder, voice, stop))
        return EXIT_DONE
    except StopNow:
        voice.say(Stopped(_step(folder)))
        return EXIT_STOPPED
    except Exception as error:
        if code_of(error) == "internal_error":
            traceback.print_exc()
        voice.say(failed(error))
        return EXIT_FAILED


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder is ours until the process ends. Raises RequestRefused when it is another's."""
    try:
        file = (folder / LOCK_FILE).open("a")
    except OSError as error:
        raise RequestRefused(f"`{folder}` is no job's folder: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestRefused(
                f"another worker is at work in `{folder}`; wait for its end, or stop it"
            ) from None
        yield


def failed(error: Exception) -> Failed:
    """What went wrong, for the job's owner."""
    code = code_of(error)
    param = getattr(error, "param", None) or getattr(error, "field", None) or ""
    if param == "validation_file":
        code = "invalid_validation_file"
    message = str(error) or type(error).__name__
    if code == "internal_error":
        message = f"{type(error).__name__}: {message}"
    return Failed(code, message, param)


def code_of(error: BaseException) -> str:
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is a RuntimeError
        return "out_of_memory"
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def _work(folder: Path, voice: Voice, stop: Signal) -> Message:
    request = Request.read(folder)
    if request.device is Device.CUDA:
        see_only(request.device_index)
    import torch

    if request.threads:
        torch.set_num_threads(request.threads)
    from lorikeet_trainer.run import Run

    return Run(folder, request, voice.say, stop).work()


def _step(folder: Path) -> int:
    from lorikeet_trainer.checkpoint import Checkpoints

    newest = Checkpoints(folder).newest()
    return newest.step if newest else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m lorikeet_trainer.worker FOLDER")
    sys.exit(main(Path(sys.argv[1])))
