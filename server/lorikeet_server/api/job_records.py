"""How jobs, their events and their checkpoints look on the wire: OpenAI's objects, ours under `x_lorikeet`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lorikeet_trainer.jobs.job import AUTO, Hyperparameters, Job, JobCheckpoint, LoggedEvent, Method
from lorikeet_trainer.jobs.lifecycle import OUTER, JobState

EVENT = "ftevent-"
# OpenAI's figures of a checkpoint, and the worker's names for them.
FIGURES = {
    "train_loss": "train_loss",
    "train_mean_token_accuracy": "train_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_accuracy",
    "full_valid_loss": "valid_loss",  # every validation here is over all its rows
    "full_valid_mean_token_accuracy": "valid_accuracy",
}


def job_object(job: Job) -> dict[str, Any]:
    order, outcome = job.order, job.outcome
    hyperparameters = _hyperparameters(order.hyperparameters, order.method)
    return {
        "object": "fine_tuning.job",
        "id": job.id,
        "model": order.model,
        "created_at": int(job.created),
        "finished_at": None if job.finished is None else int(job.finished),
        "estimated_finish": None,
        "fine_tuned_model": outcome.model,
        "organization_id": f"org-{job.owner or 'local'}",
        "result_files": [] if outcome.result_file is None else [outcome.result_file],
        "status": OUTER[job.state],
        "training_file": order.training_file,
        "validation_file": order.validation_file,
        "hyperparameters": hyperparameters,
        "trained_tokens": outcome.trained_tokens,
        "error": None if outcome.error is None else asdict(outcome.error),
        "integrations": [],
        "seed": order.seed,
        "method": {"type": str(order.method), str(order.method): {"hyperparameters": hyperparameters}},
        "metadata": None if order.metadata is None else dict(order.metadata),
        "x_lorikeet": _ours(job),
    }


def event_object(event: LoggedEvent) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job.event",
        "id": event_id(event.id),
        "created_at": int(event.at),
        "level": str(event.level),
        "message": event.message,
        "type": event.type,
        "data": dict(event.data),
    }


def event_id(number: int) -> str:
    return f"{EVENT}{number}"


def event_number(text: str) -> int | None:
    """The counterpart of `event_id`; None for what is no event's id."""
    digits = text.removeprefix(EVENT)
    is_one = text.startswith(EVENT) and digits.isascii() and digits.isdigit() and len(digits) < 19
    return int(digits) if is_one else None


def checkpoint_object(checkpoint: JobCheckpoint) -> dict[str, Any]:
    figures = {key: checkpoint.metrics.get(name) for key, name in FIGURES.items()}
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": checkpoint.id,
        "created_at": int(checkpoint.created),
        "fine_tuned_model_checkpoint": checkpoint.name,
        "fine_tuning_job_id": checkpoint.job,
        "step_number": checkpoint.step,
        "metrics": {"step": checkpoint.step, **figures},
    }


def _hyperparameters(asked: Hyperparameters, method: Method) -> dict[str, Any]:
    found = {key: AUTO if value is None else value for key, value in asdict(asked).items()}
    if method is not Method.DPO:
        del found["beta"]
    return found


def _ours(job: Job) -> dict[str, Any]:
    """`generation` is what was trained; without a model it is quarantined and can be used by that alone."""
    progress = asdict(job.progress)
    phase = progress.pop("phase") or "starting"
    return {
        "phase": phase if job.state is JobState.RUNNING else str(job.state),
        **progress,
        "attempt": job.attempt,
        "started_at": None if job.started is None else int(job.started),
        "generation": job.outcome.generation,
        "quarantined": job.outcome.generation is not None and job.outcome.model is None,
        "parent": job.order.parent,
        "recipe": dict(job.order.recipe),
    }
