"""What a job trains on and is judged by: its files, read, checked and split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.errors import DatasetRefused, RecipeRefused
from lorikeet_trainer.finding import RowFinding, Severity
from lorikeet_trainer.holdout import split
from lorikeet_trainer.jsonl import read_file
from lorikeet_trainer.loading import read_dataset
from lorikeet_trainer.parity import Held, hold_out
from lorikeet_trainer.recipe import Method
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.request import Request
from lorikeet_trainer.rules import Rules

FINDINGS_FILE = "findings.jsonl"
Warn = Callable[[str], None]


class FileRefused(DatasetRefused):
    """A DatasetRefused that knows which field of the request named the file."""

    def __init__(self, refused: DatasetRefused, name: str, param: str) -> None:
        super().__init__(name, refused.findings)
        self.param = param


@dataclass(frozen=True, slots=True)
class Material:
    """`held` is None where nothing is held out; `judged_by` are then rows that were trained on."""

    training: Dataset
    held: Dataset | None
    judged_by: tuple[Held, ...]

    @property
    def facts(self) -> dict[str, object]:
        """What decides what is trained on and validated by."""
        held = self.held
        return {
            "sha256": self.training.sha256,
            "rows": self.training.size,
            "validation_sha256": held.sha256 if held else None,
            "validation_rows": held.size if held else 0,
        }


def read_material(request: Request, renderer: Renderer, folder: Path, warn: Warn) -> Material:
    """Every finding goes into the job's findings.jsonl, whatever comes of them. Raises FileRefused, RecipeRefused."""
    (folder / FINDINGS_FILE).unlink(missing_ok=True)
    reader = _Reader(renderer, folder, warn)
    rules = Rules(max_length=request.recipe.max_length)
    training, data = reader.read(request.training_file, "training_file", rules)
    _refuse_other_method(training, request.recipe.method)
    if request.validation_file is None:
        training, held = split(training, request.recipe.validation_fraction)
    else:
        held, data = reader.read(request.validation_file, "validation_file", Rules.beside(training))
    if held is None:
        warn("no row is held out, so the adapter is judged by rows it was trained on")
    judged_by = hold_out(data, (held or training).contents)
    return Material(training, held, judged_by)


def read_findings(folder: Path) -> list[RowFinding]:
    """What the worker wrote of the files, in their order."""
    try:
        lines = (folder / FINDINGS_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = [RowFinding(**json.loads(line)) for line in lines]
    return [replace(each, severity=Severity(each.severity)) for each in found]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Writes down what it finds."""

    renderer: Renderer
    folder: Path
    warn: Warn

    def read(self, path: Path, param: str, rules: Rules) -> tuple[Dataset, bytes]:
        """The rows, and the file they stand in."""
        try:
            data = read_file(path)
            dataset = read_dataset(data, path.name, self.renderer, rules)
        except DatasetRefused as refused:
            self._write(refused.findings)
            raise FileRefused(refused, path.name, param) from refused
        self._write(dataset.warnings)
        codes = sorted({each.code for each in dataset.warnings})
        if codes:
            total = sum(each.times for each in dataset.warnings)
            self.warn(f"{path.name}: {total:,} warnings ({', '.join(codes)})")
        return dataset, data

    def _write(self, findings: Iterable[RowFinding]) -> None:
        with (self.folder / FINDINGS_FILE).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in findings)


def _refuse_other_method(dataset: Dataset, method: Method) -> None:
    fitting = Method.DPO if dataset.pairs else Method.SFT
    if method is not fitting:
        what = (
            "preferences between two answers" if dataset.pairs else "answers without a worse one beside them"
        )
        raise RecipeRefused(
            [f"the method is {method}, but {dataset.name} holds {what}; the method for it is {fitting}"]
        )
