"""How much memory this process may still take: the machine's, or what its control group leaves of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

MEMBERSHIP = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Files:
    """What a version of control groups calls what is read here; `dropped` are files that were read and can go."""

    limit: str
    used: str
    dropped: str


FIRST = Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
SECOND = Files("memory.max", "memory.current", "inactive_file")


def free_memory() -> int:
    """Bytes. A container sees the whole machine's memory, and is killed at its own limit."""
    return min([int(psutil.virtual_memory().available), *_left_by_groups()])


def _left_by_groups() -> Iterator[int]:
    """Of each group around this process that has a limit."""
    for folder, files in _groups():
        try:
            limit = int((folder / files.limit).read_text())
            used = int((folder / files.used).read_text())
            yield max(limit - used + _reclaimable(folder, files), 0)
        except (OSError, ValueError):  # no such controller, or the limit is `max`
            continue


def _groups() -> Iterator[tuple[Path, Files]]:
    """The process's own group and those around it; in a container the outermost that is to be seen is its own."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, files = MOUNT, SECOND
        elif "memory" in controllers.split(","):
            root, files = MOUNT / "memory", FIRST
        else:
            continue
        inner = root / path.lstrip("/")
        yield from ((each, files) for each in (inner, *inner.parents) if each.is_relative_to(root))


def _reclaimable(folder: Path, files: Files) -> int:
    """The base's own weights, read a moment ago, are among them."""
    pairs = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return sum(int(value) for name, value in pairs if name == files.dropped)
