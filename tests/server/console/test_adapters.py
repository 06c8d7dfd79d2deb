"""The page of adapters: every reason for a bad one, a good one registered and asked, names that go forward and back."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from lorikeet_adapters.base_source import demo_base
from tests.server.console.conftest import Watched
from tests.server.process import ServerProcess

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
DROP = "Drop an adapter's files here, or choose them"
EMBEDDED = demo_base().parent / "adapters"


def files_of(folder: Path) -> list[str]:
    return [str(folder / each) for each in ("adapter_config.json", "adapter_model.safetensors")]


def changed(folder: Path, adapter: str = "friendly", **fields: Any) -> list[str]:
    """The files of an embedded adapter with other values in its config."""
    config = json.loads((EMBEDDED / adapter / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | fields))
    weights = (EMBEDDED / adapter / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return files_of(folder)


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def new_alias(page: Page) -> tuple[Locator, Locator]:
    """The card of aliases, and in it the form for a new one."""
    aliases = card(page, "Aliases")
    aliases.get_by_role("button", name="New alias").click()
    return aliases, aliases.get_by_role("group", name="New alias")


def register(page: Page, name: str, files: list[str], *, replace: bool = False) -> None:
    page.get_by_label(DROP).set_input_files(files)
    adding = card(page, "Add an adapter")
    api.expect(adding.get_by_text("It can be applied exactly.")).to_be_visible()
    adding.get_by_label("Name").fill(name)
    if replace:
        adding.get_by_label(f"Replace what {name} means now").check()
    adding.get_by_role("button", name="Register").click()
    api.expect(adding.get_by_text(f"{name} is registered")).to_be_visible()


def asked(demo: ServerProcess, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "Where is order 99389? David"}]}
    got = httpx.post(
        f"{demo.url}/v1/chat/completions", json={**body, "temperature": 0, "max_tokens": 20}, timeout=60.0
    )
    text: str = got.raise_for_status().json()["choices"][0]["message"]["content"]
    return text


def test_the_table_says_what_is_registered(page: Page, demo: ServerProcess) -> None:
    asked(demo, "formal")
    page.goto("/#/adapters")
    record = httpx.get(f"{demo.url}/v1/adapters/formal").json()
    row = page.get_by_role("row").filter(has=page.get_by_role("button", name="formal", exact=True))
    api.expect(row.get_by_role("cell")).to_contain_text(
        ["device", "device", str(record["rank"]), "492 kB", record["generation"][:12], "0"]
    )
    row.get_by_role("button", name="formal").click()
    details = card(page, "Adapter formal")
    api.expect(details).to_contain_text(record["generation"])
    api.expect(details.get_by_role("link", name="Try it")).to_have_attribute(
        "href", "#/playground?with=formal"
    )


def test_a_bad_adapter_is_refused_with_every_reason(page: Page, demo: ServerProcess, tmp_path: Path) -> None:
    page.goto("/#/adapters")
    page.get_by_label(DROP).set_input_files(changed(tmp_path, use_qalora=True, bias="nonsense", r=3))
    adding = card(page, "Add an adapter")
    api.expect(adding.get_by_text("It cannot be applied and is refused.")).to_be_visible()
    form = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    trial = httpx.post(
        f"{demo.url}/v1/adapters?dry_run=true",
        files={name: (name, content) for name, content in form.items()},
        headers={"x-lorikeet": "1"},
    ).json()
    assert len({each["code"] for each in trial["findings"]}) >= 2
    for finding in trial["findings"]:
        api.expect(adding).to_contain_text(finding["fix"])
    assert adding.get_by_role("button", name="Register").count() == 0


def test_files_are_dropped_too(page: Page) -> None:
    page.goto("/#/adapters")
    made = """(files) => {
        const transfer = new DataTransfer();
        for (const [name, text] of files) {
            const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
        }
        return transfer;
    }"""
    paths = map(Path, files_of(EMBEDDED / "triage"))
    content = [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths]
    adding = card(page, "Add an adapter")
    adding.locator(".drop").dispatch_event("drop", {"dataTransfer": page.evaluate_handle(made, content)})
    api.expect(adding.get_by_text("It can be applied exactly.")).to_be_visible()


def test_files_that_come_one_by_one_and_others(page: Page) -> None:
    page.goto("/#/adapters")
    adding = card(page, "Add an adapter")
    config, weights = files_of(EMBEDDED / "triage")
    page.get_by_label(DROP).set_input_files(config)
    api.expect(adding).to_contain_text("adapter_model.safetensors is not among the files")
    page.get_by_label(DROP).set_input_files(weights)
    api.expect(adding.get_by_text("It can be applied exactly.")).to_be_visible()


def test_a_good_adapter_is_registered_replaced_and_rolled_back(
    page: Page, demo: ServerProcess, tmp_path: Path
) -> None:
    page.goto("/#/adapters")
    register(page, "support", files_of(EMBEDDED / "formal"))
    first = httpx.get(f"{demo.url}/v1/adapters/support").json()["generation"]
    assert asked(demo, "support") == asked(demo, "formal")
    register(page, "support", changed(tmp_path, "friendly"), replace=True)
    assert asked(demo, "support") == asked(demo, "friendly")
    details = card(page, "Adapter support")
    details.get_by_role("button", name=f"Roll back to {first[:12]}").first.click()
    api.expect(details).to_contain_text(f"support means {first[:12]} again.")
    assert httpx.get(f"{demo.url}/v1/adapters/support").json()["generation"] == first
    assert asked(demo, "support") == asked(demo, "formal")
    details.get_by_role("button", name="Pin to the device").click()
    api.expect(details.get_by_role("button", name="Let it be evicted")).to_be_visible()
    details.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    api.expect(details).to_have_count(0)
    assert httpx.get(f"{demo.url}/v1/adapters/support").status_code == 404


def test_an_alias_is_split_changed_and_rolled_back(page: Page, demo: ServerProcess) -> None:
    page.goto("/#/adapters")
    aliases, new = new_alias(page)
    new.get_by_label("Alias", exact=True).fill("help")
    new.get_by_label("Add a target").select_option("formal")
    new.get_by_role("button", name="Save help").click()
    api.expect(aliases).to_contain_text("help means formal.")
    assert asked(demo, "help") == asked(demo, "formal")
    aliases.locator("summary", has_text="help").click()
    editor = aliases.get_by_role("group", name="Targets of help")
    editor.get_by_label("Add a target").select_option("friendly")
    # The shares stand in hundredths there, whatever the weights: a canary begins with nothing.
    api.expect(editor.get_by_role("status")).to_have_text(["100.0 %", "0.0 %"])
    editor.get_by_role("slider", name="friendly").fill("25")
    editor.get_by_role("slider", name="formal").fill("75")
    api.expect(editor.get_by_role("status")).to_have_text(["75.0 %", "25.0 %"])
    editor.get_by_role("button", name="Save help").click()
    api.expect(aliases).to_contain_text("help means formal 75.0 %, friendly 25.0 %.")
    targets = httpx.get(f"{demo.url}/v1/aliases/help").json()["targets"]
    assert [(each["name"], each["weight"]) for each in targets] == [("formal", 75), ("friendly", 25)]
    aliases.get_by_role("button", name="Roll help back to formal").click()
    api.expect(aliases).to_contain_text("help means formal again.")
    assert len(httpx.get(f"{demo.url}/v1/aliases/help").json()["targets"]) == 1
    aliases.get_by_role("button", name="Remove help").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    api.expect(aliases.get_by_text("help is removed.")).to_be_visible()
    assert httpx.get(f"{demo.url}/v1/aliases/help").status_code == 404


def test_small_weights_are_the_same_shares(page: Page, demo: ServerProcess) -> None:
    targets = [{"name": "formal", "weight": 0.95}, {"name": "friendly", "weight": 0.05}]
    assert httpx.put(f"{demo.url}/v1/aliases/small", json={"targets": targets}).status_code == 201
    page.goto("/#/adapters")
    aliases = card(page, "Aliases")
    aliases.locator("summary", has_text="small").click()
    editor = aliases.get_by_role("group", name="Targets of small")
    api.expect(editor.get_by_role("status")).to_have_text(["95.0 %", "5.0 %"])
    editor.get_by_role("button", name="Save small").click()
    api.expect(aliases).to_contain_text("small means formal 95.0 %, friendly 5.0 %.")
    saved = httpx.get(f"{demo.url}/v1/aliases/small").json()["targets"]
    assert [each["weight"] for each in saved] == [pytest.approx(95), pytest.approx(5)]
    assert httpx.delete(f"{demo.url}/v1/aliases/small").status_code == 200


def test_what_another_hand_did_meanwhile_is_said(page: Page, demo: ServerProcess, watched: Watched) -> None:
    page.goto("/#/adapters")
    aliases, new = new_alias(page)
    new.get_by_label("Alias", exact=True).fill("formal")
    new.get_by_label("Add a target").select_option("triage")
    new.get_by_role("button", name="Save formal").click()
    api.expect(aliases.get_by_role("alert")).to_contain_text("formal")
    assert httpx.get(f"{demo.url}/v1/aliases/formal").status_code == 404
    watched.refused.clear()
