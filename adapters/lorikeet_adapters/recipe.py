"""How adapters are combined into a new one; `compose` carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lorikeet_adapters.errors import ComposeRefused


class Method(StrEnum):
    CAT = "cat"
    SVD = "svd"
    TIES = "ties"
    DARE_LINEAR = "dare_linear"
    DARE_TIES = "dare_ties"
    MAGNITUDE_PRUNE = "magnitude_prune"


class MajoritySign(StrEnum):
    TOTAL = "total"
    FREQUENCY = "frequency"


@dataclass(frozen=True, slots=True)
class Recipe:
    """`density` is the share of values that pruning keeps; `rank` is svd's, 0 the largest of the parts'."""

    method: Method = Method.CAT
    density: float = 0.5
    majority_sign: MajoritySign = MajoritySign.TOTAL
    rank: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.density <= 1.0:
            raise ComposeRefused(f"density is {self.density:g}, a share above 0 and at most 1", "density")
        if self.rank < 0 or (self.rank and self.method is not Method.SVD):
            raise ComposeRefused(
                "rank is svd's, a positive number; leave it out for the other methods", "rank"
            )
