"""Everything the trainer raises on purpose, below the tree of lorikeet_adapters.errors.

    LorikeetError
    ├── RefusedError
    │   ├── DatasetRefused       rows that cannot be trained on; carries findings
    │   ├── DeviceRefused        the machine has no such device
    │   ├── EvaluationRefused    what is to be judged cannot be judged
    │   ├── OutputRefused        the folder to be written is taken
    │   ├── ProvenanceBroken     an adapter's files are not those of its own record
    │   ├── RecipeRefused        settings that cannot work, each with its reason
    │   ├── RequestRefused       what is to be trained is not said in full, or in another version's words
    │   └── ResumeRefused        a run cannot go on, because what it is made from has changed
    ├── MergeInexact             a merged model that should say what is served, and does not
    └── TrainingFailed           training ran, and what came of it is not worth keeping
        ├── LossNotFinite        the loss or its gradient became NaN or infinite
        └── NothingLearned       every B matrix is still zero

To add one: subclass the branch whose fault it is and write one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lorikeet_adapters.errors import LorikeetError, RefusedError

if TYPE_CHECKING:
    from lorikeet_trainer.finding import RowFinding


class DatasetRefused(RefusedError):
    """A data file has at least one error; `findings` holds all of them, warnings too.

    `summary` is the last line for who has been shown the findings already.
    """

    def __init__(self, name: str, findings: Sequence[RowFinding]) -> None:
        self.findings = tuple(findings)
        errors = [finding for finding in self.findings if finding.is_error]
        total = sum(finding.times for finding in errors)
        count = f"{total:,} errors" if total > 1 else "1 error"
        self.summary = f"{name} cannot be used: {count}, shown above"
        more = f" (and {total - 1:,} more)" if total > 1 else ""
        super().__init__(f"{name} cannot be used: {errors[0].sentence}{more}")


class DeviceRefused(RefusedError):
    """The machine has no such device."""


class EvaluationRefused(RefusedError):
    """What is to be judged is missing, or does not fit the base."""


class OutputRefused(RefusedError):
    """The output folder exists and may not be replaced."""


class ProvenanceBroken(RefusedError):
    """An adapter's provenance, weights and digests do not belong together."""


class RecipeRefused(RefusedError):
    """A recipe that cannot work; `reasons` says why, one sentence a setting."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(self.reasons))


class RequestRefused(RefusedError):
    """A job's request cannot be read, or another worker has its folder."""


class ResumeRefused(RefusedError):
    """What the run was made from has changed; `field` names it."""

    def __init__(self, field: str, then: object, now: object) -> None:
        self.field = field
        super().__init__(
            f"the run cannot go on: its {field} was {then} when it was stopped and is {now} now; "
            "put it back as it was, or train anew in another folder"
        )


class MergeInexact(LorikeetError):
    """In float32 a merge changes nothing but the order of sums; this one changed more."""


class TrainingFailed(LorikeetError):
    """Training ran, and what came of it must not be kept."""


class LossNotFinite(TrainingFailed):
    """The loss or the norm of its gradient is NaN or infinite."""

    def __init__(self, step: int, what: str, value: float) -> None:
        self.step = step
        super().__init__(
            f"the {what} is {value} at step {step}; nothing of that step is saved. "
            "Lower the learning rate, or look for broken rows in the data"
        )


class NothingLearned(TrainingFailed):
    """An adapter whose B matrices are all zero adds nothing to the base."""
