"""How an adapter is trained. Imports no torch, so that the command line can show its defaults."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.spec import MAX_RANK
from lorikeet_trainer.errors import RecipeRefused

# A sweep over many models saw nine runs in ten diverge here, and none get better above 1e-3.
DIVERGING_RATE = 3e-3
LEAST_STEPS = 100  # what a choice of epochs for the user aims at
MOST_EPOCHS = 10.0  # how often it repeats the rows to get there


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the user asked for; None is chosen by `plan` from the rows. Raises RecipeRefused when made.

    No `target_modules` means every linear module except the output head.
    """

    rank: int = 16
    alpha: float | None = None
    learning_rate: float = 2e-4
    epochs: float | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    seed: int = 0
    target_modules: tuple[str, ...] = ()
    quantization: Quantization = Quantization.NF4
    warmup_fraction: float = 0.05
    rslora: bool = False
    max_length: int | None = None

    def __post_init__(self) -> None:
        reasons = tuple(self._reasons())
        if reasons:
            raise RecipeRefused(reasons)

    def plan(self, rows: int, context: int, targets: tuple[str, ...]) -> Plan:
        """Everything resolved, for `rows` rows on a base of `context` positions that has the `targets`."""
        batch_size = min(self.batch_size or min(max(rows // 50, 4), 32), rows)
        per_epoch = math.ceil(rows / batch_size)
        steps = self.max_steps or max(1, math.ceil(per_epoch * (self.epochs or _epochs(rows, per_epoch))))
        return Plan(
            rank=self.rank,
            alpha=float(self.rank if self.alpha is None else self.alpha),
            learning_rate=self.learning_rate,
            steps=steps,
            epochs=steps / per_epoch,
            batch_size=batch_size,
            warmup_steps=min(math.ceil(steps * self.warmup_fraction), steps - 1),
            seed=self.seed,
            target_modules=targets,
            quantization=self.quantization,
            rslora=self.rslora,
            max_length=min(self.max_length or context, context),
        )

    def _reasons(self) -> Iterator[str]:
        if not 1 <= self.rank <= MAX_RANK:
            yield f"rank {self.rank} is not between 1 and {MAX_RANK}"
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            yield f"alpha {self.alpha:g} is not a positive number"
        if not 0 < self.learning_rate < math.inf:
            yield f"learning rate {self.learning_rate:g} is not a positive number"
        elif self.learning_rate >= DIVERGING_RATE:
            yield f"learning rate {self.learning_rate:g} diverges on most models; stay below {DIVERGING_RATE:g}"
        if self.epochs is not None and self.max_steps is not None:
            yield "epochs and max steps say the same thing twice; give one of them"
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            yield f"{self.epochs:g} epochs would train nothing"
        if not 0 <= self.warmup_fraction < 1:
            yield f"warm-up fraction {self.warmup_fraction:g} is not at least 0 and below 1"
        if not 0 <= self.seed < 2**32:
            yield f"seed {self.seed} is not between 0 and {2**32 - 1}"
        yield from self._too_small()

    def _too_small(self) -> Iterator[str]:
        counts = (
            ("max steps", self.max_steps),
            ("batch size", self.batch_size),
            ("max length", self.max_length),
        )
        for what, count in counts:
            if count is not None and count < 1:
                yield f"{what} {count} is below 1"


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe with nothing left open: what is run, and what provenance records."""

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
    max_length: int


def _epochs(rows: int, steps_per_epoch: int) -> float:
    by_size = 3.0 if rows < 500 else 2.0 if rows < 5000 else 1.0
    return min(max(by_size, LEAST_STEPS / steps_per_epoch), MOST_EPOCHS)
