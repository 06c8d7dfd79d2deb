"""Adapters from a Hugging Face hub: a repository and a revision, resolved to one commit.

Endpoint and token are the operator's (HF_ENDPOINT, HF_TOKEN); a request names a repository, nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

from lorikeet_adapters.arrival import Intake
from lorikeet_adapters.child import Child, ChildDied, ChildTimeout
from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.finding import Finding
from lorikeet_adapters.source import AdapterFiles, open_folder

REPO = re.compile(
    r"(?!.*(?:\.\.|--))[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?<!\.git)(?<![.-])"
)
REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")
FETCH_S = 600.0
# Plain HTTP only: what is written stays in the folder given, and under the limit set on it.
QUIET = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class Fetch:
    """One download, running from the start and killed at the end of `with`. Raises AdapterRefused."""

    def __init__(self, repo: str, revision: str, folder: Path, max_bytes: int) -> None:
        _check("source.repo", repo, REPO, "write org/name")
        _check("source.revision", revision, REVISION, "name a branch, a tag or a commit")
        self._asked = {"type": "hub", "repo": repo, "revision": revision}
        request = {"repo": repo, "revision": revision, "folder": str(folder), "max_bytes": max_bytes}
        self._child = Child("download.py", request, {**os.environ, **QUIET})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.__exit__()

    def wait(self, timeout: float = FETCH_S) -> dict[str, str]:
        """Until both files are in the folder; returns the record's source, with the commit."""
        try:
            answer = self._child.wait(timeout)
        except ChildTimeout:
            raise _refused(
                "hub_timeout", f"the hub took over {timeout:.0f} s", "try again, or add a folder"
            ) from None
        except ChildDied:
            raise _refused("hub_failed", "the download ended early", "try again, or add a folder") from None
        if "commit" not in answer:
            raise _refused(answer["code"], answer["message"], answer["fix"])
        return {**self._asked, "commit": answer["commit"]}


@contextmanager
def fetching(repo: str, revision: str, folder: Path, max_bytes: int) -> Iterator[Fetch]:
    """A download into `folder` for as long as `with` lasts; `wait` for it inside."""
    with Fetch(repo, revision, folder, max_bytes) as fetch:
        yield fetch


@contextmanager
def open_repo(repo: str, revision: str, intake: Intake, max_bytes: int) -> Iterator[AdapterFiles]:
    """Fetch and open both files; they are gone at the end. Raises AdapterRefused."""
    with intake.scratch() as folder, fetching(repo, revision, folder, max_bytes) as fetch:
        origin = fetch.wait()
        with open_folder(folder, repo) as files:
            yield replace(files, origin=origin)


@contextmanager
def open_place(place: str, revision: str, intake: Intake, max_bytes: int) -> Iterator[AdapterFiles]:
    """What an operator named: a folder, or else a hub id. Raises AdapterRefused."""
    opened = (
        open_repo(place, revision, intake, max_bytes) if is_repo(place) else open_folder(Path(place), place)
    )
    with opened as files:
        yield files


def is_repo(word: str) -> bool:
    """Whether an operator's word is a hub id: `org/name`, and no folder of that name is here."""
    return REPO.fullmatch(word) is not None and not os.path.lexists(word)


def _check(field: str, value: str, rule: re.Pattern[str], fix: str) -> None:
    if not rule.fullmatch(value):
        raise AdapterRefused([Finding("bad_repo", f"{value[:80]!a} is no name on the hub", fix, field=field)])


def _refused(code: str, message: str, fix: str) -> AdapterRefused:
    return AdapterRefused([Finding(code, message, fix, field="source")])
