"""From the event loop to the disk: nobody waits, what is lost is counted, what is written stays."""

from __future__ import annotations

import logging
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from lorikeet_adapters.errors import StoreError
from lorikeet_server.config import RequestLogConfig
from lorikeet_server.request_log.log import DAY_S, LARGEST, Bounds, RequestLog, opened
from lorikeet_server.request_log.record import Record, Selection
from lorikeet_server.request_log.records import FILE, Records
from tests.server.kept import put, record, running, written

ALL = Selection()
# Writes record after record, more in a transaction than SQLite holds in memory, and says how many are written.
WRITER = """
import sys, time
from pathlib import Path
from lorikeet_server.request_log.log import Bounds, RequestLog
from tests.server.kept import record
log = RequestLog(Path(sys.argv[1]), Bounds(bytes=int(sys.argv[2])))
log.start()
while True:
    log.offer(200_000, lambda at: record(created=at, answer="x" * 200_000))
    print(log.totals()[0], flush=True)
    time.sleep(0.0002)
"""


def answers(log: RequestLog) -> list[str]:
    return [each.answer for each in log.records.each(None, ALL)]


def test_off_there_is_no_log_and_no_file(tmp_path: Path) -> None:
    with opened(RequestLogConfig(), tmp_path) as log:
        assert log is None
    assert list(tmp_path.iterdir()) == []


def test_on_it_keeps_what_the_flags_say(tmp_path: Path) -> None:
    with opened(RequestLogConfig(True, 3, 4 << 20), tmp_path) as log:
        assert log is not None
        log.start()
        now = time.time()
        put(log, record(created=now - 4 * DAY_S), record(created=now - 2 * DAY_S))
        assert len(answers(log)) == 1
        put(log, *[record(created=now, answer="x" * 1_000_000) for _ in range(6)])
        assert (tmp_path / FILE).stat().st_size < 6 << 20
        assert 3 <= len(answers(log)) <= 4
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(StoreError), opened(RequestLogConfig(True), tmp_path):
        pass


def test_a_restart_keeps_what_is_not_too_old(tmp_path: Path) -> None:
    with running(tmp_path, clock=lambda: 1000.0) as log:
        put(log, record(created=1000.0, answer="first"))
    with running(tmp_path, clock=lambda: 1000.0 + 29 * DAY_S) as log:
        put(log, record(created=1000.0 + 29 * DAY_S, answer="second"))
        assert answers(log) == ["first", "second"]
    log = RequestLog(tmp_path, clock=lambda: 1000.0 + 31 * DAY_S)
    log.start()
    log.close()  # the start looks for what is too old before it looks for anything else
    with closing(Records(tmp_path)) as records:
        assert [each.answer for each in records.each(None, ALL)] == ["second"]


def test_a_stop_writes_what_waits(tmp_path: Path) -> None:
    with opened(RequestLogConfig(True), tmp_path) as log:
        assert log is not None
        for number in range(500):
            log.offer(1, lambda at, number=number: record(created=at, answer=str(number)))  # type: ignore[misc]
        log.start()
    assert log.totals() == (500, 0)
    with closing(Records(tmp_path)) as records:
        assert [each.answer for each in records.each(None, ALL)] == [str(number) for number in range(500)]


@pytest.mark.safety("reliability 11")
def test_a_full_line_drops_and_counts(tmp_path: Path) -> None:
    """By number and by characters; nobody writes before the end."""
    log = RequestLog(tmp_path, Bounds(waiting=3, waiting_characters=1000))
    for size in (400, 700, 400, 200, 1, 1, 1):
        log.offer(size, lambda at, size=size: record(created=at, answer=str(size)))  # type: ignore[misc]
    assert log.totals() == (0, 4)
    log.start()
    log.close()
    assert log.totals() == (3, 4)
    with closing(Records(tmp_path)) as records:
        assert [each.answer for each in records.each(None, ALL)] == ["400", "400", "200"]


@pytest.mark.safety("reliability 11")
def test_what_is_too_large_or_cannot_be_made_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def unmade(at: float) -> Record:
        raise ValueError(at)

    with running(tmp_path) as log:
        fits = LARGEST - len("Where is my order?")
        put(log, record(created=time.time(), answer="x" * fits))
        lost: list[tuple[int, Callable[[float], Record]]] = [
            (LARGEST + 1, lambda at: record(created=at)),
            (
                LARGEST - 1,
                lambda at: record(created=at, answer="ä" * (fits // 2 + 1)),
            ),  # bytes, not characters
            (1, lambda at: record(created=at, answer="\ud800")),
            (1, unmade),
        ]
        for size, make in lost:
            with written(log, 1):
                log.offer(size, make)
        assert log.totals() == (1, 4)
        assert [len(each) for each in answers(log)] == [fits]
    assert "a record of the request log could not be made" in caplog.text


@pytest.mark.safety("reliability 11")
def test_a_disk_that_fails_is_told_of_once_and_written_again_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Held by another process, the file cannot be written: to the log that is like any other failure."""
    with running(tmp_path) as log:
        put(log, record(created=time.time(), answer="before"))
        with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for _ in range(2):
                started = time.monotonic()
                with written(log, 1):
                    log.offer(1, lambda at: record(created=at, answer="lost"))
                    assert time.monotonic() - started < 0.5  # who offers does not wait for the disk
            other.execute("ROLLBACK")
        put(log, record(created=time.time(), answer="after"))
        assert log.totals() == (2, 2)
        assert answers(log) == ["before", "after"]
    said = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert [each.getMessage() for each in said] == [
        "the request log cannot be written, and requests are missing from it: database is locked"
    ]


@pytest.mark.parametrize("most", [1 << 30, 12 << 20], ids=["growing", "full"])
def test_a_kill_leaves_everything_that_was_written(tmp_path: Path, most: int) -> None:
    """Again and again, in the middle of a transaction; in a full file that removes as much as it adds."""
    before = 0
    for later in (20, 60, 100, 140):
        said = written_until_killed(tmp_path, most, 60, later)
        with closing(Records(tmp_path)) as records:
            found = [each.answer for each in records.each(None, ALL)]
        assert set(found) == {"x" * 200_000}
        assert len(found) >= min(before + said, most // 250_000)
        with closing(sqlite3.connect(tmp_path / FILE)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        before = len(found)


def written_until_killed(folder: Path, most: int, least: int, later: int) -> int:
    """How many the process said were written when it was killed."""
    command = [sys.executable, "-c", WRITER, str(folder), str(most)]
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        said = lines = 0
        while said < least or lines < later:
            lines += said >= least  # what is said first comes between two transactions
            said = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    return said
