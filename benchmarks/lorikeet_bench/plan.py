"""What a latency run is asked to do, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.spec import MAX_RANK
from lorikeet_server.engine.config import KernelName

MOST_ADAPTERS = 64
DEFAULT_RANK = 16
PEER_RANK = 16  # at which PEFT and transformers run beside us, if it is among the ranks
LARGEST_BATCH = 256
FEWEST_REPETITIONS = 5  # a median of fewer has no interval worth printing


class PlanRefused(RefusedError):
    """An option is out of bounds; the message names it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`tokens` and `prompt_tokens` are per request; `ranks` are those of adapters made at random, a set for each.

    `ranks` may be left out, and must be where there are adapters to measure; if those are too few, random
    ones fill them up. `adapters` are the numbers of distinct adapters that share a batch, `folders` adapters to measure
    instead of random ones, `peers` whether PEFT and transformers run beside us, `kernel` what computes our arms.

    Raises PlanRefused when it is made with a value that cannot be measured.
    """

    model: str = "demo"
    quantization: Quantization = Quantization.AUTO
    batches: tuple[int, ...] = (1, 4)
    tokens: int = 64
    prompt_tokens: int = 32
    repetitions: int = FEWEST_REPETITIONS
    folders: tuple[Path, ...] = ()
    ranks: tuple[int, ...] = ()
    adapters: tuple[int, ...] = (1, 4)
    peers: bool = True
    kernel: KernelName = KernelName.AUTO
    seed: int = 0

    def __post_init__(self) -> None:
        _several("--batch", self.batches, LARGEST_BATCH)
        if self.ranks:
            _several("--ranks", self.ranks, MAX_RANK)
            self._check_random()
        _several("--adapters", self.adapters, MOST_ADAPTERS)
        _within("--tokens", self.tokens, 2)  # the time between tokens needs two of them
        _within("--prompt-tokens", self.prompt_tokens, 1)
        _within("--repeat", self.repetitions, FEWEST_REPETITIONS)
        if len(self.folders) > MOST_ADAPTERS:
            raise PlanRefused(f"--adapter names {len(self.folders)} folders, the most is {MOST_ADAPTERS}")
        if len(set(self.folders)) < len(self.folders):
            raise PlanRefused("--adapter names a folder twice")

    @property
    def distinct(self) -> int:
        """Adapters each set needs: the widest mixed batch's, and two for the blend."""
        return max(*self.adapters, 2)

    @property
    def random_ranks(self) -> tuple[int, ...]:
        return self.ranks or (DEFAULT_RANK,)

    @property
    def peer_rank(self) -> int:
        return PEER_RANK if PEER_RANK in self.random_ranks else self.random_ranks[0]

    def _check_random(self) -> None:
        if self.folders or self.model == "demo":
            theirs = "--adapter names adapters" if self.folders else "the demo base brings its own adapters"
            raise PlanRefused(f"--ranks is of adapters made at random, but {theirs}; leave it out")


def parse_numbers(option: str, text: str) -> tuple[int, ...]:
    """Read `1,4`. Raises PlanRefused when a part is no whole number."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise PlanRefused(f"{option} is {text!r}, not whole numbers with commas between, like 1,4") from error


def _several(option: str, values: tuple[int, ...], most: int) -> None:
    if not values or len(set(values)) < len(values):
        raise PlanRefused(f"{option} wants one or more different numbers, like 1,4")
    for value in (min(values), max(values)):
        _within(option, value, 1, most)


def _within(option: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise PlanRefused(f"{option} is {value}, it must be {bounds}")
