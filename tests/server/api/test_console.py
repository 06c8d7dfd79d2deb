"""GET /: what the console is sent with, where it is there, and that its libraries are what their packages ship."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lorikeet_adapters.errors import RefusedError
from lorikeet_server.api import console
from lorikeet_server.checks import open_keys
from lorikeet_server.config import Console, HttpConfig
from tests.server.world import Server, client_of

VENDOR = console.FOLDER / "vendor"
# SHA-256 of the files as the packages of these versions ship them.
SHIPPED = {
    "LICENSE-htm": "740725f7252e750af735d0028cc534970772f513331e9f68150fede8fb3ce00f",
    "LICENSE-preact": "1fe6958409c8c257a70c587a18b6f7f412b179b456630790d30b2ec9a8e4b7d4",
    "LICENSE-uplot": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "htm.js": "ab33dd3f38059b9be4d5f5350128eefb2356639c4e0bbe9d9e8b3ba75847e9e4",
    "preact-hooks.js": "e862ab2973aa6455eaa0f77c5d832d2157d6be59a17c8ba546550a575b58c6b4",
    "preact.js": "bdcbd9abdf2c77c5c45326eab42191e949222d479d0d5f69467387a77040cb55",
    "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uplot.js": "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
}
LOCAL = HttpConfig()
OPEN = HttpConfig(host="0.0.0.0", insecure=True)


def test_every_file_of_a_library_is_as_it_was_published() -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.iterdir()}
    del found["README.md"]
    assert found == SHIPPED


@pytest.mark.safety("security 16")
def test_the_page_is_sent_with_a_policy_that_allows_nothing_inline(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    policy = dict(each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == policy["connect-src"] == policy["img-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    (inline,) = re.findall(r"<script(?![^>]*src=)[^>]*>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert not re.search(r"\son\w+=|style=|<style|javascript:", answer.text)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_file_that_the_page_names_is_there(client: TestClient) -> None:
    page = client.get("/").text
    named = set(re.findall(r'(?:href|src)="(console/[^"]+)"', page)) | set(
        re.findall(r'"\./(console/[^"]+)"', page)
    )
    assert len(named) > 8
    for name in sorted(named):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["content-security-policy"]
        assert client.get(f"/{name}", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_modules_import_only_what_is_there() -> None:
    for path in console.FOLDER.rglob("*.js"):
        if path.parent == VENDOR:
            continue
        for target in re.findall(r"(?:from|import)\s*\(?\s*\"(\.[^\"]+)\"", path.read_text()):
            assert (path.parent / target).resolve().is_file(), f"{path.name} imports {target}"


@pytest.mark.parametrize(
    "name", ["../config.py", "..%2fconfig.py", "vendor", "", "vendor/LICENSE-htm", "nope.js"]
)
def test_nothing_else_of_the_disk_is_sent(client: TestClient, name: str) -> None:
    assert client.get(f"/console/{name}").status_code == 404


@pytest.mark.safety("security 16")
@pytest.mark.parametrize(
    ("http", "shown"),
    [
        (LOCAL, True),
        (replace(LOCAL, host="::1"), True),
        (replace(LOCAL, console=Console.OFF), False),
        (replace(LOCAL, api_keys="keys.toml"), True),
        (replace(LOCAL, insecure=True), False),
        (OPEN, False),
        (HttpConfig(host="0.0.0.0", api_keys="keys.toml"), False),
        (HttpConfig(host="0.0.0.0", api_keys="keys.toml", console=Console.ON), True),
    ],
)
def test_it_is_there_where_only_this_machine_can_reach_it_or_where_a_flag_says_so(
    http: HttpConfig, shown: bool
) -> None:
    assert http.shows_console is shown


@pytest.mark.safety("security 16")
@pytest.mark.parametrize("http", [OPEN, replace(LOCAL, insecure=True), HttpConfig(host="0.0.0.0")])
def test_without_keys_nobody_else_is_ever_given_it(http: HttpConfig) -> None:
    with pytest.raises(RefusedError, match="--console on"):
        open_keys(replace(http, console=Console.ON))


def test_where_it_is_off_it_says_how_to_have_it(server: Server) -> None:
    services = server.app.state.services
    server.app.state.services = replace(services, http=replace(services.http, console=Console.OFF))
    with client_of(server.app) as client:
        for path in ("/", "/console/main.js"):
            answer = client.get(path)
            assert answer.status_code == 404
            assert "--console on" in answer.text


def test_the_folder_holds_what_can_be_sent_and_what_says_where_it_comes_from() -> None:
    others = {
        path.relative_to(console.FOLDER).as_posix()
        for path in console.FOLDER.rglob("*")
        if path.is_file() and path.suffix not in console.MEDIA
    }
    assert others == {"vendor/README.md", *(f"vendor/LICENSE-{each}" for each in ("htm", "preact", "uplot"))}
    assert Path(console.FOLDER / console.SHELL).is_file()
