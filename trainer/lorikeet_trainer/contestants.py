"""What the words of a command name: adapters in folders or in the data folder, and the parents of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lorikeet_adapters.notes import ServedBase
from lorikeet_adapters.origin import Parent, read_parent, tensors_sha256
from lorikeet_adapters.shelf import Shelf
from lorikeet_adapters.source import WEIGHTS_FILE


@dataclass(frozen=True, slots=True)
class Contestants:
    """Folders by name, a parent before the adapter that was trained on from it.

    `base` is the one that the data folder was last served with, where it was asked for an adapter;
    `missing` are parents that lie nowhere, by the adapter that names them.
    """

    folders: Mapping[str, Path]
    base: ServedBase | None
    missing: Mapping[str, str]

    def base_of(self, model: str | None, quantization: str | None) -> tuple[str, str]:
        """Source and form: what was said, else what the data folder was last served with, else the demo's."""
        source = model or (self.base.source if self.base else "demo")
        known = self.base.quantization if self.base and self.base.source == source else ""
        return source, quantization or known or "nf4"


@contextmanager
def find_contestants(named: Mapping[str, Path | None], data_dir: Path) -> Iterator[Contestants]:
    """`named` maps names to folders; None is a name that is registered in the data folder.

    Registered adapters are copied out for as long as `with` lasts. Raises RefusedError and StoreError.
    """
    asked = [name for name, folder in named.items() if folder is None]
    shelf = Shelf(data_dir) if asked or data_dir.is_dir() else None
    folders: dict[str, Path] = {}
    missing: dict[str, str] = {}
    with TemporaryDirectory(prefix="lorikeet-eval-") as scratch:
        for name, folder in named.items():
            if folder is None:
                assert shelf is not None, "a registered name opens the data folder"
                folder = shelf.take(shelf.find(name), Path(scratch) / name)
            parent = read_parent(folder / WEIGHTS_FILE)
            if parent is not None:
                taken = None if shelf is None else _take_parent(shelf, parent, Path(scratch) / f".{name}")
                if taken is None:
                    missing[name] = parent.name
                else:
                    folders[f"{name}'s parent"] = taken
            folders[name] = folder
        yield Contestants(folders, shelf.base if shelf is not None and asked else None, missing)


def _take_parent(shelf: Shelf, parent: Parent, folder: Path) -> Path | None:
    """By its tensors: the name may mean a newer generation by now, or be another adapter's."""
    for kept in sorted(shelf.kept, key=lambda each: each.name != parent.name):
        with shelf.weights(kept).open("rb") as file:
            if tensors_sha256(file) == parent.weights_sha256:
                return shelf.take(kept, folder)
    return None
