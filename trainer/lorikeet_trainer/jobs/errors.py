"""What can go wrong around a training job, below the tree of lorikeet_adapters.errors.

    LorikeetError
    └── JobError
        ├── JobNotFound          no such job, or another tenant's
        ├── FileMissing          no such file, or another tenant's
        ├── FileInUse            a job that is not over needs the file
        ├── FilesTooLarge        more bytes of files than the data folder takes from one owner
        ├── CheckFailed          the process that checks files has ended
        ├── CheckTimedOut        a file was not checked in time
        ├── JobRefused           what is asked cannot be trained
        ├── JobConflict          the job is in no state for this
        ├── JobsWaiting          as many jobs of this owner as may wait
        ├── TrainingUnavailable  this server does not train
        └── TrainingBroken       it did, until an error ended that

To add one: subclass, one sentence, and a row in `lorikeet_server.errors.TABLE`.
"""

from __future__ import annotations

from lorikeet_adapters.errors import LorikeetError


class JobError(LorikeetError):
    """Root of what this package raises; `param` is the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class JobNotFound(JobError):
    """No such job for whoever asks."""

    def __init__(self, job: str) -> None:
        super().__init__(
            f"there is no fine-tuning job {job[:64]!r}; GET /v1/fine_tuning/jobs lists those there are"
        )


class FileMissing(JobError):
    """No such file for whoever asks."""

    def __init__(self, file: str, param: str | None = None) -> None:
        super().__init__(f"there is no file {file[:64]!r}; GET /v1/files lists those there are", param)


class FileInUse(JobError):
    """A job that is not over needs the file."""


class FilesTooLarge(JobError):
    """The files of one owner are more bytes than the data folder takes."""


class CheckFailed(JobError):
    """The process that checks files ended before it had answered."""


class CheckTimedOut(JobError):
    """A file was not checked in time."""


class JobRefused(JobError):
    """What is asked cannot be trained."""


class JobConflict(JobError):
    """The job is in no state in which this can be done."""


class JobsWaiting(JobError):
    """As many jobs of this owner as may be open are open."""


class TrainingUnavailable(JobError):
    """This server does not train."""


class TrainingBroken(JobError):
    """What runs the jobs has ended by an error; they wait for the next start."""
