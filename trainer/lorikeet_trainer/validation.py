"""The loss on held-out rows while training runs: by the same trainer, a mean over tokens or pairs."""

from __future__ import annotations

from collections.abc import Sequence

from lorikeet_trainer.course import Validated
from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.row import Pair, Row
from lorikeet_trainer.tuner import Trainer, table

ACCURACIES = ("eval_rewards/accuracies", "eval_mean_token_accuracy")


def validate(trainer: Trainer, held: Dataset, batch_size: int) -> Validated:
    """Batch by batch: of several at once the trainer would give the mean of means, where short rows count more."""
    loss = accuracy = weight = 0.0
    contents = held.contents
    for start in range(0, len(contents), batch_size):
        batch = contents[start : start + batch_size]
        found = trainer.evaluate(eval_dataset=table(batch))
        share = _weight(batch)
        loss += share * found["eval_loss"]
        accuracy += share * next((found[key] for key in ACCURACIES if key in found), 0.0)
        weight += share
    return Validated(loss / weight, accuracy / weight)


def _weight(batch: Sequence[Row | Pair]) -> int:
    """What the trainer's own mean over a batch is over."""
    return sum(each.learned_tokens if isinstance(each, Row) else 1 for each in batch)
