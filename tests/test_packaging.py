"""What is in the wheel is what is in the tree."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("adapters", "server", "trainer", "benchmarks")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from what git tracks, so that leftovers of this checkout cannot help it."""
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(out),
            str(source),
        ],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


def test_every_file_of_the_packages_is_in_the_wheel_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, check=True, text=True
    )
    expected = {name.split("/", 1)[1] for name in tracked.stdout.splitlines() if (ROOT / name).is_file()}
    packed = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert packed == expected


def test_the_demo_stays_small(wheel: zipfile.ZipFile) -> None:
    demo = [each.file_size for each in wheel.infolist() if "/demo/base/" in each.filename]
    assert demo
    assert sum(demo) <= 16_000_000


def test_the_version_is_one(wheel: zipfile.ZipFile) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changelog = next(
        line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")
    )
    assert version("lorikeet") == declared
    assert f"lorikeet-{declared}-" in (wheel.filename or "")
    assert changelog.startswith(f"## {declared}")


# The release that mended what was reported, of each dependency that reads what strangers send.
MENDED = {
    "h11": "0.16",  # chunked bodies read two ways
    "huggingface-hub": "1",
    "jinja2": "3.1.6",  # ways out of the sandbox
    "peft": "0.19",
    "python-multipart": "0.0.18",  # a boundary that takes a minute
    "safetensors": "0.8",
    "starlette": "1.0.1",  # a Host header that moved the path
    "torch": "2.10",  # weights_only
    "uvicorn": "0.30",
}


@pytest.mark.safety("security 10")
@pytest.mark.parametrize("name", MENDED)
def test_no_dependency_may_be_older_than_what_was_mended(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = (found for each in project["dependencies"] if (found := Requirement(each)).name == name)
    (floor,) = (Version(each.version) for each in wanted.specifier if each.operator == ">=")
    assert floor >= Version(MENDED[name])
    assert Version(version(name)) >= floor
