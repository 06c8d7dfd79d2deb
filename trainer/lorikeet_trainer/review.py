"""Checks data files for a server, in a process of its own: `python -m lorikeet_trainer.review`.

One question is a line of JSON on standard input, {"model", "trust_remote_code", "file", "name", "line"}; one
answer a line of JSON on standard output: {"report": ...} or, where the file cannot be read, {"gone": true}. The
end of standard input is the server's end, and nobody is left to answer. What libraries print goes to standard
error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lorikeet_trainer.errors import DatasetRefused
from lorikeet_trainer.jsonl import read_file
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.report import report_on
from lorikeet_trainer.sample import take_sample
from lorikeet_trainer.validator import Validated, validate

NICENESS = 10  # answers go first
KEPT_BYTES = 16 << 20  # a file up to this size is kept, so that its next row is shown at once


@dataclass(frozen=True, slots=True)
class Kept:
    """The file that was checked last; under its path stand no other bytes, ever."""

    file: str
    name: str
    data: bytes
    validated: Validated


class Reviewer:
    """Loads the tokenizer with the first question."""

    def __init__(self) -> None:
        self._renderer: Renderer | None = None
        self._kept: Kept | None = None

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """As a job would check it; without what it would cost. Raises BaseModelRefused."""
        if self._renderer is None:
            self._renderer = Renderer.load(question["model"], question["trust_remote_code"])
        try:
            found = self._checked(question["file"], question["name"], self._renderer)
        except DatasetRefused:
            return {"gone": True}
        sample = take_sample(found.data, found.validated, self._renderer, question["line"])
        report = asdict(report_on(found.validated, sample=sample))
        del report["estimate"]
        return {"report": report}

    def _checked(self, file: str, name: str, renderer: Renderer) -> Kept:
        if self._kept is not None and (self._kept.file, self._kept.name) == (file, name):
            return self._kept
        self._kept = None
        data = read_file(Path(file))
        found = Kept(file, name, data, validate(data, name, renderer))
        if len(data) <= KEPT_BYTES:
            self._kept = found
        return found


def main() -> None:
    with suppress(OSError):
        os.nice(NICENESS)
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    reviewer = Reviewer()
    for question in _questions():
        out.write(json.dumps(reviewer.answer(question)) + "\n")
        out.flush()


def _questions() -> Iterator[dict[str, Any]]:
    """Read on a thread of its own, so that the server's end is noticed in the middle of a file, too."""
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(lines.get())


if __name__ == "__main__":
    main()
