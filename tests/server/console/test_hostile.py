"""Whatever somebody named, uploaded or had generated is shown as the text it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import pytest

from lorikeet_adapters.base_source import demo_base
from tests.server.console.conftest import Watched
from tests.server.process import ServerProcess

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = pytest.mark.safety("security 16")
MARKUP = '<img src=x onerror="window.broken=1"><script>window.broken=1</script><b id=bold>\'"&lt;'
NAME = "<img/src=x/onerror=window.broken=1>"
FOLDER = demo_base().parent / "adapters" / "friendly"


def check(page: Page, *texts: str) -> None:
    """Each is there to be read, and nothing of it has become an element or run."""
    for text in texts:
        api.expect(page.get_by_text(text).first).to_be_attached()
    assert page.evaluate("window.broken") is None
    assert page.locator("img[src='x'], script:not([src]):not([type='importmap']), #bold").count() == 0


def register(demo: ServerProcess, name: str, **fields: object) -> httpx.Response:
    files = {
        each: (each, (FOLDER / each).read_bytes())
        for each in ("adapter_config.json", "adapter_model.safetensors")
    }
    data = {"name": name, **{key: json.dumps(value) for key, value in fields.items()}}
    return httpx.post(
        f"{demo.url}/v1/adapters", data=data, files=files, headers={"x-lorikeet": "1"}, timeout=60.0
    )


def renamed(*names: str) -> Callable[[Route], None]:
    """Answers in which these names are markup: the registry refuses such names, the page must not rely on that."""

    def change(route: Route) -> None:
        answer = route.fetch()
        text = answer.text()
        for name in names:
            text = text.replace(f'"{name}"', json.dumps(NAME))
        assert NAME in text
        route.fulfill(response=answer, body=text)

    return change


def test_labels_of_adapters(page: Page, demo: ServerProcess) -> None:
    assert register(demo, "labelled", metadata={MARKUP: MARKUP}).status_code == 201
    page.goto("/#/adapters")
    page.get_by_role("button", name="labelled", exact=True).click()
    check(page, MARKUP)


def test_names_of_adapters_and_aliases(page: Page, demo: ServerProcess, watched: Watched) -> None:
    assert register(demo, NAME).status_code == 400
    targets = {"targets": [{"name": "formal", "weight": 1}]}
    assert httpx.put(f"{demo.url}/v1/aliases/hostile", json=targets).status_code == 201
    page.route("**/v1/adapters?*", renamed("formal"))
    page.route("**/v1/aliases?*", renamed("hostile", "formal"))
    page.goto("/#/adapters")
    page.get_by_role("button", name=NAME, exact=True).click()
    page.get_by_role("button", name="Delete").click()
    check(page, f"Delete {NAME}?")
    page.keyboard.press("Escape")
    page.locator("summary", has_text=NAME).click()
    check(page, f"Remove {NAME}")
    page.goto(f"/#/playground?with={quote(NAME)}")
    page.get_by_text("As code").click()
    check(page, f"{NAME}")
    api.expect(page.get_by_role("region", name="Answer 2", exact=True).get_by_role("alert")).to_contain_text(
        NAME
    )
    watched.refused.clear()  # nobody has that name


def test_the_name_of_the_base(page: Page, watched: Watched) -> None:
    page.route("**/info", renamed("demo"))
    for name in ("adapters", "training", "traffic", "requests", "playground"):
        page.goto(f"/#/{name}")
        api.expect(page.get_by_role("heading", level=1)).to_have_text(name.capitalize())
        check(page, NAME)
    api.expect(page.get_by_role("alert").first).to_contain_text(NAME)
    watched.refused.clear()  # the playground asks for it, and nobody has that name


def test_findings_of_an_upload(page: Page, tmp_path: Path) -> None:
    config = json.loads((FOLDER / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({**config, "bias": MARKUP, "target_modules": [MARKUP]})
    )
    page.goto("/#/adapters")
    page.get_by_label("Drop an adapter's files here, or choose them").set_input_files(
        [tmp_path / "adapter_config.json", FOLDER / "adapter_model.safetensors"]
    )
    api.expect(page.get_by_text("It cannot be applied and is refused.")).to_be_visible()
    check(page, "<img src=x")


def test_errors(page: Page, demo: ServerProcess, watched: Watched) -> None:
    page.goto("/#/adapters")
    aliases = page.get_by_role("region", name="Aliases", exact=True)
    aliases.get_by_role("button", name="New alias").click()
    new = aliases.get_by_role("group", name="New alias")
    new.get_by_label("Alias", exact=True).fill("-<b id=bold>")
    new.get_by_label("Add a target").select_option("triage")
    new.get_by_role("button", name="Save").click()
    api.expect(aliases.get_by_role("alert")).to_be_visible()
    check(page, "<b id=bold>")
    watched.refused.clear()


def test_generated_text(page: Page) -> None:
    """The model's words stand for those of any base: the stream is the server's own, but for them."""

    def hostile(route: Route) -> None:
        answer = route.fetch()
        text = answer.text().replace('"content":"Thank"', f'"content":{json.dumps(MARKUP)}')
        assert MARKUP[:4] in text
        route.fulfill(response=answer, body=text.replace('"token":"Thank"', f'"token":{json.dumps(MARKUP)}'))

    page.route("**/v1/chat/completions", hostile, times=1)
    page.goto("/")
    box = page.get_by_role("region", name="Answer 1", exact=True)
    api.expect(box.locator(".tokens")).to_contain_text(MARKUP)
    box.locator(".tokens").focus()
    page.keyboard.press("ArrowRight")
    api.expect(box.locator(".alternatives")).to_be_visible()
    check(page, MARKUP)
