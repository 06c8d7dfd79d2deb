"""The library as it was built for this processor, and once more as it is where there are no variants."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import lorikeet_adapters.native as package
from lorikeet_adapters.native import library

SOURCES = Path(package.__file__).parent
Functions = Mapping[str, Callable[..., None]]


@pytest.fixture(scope="session")
def portable(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, cc, to build what other processors run")
    built = tmp_path_factory.mktemp("portable") / "portable.so"
    sources = [str(SOURCES / name) for name in ("rank_rows.c", "linear.c", "int8.c")]
    flags = ["-O2", "-fopenmp", "-fPIC", "-shared", "-DPORTABLE", "-Wno-psabi", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, *sources, "-o", str(built)], check=True)
    return ctypes.CDLL(str(built))


@pytest.fixture(params=["built", "portable"])
def functions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Functions:
    """What the package calls, in this test."""
    if request.param == "built":
        if not library.functions():
            pytest.skip("the package was installed without a C compiler")
        return library.functions()
    found = library.declared(request.getfixturevalue("portable"))
    for module in ("linears", "rows"):
        monkeypatch.setattr(f"lorikeet_adapters.native.{module}.functions", lambda: found)
    return found
