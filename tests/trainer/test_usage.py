"""Wrong words are refused before anything heavy is imported: at once, and not after twenty seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.conftest import ROWS, Write

SAY = """
import sys
from lorikeet_server.cli import main
try:
    main()
finally:
    print("heavy:", sorted({"torch", "transformers", "trl"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("train", "nosuch.jsonl", "--name", "x"), "nosuch.jsonl cannot be used: No such file"),
        (("train", ".", "--name", "x"), "cannot be used: Is a directory"),
        (("train", "rows.jsonl", "--name", "a b"), "is no adapter name"),
        (("train", "rows.jsonl", "--name", "x", "--rank", "0"), "rank 0 is not between"),
        (("train", "rows.jsonl", "--name", "x", "--out", "taken"), "the folder `taken` exists"),
        (("train", "rows.jsonl", "--name", "x", "--model", "./nosuch"), "neither a folder here"),
        (
            ("train", "rows.jsonl", "--name", "x", "--model", "no/such"),
            "no model `no/such` in the hub's cache",
        ),
        (("eval",), "name a data file"),
        (("eval", "rows.jsonl", "--adapter", "a=taken/b"), "'taken/b' does not exist"),
        (("eval", "rows.jsonl", "--adapter", "a=taken"), "'taken' has no adapter_config.json"),
        (("eval", "rows.jsonl", "--adapter", "base=taken"), "base is the base model itself"),
        (("eval", "rows.jsonl", "--model", "no/such"), "no model `no/such`"),
        (("bench", "latency", "--model", "no/such"), "no model `no/such`"),
        (("adapters", "add", "nosuch", "--name", "x"), "'nosuch' does not exist"),
        (("adapters", "add", "taken", "--name", "a b"), "is no adapter name"),
        (("adapters", "check", "taken", "--model", "no/such"), "no model `no/such`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_words_import_nothing_heavy(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...], reason: str
) -> None:
    write("rows.jsonl", ROWS)
    (tmp_path / "taken").mkdir()
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("LORIKEET_URL", raising=False)
    command = [sys.executable, "-c", SAY, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    assert done.returncode in (1, 2)
    assert reason in done.stderr, done.stderr
    assert done.stdout.endswith("heavy: []\n"), done.stdout
