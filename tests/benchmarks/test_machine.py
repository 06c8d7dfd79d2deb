"""Facts about the machine are read, not made up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from lorikeet_bench import machine
from lorikeet_bench.probe import BandwidthProbe


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_threads_and_versions_are_those_in_use() -> None:
    found = machine.describe_machine()
    assert (found.threads, found.torch_version) == (torch.get_num_threads(), torch.__version__)
    assert found.cpu_model


def test_the_commit_is_that_of_a_tracked_source_and_says_when_files_differ(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("1")
    assert machine._commit(source) is None  # no repository
    git(tmp_path, "init")
    assert machine._commit(source) is None  # a repository that is not ours
    git(tmp_path, "add", "source.py")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert machine._commit(source) == commit
    source.write_text("2")
    assert machine._commit(source) == f"{commit}-dirty"


def test_the_probe_counts_bytes_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((10.0, 10.5))
    monkeypatch.setattr("lorikeet_bench.probe.time.perf_counter", lambda: next(seconds))
    probe = BandwidthProbe(1000)
    assert probe.read() == 4000
    assert bool((probe._target == 1).all())
