"""What a latency run is asked to do, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.spec import MAX_RANK

ADAPTERS = 4  # as many as the mixed arm has
LARGEST_BATCH = 256
FEWEST_REPETITIONS = 5  # a median of fewer has no interval worth printing


class PlanRefused(RefusedError):
    """An option is out of bounds; the message names it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`tokens` and `prompt_tokens` are per request; `rank` is that of adapters made at random.

    Raises PlanRefused when it is made with a value that cannot be measured.
    """

    model: str = "demo"
    quantization: Quantization = Quantization.AUTO
    batches: tuple[int, ...] = (1, 4)
    tokens: int = 64
    prompt_tokens: int = 32
    repetitions: int = FEWEST_REPETITIONS
    adapters: tuple[Path, ...] = ()
    rank: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.batches or len(set(self.batches)) < len(self.batches):
            raise PlanRefused("--batch wants one or more different sizes, like 1,4")
        _within("--batch", min(self.batches), 1, LARGEST_BATCH)
        _within("--batch", max(self.batches), 1, LARGEST_BATCH)
        _within("--tokens", self.tokens, 2)  # the time between tokens needs two of them
        _within("--prompt-tokens", self.prompt_tokens, 1)
        _within("--repeat", self.repetitions, FEWEST_REPETITIONS)
        _within("--rank", self.rank, 1, MAX_RANK)
        if len(self.adapters) > ADAPTERS:
            raise PlanRefused(f"--adapters names {len(self.adapters)} folders, the most is {ADAPTERS}")
        if len(set(self.adapters)) < len(self.adapters):
            raise PlanRefused("--adapters names a folder twice")


def parse_batches(text: str) -> tuple[int, ...]:
    """Read `1,4`. Raises PlanRefused when a part is no whole number."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise PlanRefused(f"--batch is {text!r}, not whole numbers with commas between, like 1,4") from error


def parse_folders(text: str) -> tuple[Path, ...]:
    """Read `DIR,DIR`; an empty text names none."""
    return tuple(Path(part) for part in text.split(",") if part)


def _within(option: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise PlanRefused(f"{option} is {value}, it must be {bounds}")
