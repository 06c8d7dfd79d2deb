"""A container's limit counts, whatever the machine around it has."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from lorikeet_server.engine import memory
from lorikeet_server.engine.memory import free_memory

MB = 1 << 20


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups as the kernel shows them; the machine has far more than any of them allows."""
    monkeypatch.setattr(memory, "MOUNT", tmp_path / "groups")
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "cgroup")
    (tmp_path / "groups").mkdir()
    (tmp_path / "cgroup").write_text("0::/\n")
    return tmp_path / "groups"


def limit(folder: Path, most: str, used: int, reclaimable: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nfile 9\ninactive_file {reclaimable}\nactive_file 3\n")


def machine() -> float:
    return psutil.virtual_memory().available


def test_a_limit_leaves_what_is_not_used(mount: Path) -> None:
    limit(mount, str(100 * MB), used=60 * MB, reclaimable=20 * MB)
    assert free_memory() == 60 * MB


def test_the_narrowest_group_around_counts(mount: Path) -> None:
    (mount.parent / "cgroup").write_text("1:name=systemd:/elsewhere\n0::/pods/one\n")
    limit(mount / "pods" / "one", "max", used=MB)
    limit(mount / "pods", str(40 * MB), used=10 * MB)
    limit(mount, str(100 * MB), used=60 * MB)
    assert free_memory() == 30 * MB


def test_the_first_version_of_control_groups_has_other_names(mount: Path) -> None:
    (mount.parent / "cgroup").write_text("5:cpu:/\n4:hugetlb,memory:/outside/of/the/container\n0::/\n")
    folder = mount / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(f"{100 * MB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{70 * MB}\n")
    (folder / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {5 * MB}\n")
    assert free_memory() == 35 * MB


def test_over_its_limit_there_is_none(mount: Path) -> None:
    limit(mount, str(10 * MB), used=11 * MB)
    assert free_memory() == 0


@pytest.mark.parametrize("membership", ["0::/\n", "0::/gone\n", "4:memory:/old\n", ""])
def test_without_a_limit_it_is_the_machines(mount: Path, membership: str) -> None:
    (mount.parent / "cgroup").write_text(membership)
    limit(mount, "max", used=MB)
    assert free_memory() == pytest.approx(machine(), rel=0.2)


def test_a_system_without_control_groups_has_the_machines(mount: Path) -> None:
    (mount.parent / "cgroup").unlink()
    assert free_memory() == pytest.approx(machine(), rel=0.2)
