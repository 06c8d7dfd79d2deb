"""The request log's page: found, rated, corrected, and made a file that can be trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.server.console.test_hostile import MARKUP, check
from tests.server.process import ServerProcess

if TYPE_CHECKING:
    from playwright.sync_api import Page

api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")


def ask(demo: ServerProcess, text: str, model: str = "formal") -> str:
    """Asked, and in the log."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 40,
        "temperature": 0,
    }
    got = httpx.post(f"{demo.url}/v1/chat/completions", json=body, timeout=60.0)
    answer: str = got.raise_for_status().json()["choices"][0]["message"]["content"]
    return answer


def logged(demo: ServerProcess, text: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = httpx.get(f"{demo.url}/v1/requests", params={"q": text}).json()["data"]
    return found


def test_it_is_found_rated_corrected_and_trained_on(page: Page, demo: ServerProcess) -> None:
    first = ask(demo, "Where is order 70001? Heidi")
    second = ask(demo, "Where is order 70002? Heidi")
    page.goto("/#/requests")
    page.get_by_label("Text in message or answer").fill("70001")
    rows = page.get_by_role("row").filter(has_text="Heidi")
    api.expect(rows).to_have_count(1)
    rows.get_by_role("button").click()
    entry = page.get_by_role("region", name="Request req-")
    api.expect(entry.get_by_label("Answer", exact=True)).to_have_text(first)
    entry.get_by_role("button", name="Good", exact=True).click()
    api.expect(entry.get_by_role("button", name="Good", exact=True)).to_have_attribute("aria-pressed", "true")
    assert [each["rating"] for each in logged(demo, "70001")] == ["up"]
    entry.get_by_label("What it should have been").fill("It is on its way, Heidi.")
    entry.get_by_role("button", name="Save the correction").click()
    api.expect(entry.get_by_role("button", name="Drop the correction")).to_be_visible()
    page.get_by_label("Text in message or answer").fill("Heidi")
    api.expect(rows).to_have_count(2)
    for box in rows.get_by_role("checkbox").all():
        box.check()
    making = page.get_by_role("region", name="Training set")
    making.get_by_role("button", name="Make it of 2").click()
    link = making.get_by_role("link", name="Train on it")
    api.expect(link).to_be_visible()
    api.expect(making).to_contain_text("2 rows in requests.jsonl")
    file = str(link.get_attribute("href")).partition("file=")[2]
    content = httpx.get(f"{demo.url}/v1/files/{file}/content").text
    assert "It is on its way, Heidi." in content
    assert first not in content
    assert second in content
    link.click()
    chosen = page.get_by_role("form", name="New job").get_by_label("Training file")
    api.expect(chosen).to_have_value(file)


def test_one_can_be_deleted(page: Page, demo: ServerProcess) -> None:
    ask(demo, "Where is order 70003? Judy")
    page.goto("/#/requests")
    page.get_by_label("Text in message or answer").fill("70003")
    page.get_by_role("row").filter(has_text="Judy").get_by_role("button").click()
    entry = page.get_by_role("region", name="Request req-")
    entry.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    api.expect(page.get_by_text("Nothing here is like that.")).to_be_visible()
    assert logged(demo, "70003") == []


def test_pages_of_it(page: Page, demo: ServerProcess) -> None:
    for number in range(21):
        ask(demo, f"Order {71000 + number} of Mallory", "triage")
    page.goto("/#/requests")
    # Without the filter twenty rows stand there, too, and "Older" would lead into them.
    with page.expect_response(lambda got: "/v1/requests?q=of+Mallory" in got.url):
        page.get_by_label("Text in message or answer").fill("of Mallory")
    rows = page.get_by_role("row").filter(has_text="Mallory")
    api.expect(rows).to_have_count(20)
    page.get_by_role("button", name="Older").click()
    api.expect(rows).to_have_count(1)
    page.get_by_role("button", name="Newer").click()
    api.expect(rows).to_have_count(20)


@pytest.mark.safety("security 16")
def test_what_people_write_is_shown_as_they_wrote_it(page: Page, demo: ServerProcess) -> None:
    ask(demo, f"Trent {MARKUP}")
    page.goto("/#/requests")
    page.get_by_label("Text in message or answer").fill("Trent")
    page.get_by_role("row").filter(has_text="Trent").get_by_role("button").click()
    api.expect(page.get_by_role("region", name="Request req-")).to_be_visible()
    check(page, MARKUP)
