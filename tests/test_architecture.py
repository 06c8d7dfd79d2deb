"""The house as written down: who may import whom, and what may stand nowhere."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path
    for folder in ("adapters", "server", "trainer", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
# safetensors only: nothing that can run code from a file is imported anywhere in the product.
BANNED_MODULES = frozenset({"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"})
BANNED_CALLS = frozenset({"torch.load", "numpy.load", "np.load", "eval", "exec"})
CONVERTER = "unpickle.py"  # run by `lorikeet adapters convert` as a process of its own, imported by nobody


def test_imports_keep_the_contracts() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_the_routes_import_without_torch() -> None:
    code = "import lorikeet_server.api.app, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_line_answers_without_torch() -> None:
    code = "import lorikeet_server.cli, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_the_bridge_imports_both_asyncio_and_threading() -> None:
    both = [
        path.name
        for path in SOURCES
        if {"asyncio", "threading"} <= set(imported(ast.parse(path.read_text())))
    ]
    assert both == ["bridge.py"]


@pytest.mark.safety("security 1", "security 12")
def test_routes_reach_registry_and_engine_by_the_callers_way_only() -> None:
    """One place makes the tenant's view of the registry, one stamps its requests."""
    places = {"registry": set[str](), "submit": set[str](), "make_view": set[str]()}
    for path in (path for path in SOURCES if path.parent.name == "api"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "registry" and is_services(node.value):
                places["registry"].add(path.name)
            if isinstance(node, ast.Attribute) and node.attr == "submit":
                places["submit"].add(path.name)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "View":
                places["make_view"].add(path.name)
    assert places == {"registry": {"caller.py"}, "submit": {"run.py"}, "make_view": {"caller.py"}}


def is_services(node: ast.AST) -> bool:
    """`services`, or `http.app.state.services`; metrics have a registry too."""
    return "services" in (getattr(node, "id", ""), getattr(node, "attr", ""))


@pytest.mark.safety("security 4")
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_runs_code_from_files(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not BANNED_MODULES & set(imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            is_converter = (path.name, call) == (CONVERTER, "torch.load")
            assert call not in BANNED_CALLS or is_converter, ast.unparse(node)
            assert not is_converter or "weights_only=True" in ast.unparse(node)
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            assert not (isinstance(node.value, ast.Constant) and node.value.value), (
                "an operator's flag, never a literal"
            )


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name.partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
