"""What ran where: the facts without which a number cannot be compared."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
GIT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Machine:
    """`commit` is None outside a checkout of ours; `load_average` is the last minute's, before the run."""

    cpu_model: str
    cpu_count: int
    threads: int
    omp_wait_policy: str | None
    load_average: float | None
    platform: str
    python_version: str
    torch_version: str
    transformers_version: str
    peft_version: str
    bitsandbytes_version: str
    lorikeet_version: str
    commit: str | None


def describe_machine() -> Machine:
    """Read now; `threads` are those torch computes with in this process."""
    return Machine(
        cpu_model=_cpu_model(),
        cpu_count=os.cpu_count() or 0,
        threads=torch.get_num_threads(),
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY"),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        platform=platform.platform(),
        python_version=platform.python_version(),
        torch_version=torch.__version__,
        transformers_version=version("transformers"),
        peft_version=version("peft"),
        bitsandbytes_version=version("bitsandbytes"),
        lorikeet_version=version("lorikeet"),
        commit=_commit(Path(__file__).resolve()),
    )


def _cpu_model() -> str:
    if CPUINFO.is_file():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit(source: Path) -> str | None:
    """The checked-out commit, with `-dirty` after it when tracked files differ from it."""
    # An installed copy may lie inside some other project's repository, whose commit says nothing.
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None
    commit = _git(source.parent, "rev-parse", "HEAD")
    changed = _git(source.parent, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
