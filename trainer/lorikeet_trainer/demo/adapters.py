"""Make the demo's four adapters as any user would, and prove them: `python -m lorikeet_trainer.demo.adapters`.

Each is trained by `lorikeet_trainer.train` on the NF4 demo base from the rows of its task. Then all
four are judged through the serving engine on held-out messages; an adapter below the bound, a base
above it or a blend that does not follow its dial ends with status 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from lorikeet_adapters.errors import LorikeetError
from lorikeet_trainer.demo.tasks import TASKS, Task, write
from lorikeet_trainer.demo_evaluation import DemoReport, demo_adapters
from lorikeet_trainer.device import Device
from lorikeet_trainer.judge import HeldBase
from lorikeet_trainer.progress import display_on
from lorikeet_trainer.recipe import Recipe
from lorikeet_trainer.train import Job, train
from lorikeet_trainer.verdict import judge_demo

LEAST_SOLVED: Final = 0.90
MOST_BY_BASE: Final = 0.40
TRAIN_ROWS: Final = 2000
SEED: Final = 0


def _recipe(rank: int, steps: int) -> Recipe:
    """Small models want large rates: the literature's 2e-4 is for billions of parameters."""
    return Recipe(rank=rank, alpha=2 * rank, learning_rate=2e-3, max_steps=steps, batch_size=16, seed=SEED)


# Four ranks, so that the demo shows adapters of different sizes in one batch.
RECIPES: Final[dict[Task, Recipe]] = {
    "triage": _recipe(8, 200),
    "extract": _recipe(16, 350),
    "formal": _recipe(8, 350),
    "friendly": _recipe(4, 350),
}


def make(task: Task, rows: Path, out: Path, console: Console) -> None:
    """Train one task's adapter on the demo base into `out`, replacing what is there."""
    console.print(f"{task}, rank {RECIPES[task].rank}", highlight=False)
    made = train(Job(rows, out, "demo", recipe=RECIPES[task], force=True), display_on(console))
    console.print(f"{task}: loss {made.final_loss:.4f}", highlight=False)


def shortfalls(report: DemoReport) -> Iterator[str]:
    """What keeps the adapters from being shipped; nothing when all is well."""
    for each in report.tasks:
        if each.adapter < LEAST_SOLVED:
            yield f"{each.task} solves {each.adapter:.1%} of the held-out rows, at least {LEAST_SOLVED:.0%} are wanted"
        if each.base >= MOST_BY_BASE:
            yield f"the base alone solves {each.base:.1%} of {each.task}, the adapter shows nothing"
    if not report.is_monotone:
        yield "blending formal and friendly does not follow the dial"


def main(arguments: list[str] | None = None) -> int:
    """Command line: train the tasks named (all of them by default), then judge all four."""
    parser = argparse.ArgumentParser(description="Make and prove the demo adapters.")
    parser.add_argument("--task", action="append", choices=TASKS, help="repeat it; default: all four")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    console = Console()
    try:
        with tempfile.TemporaryDirectory(prefix="lorikeet-demo-") as folder:
            write(Path(folder), {"train": TRAIN_ROWS}, SEED)
            for task in chosen.task or TASKS:
                make(task, Path(folder) / f"{task}.train.jsonl", demo_adapters()[task], console)
        verdict = judge_demo(HeldBase("demo", "nf4", Device.CPU))
    except LorikeetError as error:
        print(error, file=sys.stderr)
        return 1
    console.print(*verdict.tables(), sep="\n")
    reasons = list(shortfalls(verdict.report))
    for reason in reasons:
        print(reason, file=sys.stderr)
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
