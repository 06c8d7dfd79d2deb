"""A file on disk, or bytes at hand, to a dataset."""

from __future__ import annotations

from pathlib import Path

from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.jsonl import unreadable
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.rules import TRAINING, Rules
from lorikeet_trainer.validator import Watch, ignore, validate


def read_file(path: Path) -> bytes:
    """Raises DatasetRefused; what is said of the file names no folder."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def load_dataset(path: Path, renderer: Renderer, rules: Rules = TRAINING, watch: Watch = ignore) -> Dataset:
    """Read, check, render and mask. Raises DatasetRefused with every finding at once."""
    return read_dataset(read_file(path), path.name, renderer, rules, watch)


def read_dataset(
    data: bytes, name: str, renderer: Renderer, rules: Rules = TRAINING, watch: Watch = ignore
) -> Dataset:
    """`load_dataset` for bytes at hand."""
    return validate(data, name, renderer, rules, watch).dataset()
