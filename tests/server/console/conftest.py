"""The console in a real browser, beside a demo server of its own. Skipped where there is no browser to drive."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.server.process import ServerProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 20_000  # what a page may take on a machine that also generates


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where it is; skips what needs it where it, or what drives it, is not installed."""
    pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on the PATH")
    return CHROMIUM


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """For one file: as long as Playwright is there, this thread has an event loop, which other tests do not expect."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        # As root Chromium has no sandbox, and says so instead of starting.
        found = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield found
        found.close()


@pytest.fixture(scope="session")
def demo(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The demo, as `make demo` serves it; asks for the browser first, so that nothing is started in vain."""
    made = ServerProcess(tmp_path_factory.mktemp("console"), "--model", "demo", "--request-log")
    yield made
    made.close()


@pytest.fixture(scope="session")
def demo_url(demo: ServerProcess) -> str:
    return demo.url


def names_at(url: str) -> set[str]:
    """Paths of the adapters and aliases that are registered there."""
    return {
        f"/v1/{kind}/{each['id']}"
        for kind in ("aliases", "adapters")
        for each in httpx.get(f"{url}/v1/{kind}", params={"limit": 100}).raise_for_status().json()["data"]
    }


@pytest.fixture(scope="session")
def embedded(demo_url: str) -> frozenset[str]:
    """The names that the demo comes with."""
    return frozenset(names_at(demo_url))


@pytest.fixture
def tidied(demo_url: str, embedded: frozenset[str]) -> Iterator[None]:
    """What a test registered is gone afterwards: the next one, of whatever file, finds the demo as it comes."""
    yield
    # An alias first: a name that one of them means stays.
    for path in sorted(names_at(demo_url) - embedded, reverse=True):
        httpx.delete(f"{demo_url}{path}").raise_for_status()
    assert names_at(demo_url) == embedded


class Watched:
    """What a page did that it must not: errors, requests to anywhere else, refusals by its own policy."""

    def __init__(self, page: Page, url: str) -> None:
        self.faults: list[str] = []
        self.refused: list[str] = []  # answers of 400 and more; a test that provokes one clears it
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("console", lambda said: self._hear(said.type, said.text))
        page.on(
            "request",
            lambda sent: (
                sent.url.startswith((url, "blob:", "data:")) or self.faults.append(f"sent to {sent.url}")
            ),
        )

    def _hear(self, kind: str, text: str) -> None:
        if kind not in ("error", "warning"):
            return
        # Chromium says this of every answer of 400 and more, whatever the page makes of it.
        (self.refused if text.startswith("Failed to load resource") else self.faults).append(text)


@pytest.fixture
def watched(page: Page, demo: ServerProcess) -> Watched:
    """Of the test's page, before anything is loaded."""
    watched: Watched = page.watched  # type: ignore[attr-defined]
    return watched


@pytest.fixture
def page(browser: Browser, demo: ServerProcess, tidied: None) -> Iterator[Page]:
    """A fresh page; afterwards it must have made no error and asked nobody but the server."""
    context = browser.new_context(base_url=demo.url, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.watched = watched = Watched(page, demo.url)  # type: ignore[attr-defined]
    yield page
    context.close()
    assert watched.faults == []
    assert watched.refused == []
