"""What holds for every page: nothing but the server is asked, everything has a name, it fits, and it is soon there."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.server.process import ServerProcess

api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
PAGES = {
    "playground": "Playground",
    "adapters": "Adapters",
    "training": "Training",
    "traffic": "Traffic",
    "requests": "Requests",
}
SOON_MS = 1000
# The controls that a screen reader would call by nothing.
NAMELESS = """() => [...document.querySelectorAll('input, select, textarea, button, a[href], summary, meter, progress, [role=region], [role=group], dialog')]
    .filter((each) => each.checkVisibility())
    .filter((each) => !(each.getAttribute('aria-label') || each.labels?.length && [...each.labels].some((label) => label.textContent.trim())
        || ['BUTTON', 'A', 'SUMMARY'].includes(each.tagName) && each.textContent.trim()))
    .map((each) => each.outerHTML.slice(0, 200))"""


def shown(page: Page, name: str) -> None:
    page.goto(f"/#/{name}")
    api.expect(page.get_by_role("heading", level=1)).to_have_text(PAGES[name])
    page.wait_for_load_state("networkidle")


@pytest.mark.parametrize("name", PAGES)
def test_everybody_can_use_it(page: Page, name: str) -> None:
    """Controls have names, headings are in order, text stands out in both sets of colours, and it fits a telephone."""
    shown(page, name)
    assert page.evaluate(NAMELESS) == []
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4')].map((each) => Number(each.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert page.evaluate(CONTRASTS) == [], scheme
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_function("document.documentElement.scrollWidth <= 360")


def test_all_pages_are_reached_by_keyboard_alone(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    api.expect(page.get_by_role("link", name="To the content")).to_be_focused()
    for title in list(PAGES.values())[:2]:
        page.keyboard.press("Tab")
        api.expect(page.get_by_role("link", name=title, exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    api.expect(page.get_by_role("heading", level=1)).to_have_text("Adapters")


def test_the_first_paint_comes_soon(browser: Browser, demo: ServerProcess) -> None:
    """Of a browser that has nothing of it yet; the best of three, as the machine does other things, too."""
    taken = []
    for _ in range(3):
        context = browser.new_context(base_url=demo.url)
        page = context.new_page()
        page.goto("/")
        taken.append(
            page.evaluate(
                """() => new Promise((done) => new PerformanceObserver((list, observer) => {
                    const found = list.getEntriesByName('first-contentful-paint')[0];
                    if (found) { observer.disconnect(); done(found.startTime); }
                }).observe({ type: 'paint', buffered: true }))"""
            )
        )
        context.close()
    assert min(taken) < SOON_MS


def test_the_colours_can_be_chosen_and_stay(page: Page) -> None:
    page.goto("/")
    ground = "getComputedStyle(document.body).backgroundColor"
    colours, whole = page.get_by_label("Colours", exact=True), api.expect(page.locator("html"))
    colours.select_option("light")
    whole.to_have_css("color-scheme", "light")
    light = page.evaluate(ground)
    colours.select_option("dark")
    whole.to_have_css("color-scheme", "dark")
    dark = page.evaluate(ground)
    assert light != dark
    page.reload()
    api.expect(colours).to_have_value("dark")
    whole.to_have_css("color-scheme", "dark")
    assert page.evaluate(ground) == dark


# What is under 4.5 to 1, as WCAG asks of text: body text, quiet text, buttons and tags alike.
CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return canvas.getImageData(0, 0, 1, 1).data; };
  const light = ([red, green, blue]) => [red, green, blue].map((each) => each / 255)
      .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4))
      .reduce((sum, each, place) => sum + each * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = (each) => { for (let at = each; at; at = at.parentElement) { const colour = rgba(getComputedStyle(at).backgroundColor); if (colour[3] === 255) return colour; } return rgba('white'); };
  const bad = [];
  for (const each of document.querySelectorAll('#app *')) {
    const own = [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !each.checkVisibility() || each.disabled || each.closest('svg, .skip, option')) continue;
    const [one, two] = [light(rgba(getComputedStyle(each).color)), light(ground(each))].sort((left, right) => right - left);
    const ratio = (one + 0.05) / (two + 0.05);
    if (ratio < 4.5) bad.push([each.outerHTML.slice(0, 120), ratio]);
  }
  return bad;
}"""
