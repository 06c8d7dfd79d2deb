"""Every rule of docs/safety.md is kept by a test that runs with the others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = re.findall(r"^- \*\*(\w+ \d+)\*\* ", (ROOT / "docs" / "safety.md").read_text(), re.MULTILINE)
ELSEWHERE = frozenset({"soak", "gpu", "skip", "xfail"})  # `make test` does not run these, or lets them fail


def marks(nodes: list[ast.expr]) -> dict[str, list[str]]:
    """`pytest.mark.NAME(...)` among these expressions, with the texts each is given."""
    found: dict[str, list[str]] = {}
    for node in nodes:
        called = node.func if isinstance(node, ast.Call) else node
        name = ast.unparse(called)
        if name.startswith("pytest.mark."):
            given = node.args if isinstance(node, ast.Call) else []
            texts = [str(each.value) for each in given if isinstance(each, ast.Constant)]
            found[name.removeprefix("pytest.mark.")] = texts
    return found


def module_marks(tree: ast.Module) -> dict[str, list[str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            return marks(node.value.elts if isinstance(node.value, ast.List) else [node.value])
    return {}


def keepers() -> Iterator[tuple[str, str]]:
    """(rule, test) of every test that `make test` runs and that says which rule it keeps."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        common = module_marks(tree)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                own = marks(node.decorator_list)
                own = common | own | {"safety": common.get("safety", []) + own.get("safety", [])}
                if not ELSEWHERE & own.keys():
                    yield from ((rule, f"{path.name}::{node.name}") for rule in own["safety"])


def test_every_rule_is_kept_by_a_test_and_every_mark_names_a_rule() -> None:
    kept = {rule for rule, _ in keepers()}
    assert sorted(set(RULES) - kept) == [], "rules without a test"
    assert sorted(kept - set(RULES)) == [], "marks without a rule"


def test_rules_are_numbered_without_a_gap() -> None:
    for part in ("security", "reliability", "metrics"):
        numbers = [int(each.split()[1]) for each in RULES if each.startswith(part)]
        assert numbers == list(range(1, len(numbers) + 1))
