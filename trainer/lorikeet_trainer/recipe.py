"""How an adapter is trained. Imports no torch, so that the command line can show its defaults."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.spec import MAX_RANK
from lorikeet_trainer.errors import RecipeRefused

# A sweep over many models saw nine runs in ten diverge here, and none get better above 1e-3.
DIVERGING_RATE = 3e-3
LEAST_STEPS = 100  # what a choice of epochs for the user aims at
MOST_EPOCHS = 10.0  # how often it repeats the rows to get there
CHECKPOINTS = 10  # a run writes about so many, and validates as often


class Method(StrEnum):
    """What is learned from: answers, or preferences between two answers."""

    SFT = "sft"
    DPO = "dpo"


class Initialisation(StrEnum):
    """How the pairs start. All of these leave the base as it is and start as a change of nothing."""

    DEFAULT = "default"
    GAUSSIAN = "gaussian"
    ORTHOGONAL = "orthogonal"


class Optimizer(StrEnum):
    ADAMW = "adamw"
    ADAMW_8BIT = "adamw_8bit"
    PAGED_ADAMW_8BIT = "paged_adamw_8bit"


class Tracker(StrEnum):
    WANDB = "wandb"
    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"


# DPO's as TRL and PEFT advise for adapters: ten times that of whole models.
RATES = {Method.SFT: 2e-4, Method.DPO: 5e-6}
REWRITE = "rewrites the base's weights, which every other adapter is served on"
REFUSED_INITIALISATIONS = {
    **dict.fromkeys(("pissa", "olora", "corda", "lora_ga", "loftq", "kasa"), REWRITE),
    "eva": "needs a pass over the data before training starts, which is not built",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the user asked for; None is chosen by `plan` from the rows. Raises RecipeRefused when made.

    No `target_modules` means every linear module except the output head. `packing` lays the rows of a
    batch end to end instead of padding them; None does so where the base was found to keep them apart.
    `early_stopping` counts checkpoints without a better validation loss; then the best one is kept.
    `validation_fraction` of the rows is held out where no validation file is given. `beta` is DPO's.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # who reads one from a file refuses what it knows not

    method: Method = Method.SFT
    rank: int = 16
    alpha: float | None = None
    learning_rate: float | None = None
    epochs: float | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    seed: int = 0
    target_modules: tuple[str, ...] = ()
    quantization: Quantization = Quantization.NF4
    warmup_fraction: float = 0.05
    rslora: bool = False
    dora: bool = False
    initialisation: Initialisation = Initialisation.DEFAULT
    max_length: int | None = None
    packing: bool | None = None
    gradient_checkpointing: bool | None = None
    optimizer: Optimizer = Optimizer.ADAMW
    beta: float = 0.1
    checkpoint_steps: int | None = None
    early_stopping: int | None = None
    validation_fraction: float = 0.05
    report_to: tuple[Tracker, ...] = ()
    any_learning_rate: bool = False

    def __post_init__(self) -> None:
        reasons = tuple(self._reasons())
        if reasons:
            raise RecipeRefused(reasons)

    @property
    def rate(self) -> float:
        return RATES[self.method] if self.learning_rate is None else self.learning_rate

    def plan(self, rows: int, context: int, targets: tuple[str, ...], *, packing: bool = False) -> Plan:
        """Everything resolved, for `rows` rows on a base of `context` positions that has the `targets`.

        `packing` is what came of asking whether the base allows it.
        """
        batch_size = min(self.batch_size or min(max(rows // 50, 4), 32), rows)
        per_epoch = math.ceil(rows / batch_size)
        steps = self.max_steps or max(1, math.ceil(per_epoch * (self.epochs or _epochs(rows, per_epoch))))
        return Plan(
            method=self.method,
            rank=self.rank,
            alpha=float(self.rank if self.alpha is None else self.alpha),
            learning_rate=self.rate,
            steps=steps,
            epochs=steps / per_epoch,
            batch_size=batch_size,
            warmup_steps=min(math.ceil(steps * self.warmup_fraction), steps - 1),
            seed=self.seed,
            target_modules=targets,
            quantization=self.quantization,
            rslora=self.rslora,
            dora=self.dora,
            initialisation=self.initialisation,
            max_length=min(self.max_length or context, context),
            packing=packing,
            optimizer=self.optimizer,
            beta=self.beta if self.method is Method.DPO else None,
            checkpoint_steps=self.checkpoint_steps or max(1, steps // CHECKPOINTS),
            early_stopping=self.early_stopping,
        )

    def _reasons(self) -> Iterator[str]:
        if not 1 <= self.rank <= MAX_RANK:
            yield f"rank {self.rank} is not between 1 and {MAX_RANK}"
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            yield f"alpha {self.alpha:g} is not a positive number"
        if not 0 < self.rate < math.inf:
            yield f"learning rate {self.rate:g} is not a positive number"
        elif self.rate >= DIVERGING_RATE and not self.any_learning_rate:
            yield (
                f"learning rate {self.rate:g} diverges on most models; stay below {DIVERGING_RATE:g}, "
                "or insist with any_learning_rate"
            )
        if self.epochs is not None and self.max_steps is not None:
            yield "epochs and max steps say the same thing twice; give one of them"
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            yield f"{self.epochs:g} epochs would train nothing"
        if not 0 <= self.warmup_fraction < 1:
            yield f"warm-up fraction {self.warmup_fraction:g} is not at least 0 and below 1"
        if not 0 <= self.validation_fraction <= 0.5:
            yield f"validation fraction {self.validation_fraction:g} is not between 0 and 0.5"
        if not 0 < self.beta < math.inf:
            yield f"beta {self.beta:g} is not a positive number"
        if not 0 <= self.seed < 2**32:
            yield f"seed {self.seed} is not between 0 and {2**32 - 1}"
        if self.method is Method.DPO and self.packing:
            yield "packing is for answers; DPO trains on pairs, which are padded"
        if self.dora and self.initialisation is not Initialisation.DEFAULT:
            yield "DoRA takes the default initialisation only"
        yield from self._too_small()

    def _too_small(self) -> Iterator[str]:
        counts = (
            ("max steps", self.max_steps),
            ("batch size", self.batch_size),
            ("max length", self.max_length),
            ("checkpoint steps", self.checkpoint_steps),
            ("early stopping", self.early_stopping),
        )
        for what, count in counts:
            if count is not None and count < 1:
                yield f"{what} {count} is below 1"


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe with nothing left open: what is run, and what provenance records. `beta` is None but for DPO."""

    method: Method
    rank: int
    alpha: float
    learning_rate: float
    steps: int
    epochs: float
    batch_size: int
    warmup_steps: int
    seed: int
    target_modules: tuple[str, ...]
    quantization: Quantization
    rslora: bool
    dora: bool
    initialisation: Initialisation
    max_length: int
    packing: bool
    optimizer: Optimizer
    beta: float | None
    checkpoint_steps: int
    early_stopping: int | None


def _epochs(rows: int, steps_per_epoch: int) -> float:
    by_size = 3.0 if rows < 500 else 2.0 if rows < 5000 else 1.0
    return min(max(by_size, LEAST_STEPS / steps_per_epoch), MOST_EPOCHS)
