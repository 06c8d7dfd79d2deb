"""What the registry is given when the server starts: the embedded adapters, and the operator's own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from lorikeet_adapters.arrival import Intake
from lorikeet_adapters.errors import LorikeetError, RefusedError
from lorikeet_adapters.hub import is_repo, open_place
from lorikeet_adapters.names import check_name
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.source import open_folder

log = logging.getLogger("lorikeet")
DEMO_ADAPTERS = Path(__file__).parent / "demo" / "adapters"


class Given(Protocol):
    """What remembers what a registry was given: its folder's notes, or the owner of a shared one."""

    def embedded(self) -> dict[str, str]: ...

    def remember_embedded(self, generations: Mapping[str, str]) -> None: ...


def offer_embedded(registry: Registry, notes: Given) -> None:
    """Register the demo's adapters in a registry that never had them.

    `notes` remember what it was given. A name that means something else by now, or nothing, was
    the operator's doing and stays so; one that is as it was given follows a newer Lorikeet's files.
    """
    given = notes.embedded()
    now = {record.name: record.generation for record in registry.records()}
    for folder in sorted(DEMO_ADAPTERS.glob("[!.]*/")):
        taken = registry.is_name(folder.name) and folder.name not in now  # by the base or an alias
        if not taken and given.get(folder.name) == now.get(folder.name):
            with open_folder(folder) as files:
                record, _ = registry.register(folder.name, files, replace=True)
            given[folder.name] = record.generation
    notes.remember_embedded(given)


def warn_of_hidden(registry: Registry) -> None:
    """The base's name wins over an adapter's or alias's, which can come about when the base is renamed."""
    named = {
        "adapter": {each.name for each in registry.records()},
        "alias": {each.name for each in registry.aliases()},
    }
    for kind, names in named.items():
        if registry.base_name in names:
            log.warning(
                "the %s %s cannot be reached: the base has its name; give the base another --served-name",
                *(kind, registry.base_name),
            )


def wanted_folders(texts: Sequence[str]) -> dict[str, Path]:
    """`--adapter NAME=FOLDER` as read; the files' own check waits for the base, and fetching a hub id too.

    Raises RefusedError naming the adapter.
    """
    wanted: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals:
            raise RefusedError(f"--adapter {text}: write NAME=FOLDER or NAME=org/name")
        if name in wanted:
            raise RefusedError(f"--adapter {text}: the name stands twice")
        with (
            _about(name, Path(folder)),
            nullcontext() if is_repo(folder) else open_folder(Path(folder), folder),
        ):
            wanted[check_name(name)] = Path(folder)
    return wanted


def register_wanted(registry: Registry, wanted: Mapping[str, Path], intake: Intake, max_bytes: int) -> None:
    """The operator's word on each start, so it replaces what is there. Raises RefusedError naming the adapter."""
    for name, folder in wanted.items():
        with _about(name, folder), open_place(str(folder), "main", intake, max_bytes) as files:
            registry.register(name, files, replace=True)


@contextmanager
def _about(name: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except LorikeetError as error:
        raise RefusedError(f"--adapter {name}={folder}: {error}") from error
