"""Files are checked in a process of its own, whatever becomes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lorikeet_trainer.jobs.briefing import Base
from lorikeet_trainer.jobs.errors import CheckFailed, CheckTimedOut
from lorikeet_trainer.jobs.review import Review
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.report import report_on
from lorikeet_trainer.sample import take_sample
from lorikeet_trainer.validator import validate
from tests.trainer.broken_files import BROKEN, CHATS, LABELLED, PAIRS, PLAIN, TEXTS
from tests.trainer.conftest import save_base

PATIENCE = 60.0
GOOD = {"chats": CHATS, "plain": PLAIN, "texts": TEXTS, "labelled": LABELLED, "pairs": PAIRS}
# A process that says what it is told to: it answers, is silent, or ends in the middle of a word.
PUPPET = """
import sys, json, time
for line in sys.stdin:
    name = json.loads(line)["name"]
    if name == "silent": time.sleep(600)
    if name == "half": print("{", end="", flush=True); sys.exit(3)
    print(json.dumps({"report": {"name": name}}), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def review(folder: Path) -> Iterator[Review]:
    made = Review(Base("base", str(folder), "fp32", "cpu"))
    yield made
    made.close()


@pytest.fixture
def puppet() -> Iterator[Review]:
    made = Review(Base("base", "none", "fp32", "cpu"), (sys.executable, "-c", PUPPET), patience=1.0)
    yield made
    made.close()


def expected(data: bytes, folder: Path, line: int | None = None) -> dict[str, Any]:
    renderer = Renderer.load(str(folder))
    validated = validate(data, "data.jsonl", renderer)
    report = asdict(report_on(validated, sample=take_sample(data, validated, renderer, line)))
    del report["estimate"]
    told: dict[str, Any] = json.loads(json.dumps(report))
    return told


def test_reports_are_the_validators_own_and_masks_the_samples(
    review: Review, folder: Path, tmp_path: Path
) -> None:
    """Of every good and every broken file; one process checks them all."""
    broken = {f"broken {name}": each.data for name, each in BROKEN.items() if each.template == ""}
    files = {name: b"\n".join(each) for name, each in GOOD.items()} | broken
    assert len(files) > 20
    pids = set()
    for number, (name, data) in enumerate(files.items()):
        path = tmp_path / str(number)
        path.write_bytes(data)
        assert review.check(path, "data.jsonl", None) == expected(data, folder), name
        assert review.check(path, "data.jsonl", 3) == expected(data, folder, 3), name
        pids.add(review.pid)
    assert len(pids) == 1


def test_a_line_without_a_row_has_no_mask_and_a_missing_file_no_report(
    review: Review, tmp_path: Path
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"\n".join(CHATS))
    found = review.check(path, "data.jsonl", 1000)
    assert found is not None
    assert found["is_usable"]
    assert found["sample"] is None
    assert review.check(tmp_path / "nothing", "data.jsonl", None) is None


def test_one_that_was_killed_is_started_again(review: Review, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"\n".join(CHATS))
    assert review.check(path, "data.jsonl", None) is not None
    first = review.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    # Nobody had asked it anything, so nobody is told.
    assert review.check(path, "data.jsonl", None) == expected(path.read_bytes(), folder)
    assert review.pid != first


def test_one_that_ends_in_the_middle_of_its_answer(puppet: Review) -> None:
    with pytest.raises(CheckFailed, match="the next check starts it again"):
        puppet.check(Path("x"), "half", None)
    assert puppet.pid is None
    assert puppet.check(Path("x"), "fine", None) == {"name": "fine"}


def test_one_that_is_silent_is_killed(puppet: Review) -> None:
    with pytest.raises(CheckTimedOut, match="not checked within 1 s"):
        puppet.check(Path("x"), "silent", None)
    assert puppet.pid is None
    assert puppet.check(Path("x"), "fine", None) == {"name": "fine"}


def test_an_idle_one_is_ended() -> None:
    review = Review(Base("base", "none", "fp32", "cpu"), (sys.executable, "-c", PUPPET), idle=0.2)
    assert review.check(Path("x"), "fine", None) == {"name": "fine"}
    deadline = time.monotonic() + PATIENCE
    while review.pid is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert review.check(Path("x"), "again", None) == {"name": "again"}
    review.close()


def test_closing_ends_what_is_under_way_and_what_waits() -> None:
    review = Review(Base("base", "none", "fp32", "cpu"), (sys.executable, "-c", PUPPET))
    told: list[str] = []

    def ask() -> None:
        try:
            review.check(Path("x"), "silent", None)
        except CheckFailed as error:
            told.append(str(error))

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for each in asking:
        each.start()
    while review.pid is None:
        time.sleep(0.01)
    review.close()
    for each in asking:
        each.join(PATIENCE)
    assert told == ["the server is stopping and checks no file"] * 2
    assert review.pid is None


# A server that has checked a file, or is about to have a large one checked, and is then killed.
SERVER = """
import sys, threading
from pathlib import Path
from lorikeet_trainer.jobs.briefing import Base
from lorikeet_trainer.jobs.review import Review
review = Review(Base("base", sys.argv[1], "fp32", "cpu"))
review.check(Path(sys.argv[2]), "small", None)
threading.Thread(target=review.check, args=(Path(sys.argv[3]), "large", None)).start()
print("asked", flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("other", ["small", "large"])
def test_it_ends_with_the_server(folder: Path, tmp_path: Path, other: str) -> None:
    """Whether it is idle or in the middle of a file that takes minutes; it holds standard error as long as it lives."""
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"\n".join(CHATS))
    large.write_bytes((b"\n".join(CHATS) + b"\n") * 20_000)
    files = map(str, (folder, small, large if other == "large" else small))
    words = [sys.executable, "-c", SERVER, *files]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"asked\n"
        server.kill()
        server.communicate(timeout=20)
