"""How far each way of serving an adapter moves its outputs: merging into 4 bits is another function.

Measured on the demo base and its four adapters over held-out rows, teacher-forced on the reference
answers. The yardstick is the adapter unmerged on the unquantised base in fp32; every arm is
compared with it position by position.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.table import Table

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.mix import BASE_MIX, Mix, Term
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_bench.adapter import fetch
from lorikeet_bench.arms import NO_TEXT
from lorikeet_bench.machine import Machine
from lorikeet_bench.merged import hold_merged, write_merged
from lorikeet_bench.percentile import percentile
from lorikeet_bench.plan import PlanRefused
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_trainer.demo.tasks import TASKS, rows
from lorikeet_trainer.demo_evaluation import demo_adapters
from lorikeet_trainer.loading import read_dataset
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.row import Row
from lorikeet_trainer.rules import HELD_OUT

FORMS = (Quantization.BF16, Quantization.INT8, Quantization.NF4)
BASE, ADAPTER, MERGED = "base alone", "adapter", "merged"


@dataclass(frozen=True, slots=True)
class Distance:
    """Of one arm from the yardstick, over all positions; KL in nats, of the yardstick from the arm."""

    arm: str
    quantization: str
    positions: int
    mean_kl: float
    p99_kl: float
    top1_agreement: float


Outputs = list[torch.Tensor]  # a row's log-probabilities, [answer tokens, vocabulary]


def run(count: int, machine: Callable[[], Machine], advance: Callable[[str], None]) -> dict[str, Any]:
    """`count` rows a task; returns the document. `advance` is called after each of `steps()` pieces of work."""
    if count < 1:
        raise PlanRefused(f"--rows is {count}, it must be at least 1")
    started, adapters = datetime.now(UTC), demo_adapters()
    data = dict(_held_out(count))
    kls: dict[tuple[str, Quantization], list[float]] = {}
    same: dict[tuple[str, Quantization], list[float]] = {}
    wanted = {name: _outputs(load_base("demo", "fp32"), adapters[name], data[name]) for name in adapters}
    advance("the yardstick")
    for arm, form, name, outputs in _arms(adapters, data, advance):
        for exact, given in zip(wanted[name], outputs, strict=True):
            kls.setdefault((arm, form), []).extend((exact.exp() * (exact - given)).sum(-1).tolist())
            same.setdefault((arm, form), []).extend((exact.argmax(-1) == given.argmax(-1)).float().tolist())
    found = [
        Distance(arm, form.value, len(values), fmean(values), percentile(values, 99), fmean(same[arm, form]))
        for (arm, form), values in kls.items()
    ]
    return {
        "benchmark": "fidelity",
        "backend": "lorikeet",
        "date": started.isoformat(timespec="seconds"),
        "model_id": "demo",
        "adapter_names": list(adapters),
        "rows_per_adapter": count,
        "reference": "adapter, unmerged, on the fp32 base",
        **asdict(machine()),
        "results": [asdict(each) for each in found],
    }


def steps() -> int:
    """How often `run` will call `advance`."""
    return 1 + len(FORMS) * (1 + len(demo_adapters()))


def make_table(document: Mapping[str, Any]) -> Table:
    """One row an arm; fits eighty columns."""
    table = Table(
        title=f"distance from {document['reference']}",
        caption=(
            f"Held-out rows, {document['rows_per_adapter']} for each of {', '.join(document['adapter_names'])}; "
            "KL in nats a position. Adapters are merged in fp32, then held as said."
        ),
        caption_justify="left",
        caption_style="none",
    )
    for heading in ("arm", "held as", "mean KL", "p99 KL", "top-1 the same"):
        table.add_column(heading, justify="left" if heading in ("arm", "held as") else "right", no_wrap=True)
    for row in document["results"]:
        table.add_row(
            row["arm"],
            row["quantization"],
            f"{row['mean_kl']:.2e}",
            f"{row['p99_kl']:.2e}",
            f"{row['top1_agreement']:.2%}",
        )
    return table


def _arms(
    adapters: Mapping[str, Path], data: Mapping[str, Sequence[Row]], advance: Callable[[str], None]
) -> Iterator[tuple[str, Quantization, str, Outputs]]:
    for form in FORMS:
        for name, folder in adapters.items():
            yield BASE, form, name, _outputs(load_base("demo", form.value), None, data[name])
            yield ADAPTER, form, name, _outputs(load_base("demo", form.value), folder, data[name])
        advance(f"unmerged, {form.value}")
        for name, folder in adapters.items():
            with tempfile.TemporaryDirectory(prefix="lorikeet-bench-") as scratch:
                plain = load_base("demo", "fp32")
                merged = hold_merged(plain, write_merged(plain, folder, Path(scratch)), form)
                yield MERGED, form, name, _outputs(merged, None, data[name])
            advance(f"{name} merged, {form.value}")


def _held_out(count: int) -> Iterator[tuple[str, tuple[Row, ...]]]:
    renderer = Renderer.load("demo")
    for name in TASKS:
        lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in rows(name, "heldout", count, 0))
        yield name, read_dataset("".join(lines).encode(), name, renderer, HELD_OUT).rows


def _outputs(base: BaseModel, folder: Path | None, data: Sequence[Row]) -> Outputs:
    """Through the serving path: the runner's own forward, rank rows and all."""
    held: dict[str, AdapterWeights] = {}
    mix = BASE_MIX
    if folder is not None:
        held = {"a": fetch(base, folder)}
        mix = Mix.of([Term("a", 1.0)])
    config = EngineConfig(rank_rows=max([1, *(each.rank for each in held.values())]))
    with closing(Engine(base, config, NO_TEXT, held.__getitem__)) as engine:
        for generation, weights in held.items():
            engine.runner.rank_rows.insert(generation, weights)
        return [engine.runner.distributions(row.prompt, row.reference, mix) for row in data]
