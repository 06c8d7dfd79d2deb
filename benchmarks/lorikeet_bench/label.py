"""What an arm is called, in documents and on the screen."""

from __future__ import annotations

from dataclasses import dataclass

BASE, ADAPTER, MERGED, MERGED_16, BLEND, MIXED = (
    "base",
    "adapter",
    "merged",
    "merged-16bit",
    "blend",
    "mixed",
)
PEFT, TRANSFORMERS = "peft", "transformers"


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """`rank` is that of the arm's adapters, `adapters` how many distinct ones a batch has; 0 is none."""

    arm: str
    rank: int = 0
    adapters: int = 0

    def __str__(self) -> str:
        return " ".join(
            [
                self.arm,
                *([f"x{self.adapters}"] if self.adapters > 1 else []),
                *([f"r{self.rank}"] if self.rank else []),
            ]
        )
