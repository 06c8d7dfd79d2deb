"""The size budget: prints the longest files and functions, fails past the hard limits."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("adapters", "server", "trainer", "benchmarks")
FILE_LINES, FUNCTION_LINES, POSITIONAL = 400, 60, 5
SHOWN = 5


def functions(path: Path) -> Iterator[tuple[int, str, int]]:
    """Lines, name and positional parameters of every function.

    Commands are Typer's, whose options are parameters, and kernels Triton's, which take pointers and sizes.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        parameters = [each.arg for each in (*node.args.posonlyargs, *node.args.args)]
        decorators = " ".join(ast.unparse(each) for each in node.decorator_list)
        is_free = "command" in decorators or "triton.jit" in decorators
        own = [each for each in parameters if each not in ("self", "cls")]
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        yield lines, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", 0 if is_free else len(own)


def main() -> int:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    files = sorted(
        ((path.read_text().count("\n"), str(path.relative_to(ROOT))) for path in paths), reverse=True
    )
    found = sorted((each for path in paths for each in functions(path)), reverse=True)
    print("longest files:", *(f"  {lines:4} {name}" for lines, name in files[:SHOWN]), sep="\n")
    print("longest functions:", *(f"  {lines:4} {name}" for lines, name, _ in found[:SHOWN]), sep="\n")
    over = [
        f"{name} has {lines} lines, the limit is {FILE_LINES}" for lines, name in files if lines > FILE_LINES
    ]
    over += [
        f"{name} has {lines} lines, the limit is {FUNCTION_LINES}"
        for lines, name, _ in found
        if lines > FUNCTION_LINES
    ]
    over += [f"{name} has {many} positional parameters" for _, name, many in found if many > POSITIONAL]
    print(*over, sep="\n")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
