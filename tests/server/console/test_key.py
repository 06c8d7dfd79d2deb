"""The console of a server with keys: nothing of the server's is seen before a key is typed in, and only what it may."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from lorikeet_server.keyring import add_key
from tests.server.process import ServerProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    scopes = {"operator": ["generate", "admin", "metrics"], "client": ["generate"]}
    return {"file": str(file), **{name: add_key(file, name, each, None) for name, each in scopes.items()}}


@pytest.fixture(scope="module")
def closed(
    chromium: str, secrets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    made = ServerProcess(tmp_path_factory.mktemp("closed"), "--model", "demo", "--api-keys", secrets["file"])
    yield made
    made.close()


@pytest.fixture
def stranger(browser: Browser, closed: ServerProcess) -> Iterator[Page]:
    context = browser.new_context(base_url=closed.url)
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()


def enter(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Enter").click()


def test_a_stranger_sees_a_question_for_the_key_on_every_page(stranger: Page) -> None:
    for page in ("playground", "adapters", "training", "traffic", "requests"):
        stranger.goto(f"/#/{page}")
        api.expect(stranger.get_by_role("heading", level=1)).to_have_text("A key is needed")
        assert "demo" not in stranger.locator("main").inner_text()
    enter(stranger, "\u201cwrong\u201d")
    api.expect(stranger.get_by_role("alert")).to_contain_text("copy it again")
    enter(stranger, "wrong")
    api.expect(stranger.get_by_role("alert")).to_be_visible()


def test_the_operators_key_opens_it_for_this_tab_alone(
    stranger: Page, closed: ServerProcess, browser: Browser, secrets: dict[str, str]
) -> None:
    stranger.goto("/#/adapters")
    enter(stranger, secrets["operator"])
    api.expect(stranger.get_by_role("button", name="triage", exact=True)).to_be_visible()
    stranger.reload()
    api.expect(stranger.get_by_role("button", name="triage", exact=True)).to_be_visible()
    assert stranger.context.cookies() == []
    assert secrets["operator"] not in str(stranger.evaluate("({...localStorage})"))
    stranger.goto("/#/playground")
    stranger.get_by_text("As code").click()
    code = stranger.locator("details.code").inner_text()
    assert "LORIKEET_API_KEY" in code
    assert secrets["operator"] not in code
    stranger.get_by_role("button", name="Forget the key").click()
    api.expect(stranger.get_by_role("heading", level=1)).to_have_text("A key is needed")


def test_what_a_key_may_not_is_said(stranger: Page, secrets: dict[str, str]) -> None:
    stranger.goto("/#/adapters")
    enter(stranger, secrets["client"])
    api.expect(stranger.get_by_role("alert").first).to_contain_text("lacks the scope `admin`")
    stranger.goto("/#/playground")  # this it may
    api.expect(stranger.locator(".column p.facts")).to_have_count(2)
