"""What is known of a training job, its files, its events and its checkpoints, as values."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from lorikeet_trainer.jobs.lifecycle import OVER, JobState

ALPHABET = string.ascii_letters + string.digits
AUTO: Final = "auto"
MAX_ATTEMPTS = 5  # workers lost in a row without a new checkpoint
BASE_SHOWN, TENANT_SHOWN, MAX_SUFFIX = (
    16,
    16,
    64,
)  # with a step of seven digits the longest name has 128 bytes


class Method(StrEnum):
    SUPERVISED = "supervised"
    DPO = "dpo"


class Level(StrEnum):
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class FilePurpose(StrEnum):
    FINE_TUNE = "fine-tune"
    RESULTS = "fine-tune-results"


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file of one owner, empty for the operator; times in seconds since the epoch."""

    id: str
    owner: str
    purpose: FilePurpose
    filename: str
    bytes: int
    sha256: str
    created: float
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """None is chosen from the rows. `learning_rate_multiplier` multiplies the method's own rate."""

    n_epochs: int | None = None
    batch_size: int | None = None
    learning_rate_multiplier: float | None = None
    beta: float | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for. `model` is the base, or the adapter that training goes on from.

    `recipe` has what OpenAI's fields cannot say: rank, alpha and so on. `parent` is the adapter's generation.
    """

    model: str
    training_file: str
    validation_file: str | None = None
    method: Method = Method.SUPERVISED
    hyperparameters: Hyperparameters = Hyperparameters()
    suffix: str = ""
    seed: int = 0
    metadata: Mapping[str, str] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """As far as the worker has come, as it said itself."""

    phase: str = ""
    step: int = 0
    total_steps: int = 0
    train_loss: float | None = None
    valid_loss: float | None = None
    tokens: int = 0
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class JobFailure:
    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job came to. A generation without a model is quarantined: only the generation can be used."""

    model: str | None = None
    generation: str | None = None
    trained_tokens: int | None = None
    result_file: str | None = None
    error: JobFailure | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Which process has a job: a process id is used again, one with its start time is not."""

    pid: int
    started: float


@dataclass(frozen=True, slots=True)
class Job:
    """`attempt` counts workers lost since the last new checkpoint; `heard` is when the worker last spoke."""

    id: str
    owner: str
    order: Order
    created: float
    state: JobState = JobState.VALIDATING
    attempt: int = 0
    progress: Progress = Progress()
    outcome: Outcome = Outcome()
    lease: Lease | None = None
    heard: float | None = None
    started: float | None = None
    finished: float | None = None

    @property
    def is_over(self) -> bool:
        return self.state in OVER


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """`type` is `message` or `metrics`. `id` grows with time."""

    id: int
    job: str
    at: float
    level: Level
    message: str
    type: str = "message"
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobCheckpoint:
    """A state of training that can be served under `name`. `folder` is relative to the job's."""

    id: str
    job: str
    step: int
    folder: str
    name: str
    created: float
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    is_served: bool = False


def new_id(kind: str, length: int = 24) -> str:
    """Like `ftjob-` and random letters: nobody guesses another's."""
    return kind + "".join(secrets.choice(ALPHABET) for _ in range(length))


def model_name(base: str, job: Job) -> str:
    """The name of what a job trains, by OpenAI's pattern: `ft:BASE:OWNER:SUFFIX:ID`."""
    owner = _plain(job.owner, TENANT_SHOWN) or "local"
    return f"ft:{_plain(base.rpartition('/')[2], BASE_SHOWN)}:{owner}:{job.order.suffix}:{job.id[-8:]}"


def checkpoint_name(base: str, job: Job, step: int) -> str:
    return f"{model_name(base, job)}:ckpt-step-{step}"


def _plain(text: str, most: int) -> str:
    return "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in text)[
        :most
    ]
