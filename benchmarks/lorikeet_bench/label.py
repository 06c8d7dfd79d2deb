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
SPELLED_OUT = 2  # of more ranks than this, the smallest and the largest


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """`ranks` are those of the distinct adapters that a batch of the arm has, in their order."""

    arm: str
    ranks: tuple[int, ...] = ()

    @property
    def adapters(self) -> int:
        return len(self.ranks)

    def __str__(self) -> str:
        return " ".join(
            [
                self.arm,
                *([f"x{self.adapters}"] if self.adapters > 1 else []),
                *([f"r{self._ranks()}"] if self.ranks else []),
            ]
        )

    def _ranks(self) -> str:
        least, most = min(self.ranks), max(self.ranks)
        if least == most:
            return str(most)
        return "+".join(map(str, self.ranks)) if self.adapters <= SPELLED_OUT else f"{least}-{most}"
