"""What happens at each step of a run beside the step itself: the record, validation, checkpoints, stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lorikeet_trainer.errors import LossNotFinite
from lorikeet_trainer.history import LossPoint
from lorikeet_trainer.recipe import Plan

LONGEST_S = 600.0  # no more work than this is lost, however seldom checkpoints are due
ACCURACIES = ("rewards/accuracies", "mean_token_accuracy")  # DPO's, which has the other too, goes first


@dataclass(frozen=True, slots=True)
class Validated:
    """Means over the held-out rows: see LossPoint."""

    loss: float
    accuracy: float


class Stop(Protocol):
    """Whether someone asked the run to end."""

    @property
    def requested(self) -> bool: ...


@dataclass
class Never:
    """Nobody does."""

    requested: bool = False


@dataclass
class Marks:
    """What the run leaves behind as it goes. `history` holds what earlier runs of the same job did."""

    said: Callable[[LossPoint], None]
    validate: Callable[[], Validated | None] = lambda: None
    save: Callable[[LossPoint, bool], None] | None = None
    stop: Stop = field(default_factory=Never)
    history: list[LossPoint] = field(default_factory=list)


class Course(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Turns the trainer's logs into points, and ends the run at the first number that is none."""

    def __init__(self, plan: Plan, marks: Marks) -> None:
        self._plan = plan
        self._marks = marks
        self._tokens_before = marks.history[-1].tokens if marks.history else 0
        self._saved_at = time.monotonic()

    @property
    def finished(self) -> bool:
        """Nothing is left to do."""
        history = self._marks.history
        return bool(history) and (history[-1].step >= self._plan.steps or self._is_stale())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float],
        **kwargs: object,
    ) -> None:
        if "loss" not in logs:
            return  # a validation's, or the summary after the last step
        step = state.global_step
        for key, what in (("loss", "loss"), ("grad_norm", "gradient's norm")):
            if not math.isfinite(logs[key]):
                raise LossNotFinite(step, what, logs[key])
        due = step % self._plan.checkpoint_steps == 0 or step == self._plan.steps
        found = self._marks.validate() if due else None
        if found is not None and not math.isfinite(found.loss):
            raise LossNotFinite(step, "validation loss", found.loss)
        point = LossPoint(
            step=step,
            train_loss=logs["loss"],
            train_accuracy=next((logs[key] for key in ACCURACIES if key in logs), 0.0),
            learning_rate=logs["learning_rate"],
            tokens=self._tokens_before + int(logs["num_tokens"]),
            valid_loss=found.loss if found else None,
            valid_accuracy=found.accuracy if found else None,
        )
        self._marks.history.append(point)
        self._marks.said(point)
        stop = self._marks.stop.requested
        if self._marks.save is not None:
            late = time.monotonic() - self._saved_at > LONGEST_S
            control.should_save = due or stop or late or self.finished
        control.should_training_stop = control.should_training_stop or stop or self.finished

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self._marks.save is not None:
            self._marks.save(self._marks.history[-1], self.finished)
            self._saved_at = time.monotonic()

    def _is_stale(self) -> bool:
        """Has the validation loss not improved for as many checkpoints as early stopping waits?"""
        losses = [point.valid_loss for point in self._marks.history if point.valid_loss is not None]
        patience = self._plan.early_stopping
        return (
            patience is not None and len(losses) - losses.index(min(losses)) > patience if losses else False
        )
