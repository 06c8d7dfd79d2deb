"""What is in the wheel is what is in the tree."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
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
    built = {f"lorikeet_adapters/native/_native{sysconfig.get_config_var('EXT_SUFFIX')}"}
    assert packed == expected | (built if shutil.which("cc") else set())


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


# Part of what we declare, and pinned by it: a bound of our own could only contradict theirs.
COMES_WITH = {
    "datasets": "trl",
    "pydantic-core": "pydantic",
    "pyyaml": "transformers",
    "tokenizers": "transformers",
}

# What `--kernel triton` needs comes with the builds of PyTorch for CUDA, which a marker cannot tell from others.
BROUGHT = {"adapters/lorikeet_adapters/rank_rows/triton_rows.py": "triton"}


def imported(package: Path) -> dict[str, set[str]]:
    """By top-level name, the files that import it, wherever in the file that stands."""
    found: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(str(path.relative_to(ROOT)))
    return found


def test_only_the_cluster_imports_ray() -> None:
    """It is an extra: everything else works without it."""
    found = imported(ROOT / "server/lorikeet_server").get("ray", set())
    assert found
    assert all(each.startswith("server/lorikeet_server/cluster/") for each in found)


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("adapters/lorikeet_adapters", ()),
        ("server/lorikeet_server", ("ray",)),
        ("trainer/lorikeet_trainer", ("train",)),
        ("benchmarks/lorikeet_bench", ("bench",)),
    ],
)
def test_what_is_imported_is_declared(package: str, extras: tuple[str, ...]) -> None:
    """Not what happens to be installed because something else needs it, or because tests do."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(e for extra in extras for e in project["optional-dependencies"][extra]),
    ]
    declared = {canonicalize_name(Requirement(each).name) for each in wanted}
    declared |= {part for part, whole in COMES_WITH.items() if whole in declared}
    ours = {"lorikeet_adapters", "lorikeet_server", "lorikeet_trainer", "lorikeet_bench"}
    by_name = packages_distributions()
    undeclared = {
        name: files
        for name, found in imported(ROOT / package).items()
        if (files := {each for each in found if BROUGHT.get(each) != name})
        and name not in ours | sys.stdlib_module_names
        and not declared & {canonicalize_name(each) for each in by_name.get(name, [name])}
    }
    assert undeclared == {}


@pytest.mark.parametrize(("part", "whole"), COMES_WITH.items())
def test_what_comes_with_something_is_required_by_it(part: str, whole: str) -> None:
    needed = [Requirement(each) for each in requires(whole) or ()]
    assert part in {canonicalize_name(each.name) for each in needed if each.marker is None}


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
