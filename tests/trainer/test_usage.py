"""Wrong words are refused before anything heavy is imported: at once, and not after twenty seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.conftest import ROWS, Write

# Runs one command after the other, and says after each what it has imported.
SAY = """
import json, sys
from lorikeet_server.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["lorikeet", *words]
    code = 0
    try:
        main()
    except SystemExit as stopped:
        code = stopped.code
    print(json.dumps([code, sorted({"torch", "transformers", "trl"} & sys.modules.keys())]), flush=True)
    print(END, file=sys.stderr, flush=True)
"""
END = "-- the next command --"
WRONG: list[tuple[tuple[str, ...], str]] = [
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
]


def test_wrong_words_import_nothing_heavy(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write("rows.jsonl", ROWS)
    (tmp_path / "taken").mkdir()
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("LORIKEET_URL", raising=False)
    script = f"END = {END!r}\n{SAY}"
    command = [sys.executable, "-c", script, json.dumps([words for words, _ in WRONG])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=60)
    ends = map(json.loads, done.stdout.splitlines())
    said = done.stderr.split(f"{END}\n")[:-1]
    for (words, reason), (code, heavy), errors in zip(WRONG, ends, said, strict=True):
        assert code in (1, 2), words
        assert reason in errors, (words, errors)
        assert heavy == [], words
