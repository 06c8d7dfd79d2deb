"""Reads every blob again while the server runs: is it still what its address says?

A disk can change bytes without a word, and a damaged weight is a plausible weight. A generation whose
files are not what they were is refused by name until they are registered again or put back; requests
that run with it go on, and what they ran with leaves the device after them.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sqlite3
import sys
import threading
from contextlib import suppress
from dataclasses import replace

from lorikeet_adapters.admission import Admission, damaged
from lorikeet_adapters.blobs import Blobs
from lorikeet_adapters.stored import StoredGeneration
from lorikeet_adapters.usage import Usage

log = logging.getLogger("lorikeet")
PIECE = 1 << 20
BYTES_PER_SECOND = 32 << 20  # a fraction of what a disk gives, and a few hundredths of a core
AGAIN_S = 24 * 3600.0
GONE = frozenset(
    {errno.ENOENT, errno.EIO, errno.EACCES, errno.ENOTDIR, errno.EISDIR}
)  # it is the file's fault
LOWEST = 19


class _Stopped(Exception):
    """The server ends in the middle of a file."""


class Verifier:
    """A thread of the lowest priority, from `start` to `close`, once through all files and again every day.

    `admitting` is held by whoever brings files in, so that nobody replaces what is judged.
    """

    def __init__(self, usage: Usage, admission: Admission, blobs: Blobs, admitting: threading.Lock) -> None:
        self._usage = usage
        self._admission = admission
        self._blobs = blobs
        self._admitting = admitting
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry-verifier", daemon=True)

    def start(self) -> None:
        """Once the server is ready: a start does not wait for it."""
        self._thread.start()

    def close(self) -> None:
        """Returns within the time of one piece; also when it was never started."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def verify(self) -> None:
        """Once through all files, the bytes that names mean now first."""
        directory = self._usage.directory
        order = sorted(directory.generations, key=lambda each: (each not in directory.reachable, each))
        for generation in order:
            try:
                self._verify(generation)
            except (OSError, sqlite3.Error) as error:
                log.warning("the files of generation %s cannot be verified: %s", generation[:12], error)

    def _verify(self, generation: str) -> None:
        stored = self._usage.directory.generations.get(generation)
        if stored is None or self._is_whole(stored) is not stored.is_damaged:
            return
        with self._admitting:  # nobody replaces the files now: what is read is what stays
            stored = self._usage.directory.generations.get(generation)
            if stored is None or (whole := self._is_whole(stored)) is not stored.is_damaged:
                return
            now = self._admission.again(replace(stored, findings=())) if whole else damaged(stored)
            if self._usage.judge(now):
                what = (
                    "are whole again" if whole else "are damaged: it is answered 409 until registered again"
                )
                log.warning("the files of adapter generation %s %s", generation[:12], what)

    def _is_whole(self, stored: StoredGeneration) -> bool:
        try:
            return all(self._sha256(each) == each for each in stored.blobs)
        except OSError as error:
            if error.errno in GONE:
                return False
            raise

    def _sha256(self, digest: str) -> str:
        """Of what lies under this address. Raises OSError."""
        found = hashlib.sha256()
        with self._blobs.path(digest).open("rb") as file:
            while piece := file.read(PIECE):
                found.update(piece)
                if self._stop.wait(len(piece) / BYTES_PER_SECOND):
                    raise _Stopped
        return found.hexdigest()

    def _run(self) -> None:
        """On its own thread, where nobody would see an exception."""
        if sys.platform == "linux":  # where a thread has a priority of its own, under its own id
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
        try:
            while not self._stop.is_set():
                self.verify()
                self._stop.wait(AGAIN_S)
        except _Stopped:
            return
        except Exception:
            log.exception("verifying the data folder failed; the next start tries again")
