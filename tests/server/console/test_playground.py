"""The playground: what it shows is what the routes answer, and the code beside it does the same."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.server.console.conftest import Watched
from tests.server.process import ServerProcess

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
MESSAGE = "Order 99389. The chair arrived with a crack and a damaged part. Please reply soon. David"
OTHER = "Order 99390. The chair arrived with a crack and a damaged part. Please reply soon. David"


def column(page: Page, number: int) -> Locator:
    return page.get_by_role("region", name=f"Answer {number}", exact=True)


def said(page: Page, number: int) -> str:
    """The text of an answer once it is complete."""
    box = column(page, number).locator(".tokens")
    api.expect(column(page, number).locator("p.facts")).to_contain_text("ended by itself")
    api.expect(box).to_have_attribute("aria-busy", "false")
    return "".join(box.locator(".token").all_text_contents())


def answer(demo: ServerProcess, **body: Any) -> str:
    asked = {"temperature": 0, "max_tokens": 100, "messages": [{"role": "user", "content": MESSAGE}], **body}
    got = httpx.post(f"{demo.url}/v1/chat/completions", json=asked, timeout=60.0)
    text: str = got.raise_for_status().json()["choices"][0]["message"]["content"]
    return text


def mix(**weights: float) -> list[dict[str, object]]:
    return [{"name": name, "weight": weight} for name, weight in weights.items()]


def test_a_newcomer_sees_the_base_beside_a_blend(page: Page, demo: ServerProcess) -> None:
    page.goto("/")
    assert said(page, 1) == answer(demo, model="demo")
    assert said(page, 2) == answer(demo, model="demo", adapters=mix(formal=0.4, friendly=0.35))


def test_an_answer_follows_the_slider(page: Page, demo: ServerProcess) -> None:
    page.goto("/")
    before = said(page, 2)
    column(page, 2).get_by_role("slider", name="formal").fill("0")
    column(page, 2).get_by_role("slider", name="friendly").fill("1")
    expected = answer(demo, model="demo", adapters=mix(formal=0.0, friendly=1.0))
    assert expected != before
    api.expect(column(page, 2).locator(".tokens")).to_have_text(expected)
    assert column(page, 2).get_by_role("heading").inner_text().endswith("formal 0 + friendly 1")


def test_one_adapter_at_less_than_its_strength(page: Page, demo: ServerProcess) -> None:
    page.goto("/#/playground?with=formal")
    before = said(page, 2)
    column(page, 2).get_by_role("slider", name="formal").fill("-0.5")
    expected = answer(demo, model="demo", adapters=mix(formal=-0.5))
    assert expected != before
    api.expect(column(page, 2).locator(".tokens")).to_have_text(expected)


def test_sliders_go_from_minus_one_to_one_and_a_half_by_keyboard_too(page: Page, demo: ServerProcess) -> None:
    page.goto("/")
    said(page, 2)
    slider = column(page, 2).get_by_role("slider", name="formal")
    slider.focus()
    page.keyboard.press("Home")
    api.expect(slider).to_have_value("-1")
    page.keyboard.press("End")
    api.expect(slider).to_have_value("1.5")
    expected = answer(demo, model="demo", adapters=mix(formal=1.5, friendly=0.35))
    api.expect(column(page, 2).locator(".tokens")).to_have_text(expected)


def test_four_mixes_beside_each_other_and_their_differences(page: Page, demo: ServerProcess) -> None:
    page.goto("/#/playground?with=formal")
    first = said(page, 1)
    assert said(page, 2) == answer(demo, model="formal") != first
    others = column(page, 2).locator(".token.other").all_text_contents()
    assert others
    assert "".join(others) != said(page, 2)  # some of it is the same
    for name in ("triage", "extract"):
        page.get_by_role("button", name="Add an answer to compare").click()
        number = page.locator(".column").count()
        column(page, number).get_by_role("button", name="Take formal out").click()
        column(page, number).get_by_label("Add an adapter").select_option(name)
        api.expect(column(page, number).locator(".tokens")).to_have_text(answer(demo, model=name))
        if name == "triage":
            page.locator(".column").nth(2).get_by_role("button", name="Take triage out").click()
            column(page, 3).get_by_label("Add an adapter").select_option("formal")
    api.expect(page.get_by_role("button", name="Add an answer to compare")).to_have_count(0)
    api.expect(page.locator(".column")).to_have_count(4)


def test_a_token_tells_what_else_it_could_have_been(page: Page) -> None:
    page.goto("/")
    said(page, 2)
    column(page, 2).locator(".tokens").focus()
    page.keyboard.press("ArrowRight")
    told = column(page, 2).locator(".alternatives")
    api.expect(told.locator("strong")).to_contain_text("Dear")
    api.expect(told.locator("li")).to_have_count(5)
    page.keyboard.press("ArrowRight")
    api.expect(told.locator("strong")).not_to_contain_text("Dear")


def test_a_conversation_goes_on(page: Page, demo: ServerProcess) -> None:
    page.goto("/")
    first = said(page, 2)
    # What is typed meanwhile is another message; the answer is the first one's.
    page.get_by_label("Message", exact=True).fill("Something else.")
    api.expect(column(page, 2).get_by_text("It answered what was asked before")).to_be_visible()
    page.get_by_role("button", name="Go on from answer 2").click()
    page.get_by_label("Message", exact=True).fill("Thank you. When will it come?")
    page.get_by_label("Message", exact=True).press("Control+Enter")
    turns = [
        {"role": "user", "content": MESSAGE},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Thank you. When will it come?"},
    ]
    expected = answer(demo, model="demo", messages=turns)
    api.expect(column(page, 1).locator(".tokens")).to_have_text(expected)


def test_a_completion_goes_on_from_the_text(page: Page, demo: ServerProcess) -> None:
    page.goto("/")
    said(page, 1)
    page.get_by_label("Mode").select_option("completion")
    page.get_by_label("Text to go on from").fill("Dear David, we regret")
    page.get_by_label("Max tokens").fill("12")
    page.get_by_role("button", name="Generate", exact=True).click()
    body = {"model": "demo", "prompt": "Dear David, we regret", "temperature": 0, "max_tokens": 12}
    got = httpx.post(f"{demo.url}/v1/completions", json=body, timeout=60.0).json()["choices"][0]["text"]
    api.expect(column(page, 1).locator(".tokens")).to_have_text(got)


def test_the_code_beside_it_gives_the_same_answer(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Message", exact=True).fill('It\'s "late", David says: $HOME `x` \\ 99389')
    page.get_by_role("button", name="Generate", exact=True).click()
    api.expect(column(page, 2).locator("p.facts")).to_be_visible()
    expected = said(page, 2)
    page.get_by_text("As code").click()
    page.get_by_label("Of answer").select_option("1")
    curl = page.get_by_label("curl", exact=True).inner_text()
    answered = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(answered.stdout)["choices"][0]["message"]["content"] == expected
    script = page.get_by_label("Python", exact=True).inner_text()
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout == f"{expected}\n"
    page.get_by_role("button", name="Copy the curl code").click()
    assert page.evaluate("navigator.clipboard.readText()") == curl


def test_a_look_at_another_page_costs_nothing(page: Page, demo: ServerProcess) -> None:
    page.goto("/")
    said(page, 2)
    page.get_by_label("Message", exact=True).fill(OTHER)
    column(page, 2).get_by_role("slider", name="formal").fill("0")
    column(page, 2).get_by_role("slider", name="friendly").fill("1")
    friendly = answer(demo, model="friendly", messages=[{"role": "user", "content": OTHER}])
    api.expect(column(page, 2).locator(".tokens")).to_have_text(friendly)
    before = said(page, 2)
    for name in ("Adapters", "Playground"):
        page.get_by_role("link", name=name, exact=True).click()
        api.expect(page.get_by_role("heading", level=1)).to_have_text(name)
    api.expect(page.get_by_label("Message", exact=True)).to_have_value(OTHER)
    assert said(page, 2) == before


def test_what_is_refused_is_said_where_it_was_asked(page: Page, watched: Watched) -> None:
    page.goto("/")
    said(page, 1)
    page.get_by_label("Max tokens").fill("100000")
    page.get_by_role("button", name="Generate", exact=True).click()
    api.expect(column(page, 1).get_by_role("alert")).to_contain_text("the context holds")
    api.expect(column(page, 2).get_by_role("alert")).to_contain_text("the context holds")
    watched.refused.clear()
