"""Where `lorikeet jobs` does its work: a running server, for only that has the jobs' workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import urlopen

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.lock import holder_url
from lorikeet_server.desk import Wire
from lorikeet_server.server_desk import ServerDesk, refusal

JOBS = "/v1/fine_tuning/jobs"
MOST = 100
STREAM_SILENCE_S = 60  # the server says something every quarter of that


class JobDesk(ServerDesk):
    """Jobs, events and checkpoints are those of the routes. Every method may raise RefusedError."""

    def jobs(self) -> list[Wire]:
        """The newest first."""
        return self._all(JOBS)

    def job(self, job: str) -> Wire:
        return self._call("GET", f"{JOBS}/{quote(job, safe='')}")

    def checkpoints(self, job: str) -> list[Wire]:
        return self._all(f"{JOBS}/{quote(job, safe='')}/checkpoints")

    def events(self, job: str) -> list[Wire]:
        """The oldest first."""
        return self._all(f"{JOBS}/{quote(job, safe='')}/events")[::-1]

    def follow(self, job: str) -> Iterator[Wire]:
        """The same as they come, until the job is over or the server stops."""
        request = self.request("GET", f"{JOBS}/{quote(job, safe='')}/events?stream=true")
        try:
            with urlopen(request, timeout=STREAM_SILENCE_S) as lines:
                for line in lines:
                    said = line.decode().removeprefix("data: ").strip()
                    if line.startswith(b"data: ") and said != "[DONE]":
                        yield json.loads(said)
        except HTTPError as error:
            raise refusal(error) from error
        except (URLError, OSError, ValueError) as error:
            raise RefusedError(f"the server is gone: {getattr(error, 'reason', error)}") from error

    def change(self, job: str, verb: str) -> Wire:
        """`verb` is cancel, pause or resume."""
        return self._call("POST", f"{JOBS}/{quote(job, safe='')}/{verb}", {})

    def _all(self, path: str) -> list[Wire]:
        page = self._call("GET", f"{path}?limit={MOST}")
        found: list[Wire] = page["data"]
        while page["has_more"]:
            page = self._call("GET", f"{path}?limit={MOST}&after={quote(found[-1]['id'], safe='')}")
            found += page["data"]
        return found


def open_job_desk(url: str, data_dir: Path) -> JobDesk:
    """The server named, or the one that holds the data folder. Raises RefusedError when there is none."""
    found = url or holder_url(data_dir)
    if not found:
        raise RefusedError(
            f"no server holds {data_dir}; start one with `lorikeet serve`, or name a running one with --url"
        )
    return JobDesk(found)
