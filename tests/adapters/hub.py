"""A hub on this machine that speaks the part of the file API which huggingface_hub uses, and a CDN beside it."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret_of_the_operator"


@dataclass
class Repo:
    """Files at one commit. `large` ones are served by the CDN, as LFS files are."""

    files: dict[str, bytes]
    large: frozenset[str] = frozenset()
    sizes: dict[str, int] = field(default_factory=dict)  # where the listing lies
    digests: dict[str, str] = field(default_factory=dict)
    sha: str = COMMIT


@dataclass
class Hub:
    url: str
    cdn_url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    failing: dict[str, tuple[int, str]] = field(default_factory=dict)  # repo -> status, X-Error-Code
    asked: list[str] = field(default_factory=list)
    tokens: dict[str, set[str | None]] = field(default_factory=dict)  # server -> Authorization headers seen
    hold: Callable[[str], None] = lambda path: None  # called before a file is sent


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    name: str

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.name}{self.path}")
        self.hub.tokens.setdefault(self.name, set()).add(self.headers.get("authorization"))
        parts = [unquote(each) for each in urlsplit(self.path).path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        repo_id = "/".join(parts[2:4] if is_api else parts[:2])
        if repo_id in self.hub.failing:
            status, code = self.hub.failing[repo_id]
            self.answer(status, b"{}", {"X-Error-Code": code})
        elif (repo := self.hub.repos.get(repo_id)) is None:
            self.answer(401 if is_api else 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif parts[-1 if is_api else 3] not in ("main", repo.sha):
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif is_api:
            self.answer(200, json.dumps(listing(repo_id, repo)).encode(), {})
        else:
            self.file(repo, parts[-1])

    def file(self, repo: Repo, name: str) -> None:
        content = repo.files[name]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": repo.sha}
        if name in repo.large and self.name == "hub":
            digest = hashlib.sha256(content).hexdigest()
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{digest}"'}
            self.answer(302, b"", {**headers, **linked, "Location": self.hub.cdn_url + self.path})
            return
        self.answer(200, content, headers)

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        if self.command == "GET" and "/resolve/" in self.path:
            self.hub.hold(self.path)
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def listing(repo_id: str, repo: Repo) -> dict[str, Any]:
    siblings: list[dict[str, Any]] = []
    for name, content in repo.files.items():
        size = repo.sizes.get(name, len(content))
        each: dict[str, Any] = {"rfilename": name, "size": size}
        if name in repo.large:
            digest = repo.digests.get(name, hashlib.sha256(content).hexdigest())
            each["lfs"] = {"sha256": digest, "size": size, "pointerSize": 130}
        siblings.append(each)
    return {
        "id": repo_id,
        "modelId": repo_id,
        "sha": repo.sha,
        "siblings": siblings,
        "private": False,
        "tags": [],
    }


@contextmanager
def run_hub() -> Iterator[Hub]:
    hub = Hub("")
    handlers = [type(name, (Handler,), {"hub": hub, "name": name}) for name in ("hub", "cdn")]
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), each) for each in handlers]
    hub.url, hub.cdn_url = (f"http://127.0.0.1:{each.server_port}" for each in servers)
    # Told to stop it notices at its next look, which is half a second away where nobody says otherwise.
    threads = [threading.Thread(target=each.serve_forever, args=(0.01,)) for each in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
