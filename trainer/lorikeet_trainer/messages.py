"""What a training worker says: one JSON object a line on its standard output, nothing else there.

The worker is a process of its own, `python -m lorikeet_trainer.worker FOLDER`; FOLDER holds all that
the job is, so the same command in the same folder goes on where the last one stopped. It ends with
one `Done` (exit code 0) or one `Failed` (1); told to stop by SIGTERM it writes a checkpoint and says
`Stopped` (3). A worker that ends without any of the three was killed, and its job can be resumed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

EXIT_DONE, EXIT_FAILED, EXIT_STOPPED = 0, 1, 3


class Phase(StrEnum):
    """The stretches of a job's life inside the worker, in their order."""

    VALIDATING = "validating"
    LOADING = "loading"
    TRAINING = "training"
    EVALUATING = "evaluating"
    EXPORTING = "exporting"
    GATING = "gating"


@dataclass(frozen=True, slots=True)
class Began:
    """A phase began. `total_steps` is known from training on."""

    phase: Phase
    total_steps: int = 0


@dataclass(frozen=True, slots=True)
class Stepped:
    """One optimiser step; losses in nats a learned token. The validation figures are None in most steps."""

    step: int
    total_steps: int
    train_loss: float
    train_accuracy: float
    learning_rate: float
    tokens: int
    tokens_per_second: float
    valid_loss: float | None = None
    valid_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint is complete; `folder` is relative to the job's and a PEFT folder that can be served."""

    step: int
    folder: str
    train_loss: float
    train_accuracy: float
    valid_loss: float | None = None
    valid_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the owner of the job should read; it goes on."""

    message: str


@dataclass(frozen=True, slots=True)
class Done:
    """`folder` (relative to the job's) holds the adapter. An adapter that failed its gate is `quarantined`.

    `steps` and `trained_tokens` are what the run did; `final_loss` is that of the step that was kept.
    """

    folder: str
    steps: int
    trained_tokens: int
    final_loss: float
    quarantined: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """`code` is one for programs (invalid_training_file, loss_not_finite, ...), `param` the field at fault."""

    code: str
    message: str
    param: str = ""


@dataclass(frozen=True, slots=True)
class Stopped:
    """Told to stop; the work up to `step` is kept."""

    step: int


Message = Began | Stepped | Saved | Warned | Done | Failed | Stopped
KINDS: dict[str, type[Message]] = {
    kind.__name__.lower(): kind for kind in (Began, Stepped, Saved, Warned, Done, Failed, Stopped)
}


def to_line(message: Message) -> str:
    """Without the line break."""
    return json.dumps({"kind": type(message).__name__.lower(), **asdict(message)}, ensure_ascii=False)


def from_line(line: str) -> Message:
    """Raises ValueError for what no worker of this version says."""
    try:
        fields = json.loads(line)
        message = KINDS[fields.pop("kind")](**fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a worker's message: {line[:200]}") from error
    if isinstance(message, Began):
        return Began(Phase(message.phase), message.total_steps)
    return message
