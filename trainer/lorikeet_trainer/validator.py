"""The validator: a data file, checked whole and turned into rows. Every command and route uses this one."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.errors import DatasetRefused
from lorikeet_trainer.example import DataFormat
from lorikeet_trainer.finding import RowFinding
from lorikeet_trainer.making import make_rows
from lorikeet_trainer.reading import Reading
from lorikeet_trainer.remarks import (
    double_starts,
    duplicates,
    few_rows,
    imbalance,
    overlong_rows,
    truncation,
)
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.row import Pair, Row
from lorikeet_trainer.rules import TRAINING, Rules
from lorikeet_trainer.workbench import Workbench

Watch = Callable[[int, int], None]  # lines read, lines in all


def ignore(done: int, total: int) -> None:
    """Watch nothing."""


@dataclass(frozen=True, slots=True)
class Validated:
    """What a file turned out to be. `records` counts the rows that stand in it, good or bad.

    `limit` is the longest sequence in tokens. `findings` are in the order of the file, those about
    the whole of it first; of each code the first hundred, and one that stands for the rest. After ten
    thousand errors the rest of the file is not read.
    """

    name: str
    sha256: str
    format: DataFormat | None
    records: int
    limit: int
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    labels: tuple[str, ...]
    findings: tuple[RowFinding, ...]

    @property
    def is_usable(self) -> bool:
        return not any(finding.is_error for finding in self.findings)

    def dataset(self) -> Dataset:
        """Raises DatasetRefused with every finding at once."""
        if self.format is None or not self.is_usable:
            raise DatasetRefused(self.name, self.findings)
        return Dataset(self.name, self.sha256, self.format, self.rows, self.pairs, self.labels, self.findings)


def validate(
    data: bytes, name: str, renderer: Renderer, rules: Rules = TRAINING, watch: Watch = ignore
) -> Validated:
    """Never raises for what stands in `data`; `name` is what the findings' reader calls it."""
    limit = min(rules.max_length or renderer.context, renderer.context)
    bench = Workbench.of(renderer, limit)
    reading = Reading(renderer.tokenizer, rules)
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    rows: list[Row] = []
    pairs: list[Pair] = []
    with _uncollected():
        for made in make_rows(bench, reading.examples(data)):
            rows += [each for each in made if isinstance(each, Row)]
            pairs += [each for each in made if isinstance(each, Pair)]
            reading.findings.add(each for each in made if isinstance(each, RowFinding))
            watch(reading.line, lines)
    made_: list[Row | Pair] = [*rows, *pairs]
    reading.findings.add(_remarks(bench, reading, rules, made_))
    labels = rules.labels or tuple(sorted(reading.labels))
    if reading.format is DataFormat.CLASSIFICATION:
        reading.findings.add(imbalance(rows, labels))
    return Validated(
        name,
        hashlib.sha256(data).hexdigest(),
        reading.format,
        reading.records,
        limit,
        tuple(rows),
        tuple(pairs),
        labels,
        reading.findings.listed(),
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """The garbage collector would look through all rows made so far, again and again: a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _remarks(
    bench: Workbench, reading: Reading, rules: Rules, made: list[Row | Pair]
) -> Iterator[RowFinding]:
    """About the file as a whole."""
    yield from overlong_rows(bench.overlong, bench.limit, may_cut=rules.may_cut)
    yield from duplicates(made)
    yield from double_starts(made, bench.renderer.tokenizer.bos_token_id)
    if not reading.records:
        yield RowFinding(0, "", "no_rows", "there is no row in it", "write one JSON object per line")
        return
    if reading.stopped:
        return  # nobody knows how many there are
    left_out = sum(not each.kept for each in bench.overlong) if rules.may_cut else 0
    yield from few_rows(reading.records - left_out, rules.least_rows)
    if rules.may_cut:
        tokens = sum(each.tokens for each in made)
        yield from truncation(bench.overlong, reading.records, tokens)
