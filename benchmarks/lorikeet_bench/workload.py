"""What a serving run sends: which model, when, how long. Decided whole before the first request.

Arrivals are a gamma process: burstiness 1 is Poisson, below it comes in bursts, above it is more
regular. Popularity shapes are those of the literature on serving many adapters (Punica, S-LoRA).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from lorikeet_bench.plan import PlanRefused

WORDS = ("order", "chair", "parcel", "refund", "today", "thanks", "broken", "table", "late", "lamp")


class Popularity(StrEnum):
    """How requests spread over the models named."""

    IDENTICAL = "identical"  # all to the first
    DISTINCT = "distinct"  # each in its turn
    UNIFORM = "uniform"
    ZIPF = "zipf"  # the i-th with weight i^-skew
    POWER = "power"  # the place is N * u^(1/skew), u uniform: skew 1 is uniform, less is more skewed


class Dialect(StrEnum):
    """What a server understands beyond OpenAI's own fields."""

    FULL = "full"  # ignore_eos
    PLAIN = "plain"  # nothing; answers may end early
    LLAMA_CPP = "llama.cpp"  # ignore_eos, and a number in the place of a model is an adapter's


DEFAULT_SKEW = {Popularity.ZIPF: 1.5, Popularity.POWER: 0.3}
# The power law's literature draws numpy's power(alpha), whose most likely place is the last.


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: `at` in seconds from the start."""

    at: float
    model: str
    prompt: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Workload:
    """`rate` requests a second arrive (open loop), or, when it is None, `concurrency` are always under way.

    `nonce` stands before every prompt. A server that keeps the beginnings of prompts would otherwise
    answer the second run of one seed from its cache.

    Raises PlanRefused when it is made with a value that cannot be sent.
    """

    models: tuple[str, ...]
    requests: int = 200
    tokens: int = 64
    prompt_words: int = 32
    concurrency: int | None = 8
    rate: float | None = None
    burstiness: float = 1.0
    popularity: Popularity = Popularity.DISTINCT
    skew: float | None = None
    seed: int = 0
    nonce: str = ""
    dialect: Dialect = Dialect.FULL

    def __post_init__(self) -> None:
        if not self.models or not all(self.models):
            raise PlanRefused("--models names no model; write names with commas between, like demo,triage")
        if len(set(self.models)) < len(self.models):
            raise PlanRefused("--models names a model twice")
        for option, value in (
            ("--requests", self.requests),
            ("--prompt-words", self.prompt_words),
            ("--concurrency", 1 if self.concurrency is None else self.concurrency),
        ):
            if value < 1:
                raise PlanRefused(f"{option} is {value}, it must be at least 1")
        if self.tokens < 2:
            raise PlanRefused(f"--tokens is {self.tokens}, it must be at least 2: TPOT lies between two")
        if self.rate is not None and not 0 < self.rate <= 1e6:
            raise PlanRefused(f"--rate is {self.rate:g}, it must be above 0 and at most 1000000")
        if not 0 < self.burstiness <= 1000:
            raise PlanRefused(f"--burstiness is {self.burstiness:g}, it must be above 0 and at most 1000")
        if self.skew is not None and self.popularity not in DEFAULT_SKEW:
            raise PlanRefused(f"--skew says nothing about the popularity {self.popularity.value}")
        if self.skew is not None and not 0 < self.skew <= 100:
            raise PlanRefused(f"--skew is {self.skew:g}, it must be above 0 and at most 100")

    def asks(self) -> tuple[Ask, ...]:
        """The same for the same workload, whatever it is sent to."""
        draw = random.Random(self.seed)
        times = self._times(draw)
        models = self._models(draw)
        return tuple(
            Ask(at, model, self._prompt(draw), self.tokens) for at, model in zip(times, models, strict=True)
        )

    def warm_up(self, requests: int) -> tuple[Ask, ...]:
        """So many short ones for each model; none of their prompts begins one of `asks`."""
        draw = random.Random(f"{self.seed} warm-up")
        return tuple(
            Ask(0.0, model, f"warm-up {self._prompt(draw)}", 2)
            for model in self.models
            for _ in range(requests)
        )

    def _prompt(self, draw: random.Random) -> str:
        return " ".join([*filter(None, [self.nonce]), *draw.choices(WORDS, k=self.prompt_words)])

    def _times(self, draw: random.Random) -> Sequence[float]:
        if self.rate is None:
            return [0.0] * self.requests
        mean = 1 / self.rate
        gaps = (draw.gammavariate(self.burstiness, mean / self.burstiness) for _ in range(self.requests))
        return list(accumulate(gaps))

    def _models(self, draw: random.Random) -> Sequence[str]:
        count = len(self.models)
        skew = DEFAULT_SKEW.get(self.popularity, 1.0) if self.skew is None else self.skew
        place: dict[Popularity, Callable[[int], int]] = {
            Popularity.IDENTICAL: lambda turn: 0,
            Popularity.DISTINCT: lambda turn: turn % count,
            Popularity.UNIFORM: lambda turn: draw.randrange(count),
            Popularity.POWER: lambda turn: count - 1 - int(draw.random() ** (1 / skew) * count),
        }
        if self.popularity is Popularity.ZIPF:
            return draw.choices(self.models, [(i + 1) ** -skew for i in range(count)], k=self.requests)
        return [self.models[place[self.popularity](turn)] for turn in range(self.requests)]
