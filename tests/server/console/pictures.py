"""The pictures of docs/console, taken of the demo as it is: `python -m tests.server.console.pictures [NAME ...]`.

To be made again when a page has changed how it looks, and looked at.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, expect, sync_playwright

from lorikeet_adapters.base_source import demo_base
from lorikeet_trainer.demo.tasks import rows
from tests.server.console.conftest import CHROMIUM, PATIENCE_MS
from tests.server.process import ServerProcess

OUT = Path(__file__).resolve().parents[3] / "docs" / "console"
WIDE, TELEPHONE = (1280, 800), (360, 740)
TRAINED_MS = 600_000
EMBEDDED = demo_base().parent / "adapters"
DROP_ROWS = "Drop a file of JSON lines"
ASKED = (
    "Where is order 12345? Anna",
    "Order 99389. The chair arrived with a crack and a damaged part. Please reply soon. David",
    "I was charged twice for order 40115. Please refund me. Maria",
)


def blend(page: Page, _: str) -> None:
    page.goto("/")
    expect(page.locator(".column p.facts")).to_have_count(2)
    column = page.get_by_role("region", name="Answer 2", exact=True)
    column.locator(".tokens").focus()
    for _step in range(17):
        page.keyboard.press("ArrowRight")
    expect(column.locator(".alternatives strong")).to_contain_text("broke")


def adapters(page: Page, url: str) -> None:
    for targets in ([("formal", 100)], [("formal", 95), ("friendly", 5)]):
        body = {"targets": [{"name": name, "weight": weight} for name, weight in targets]}
        httpx.put(f"{url}/v1/aliases/help", json=body).raise_for_status()
    page.goto("/#/adapters")
    page.get_by_role("button", name="formal", exact=True).click()
    page.locator("summary", has_text="help").click()
    page.get_by_label("Drop an adapter's files here").set_input_files(bad_adapter())
    expect(page.get_by_text("It cannot be applied and is refused.")).to_be_visible()


def findings(page: Page, _: str) -> None:
    page.goto("/#/training")
    page.get_by_label(DROP_ROWS).set_input_files(bad_rows())
    expect(page.get_by_text("cannot be trained on")).to_be_visible(timeout=TRAINED_MS)


def training(page: Page, _: str) -> None:
    """A job to its end, and the adapter that it made asked beside the base."""
    page.goto("/#/training")
    page.get_by_label(DROP_ROWS).set_input_files(good_rows())
    expect(page.get_by_text("can be trained on.")).to_be_visible(timeout=TRAINED_MS)
    form = page.get_by_role("form", name="New job")
    form.get_by_label("Training file").select_option(label=option(page, "triage.jsonl"))
    form.get_by_label("Suffix").fill("triage")
    form.get_by_role("button", name="Start training").click()
    job = page.get_by_role("region", name="Job", exact=True)
    expect(job.get_by_text("The gate has")).to_be_visible(timeout=TRAINED_MS)
    job.evaluate("(each) => window.scrollTo(0, each.getBoundingClientRect().top + scrollY - 8)")


def trained(page: Page, url: str) -> None:
    """After `training`: chatting with what it made."""
    jobs = httpx.get(f"{url}/v1/fine_tuning/jobs").json()["data"]
    page.goto(f"/#/playground?with={jobs[0]['fine_tuned_model']}")
    expect(page.locator(".column p.facts")).to_have_count(2)


def evaluation(page: Page, url: str) -> None:
    """After `training`: what it made beside the demo's own adapter, on rows that neither has seen."""
    page.goto("/#/adapters")
    panel = page.get_by_role("region", name="Evaluation", exact=True)
    panel.scroll_into_view_if_needed()
    panel.get_by_label("Drop").set_input_files(held_out())
    jobs = httpx.get(f"{url}/v1/fine_tuning/jobs").json()["data"]
    for name in ("triage", jobs[0]["fine_tuned_model"]):
        panel.get_by_label(name, exact=True).check()
    panel.get_by_role("button", name="Evaluate").click()
    expect(panel.get_by_text("Confusion").first).to_be_visible(timeout=TRAINED_MS)
    panel.evaluate("(each) => window.scrollTo(0, each.getBoundingClientRect().top + scrollY - 8)")


def traffic(page: Page, url: str) -> None:
    page.goto("/#/traffic")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    with httpx.Client(timeout=60.0) as client:
        for round_ in range(30):
            for name in ("formal", "friendly", "triage", "demo"):
                message = {"role": "user", "content": ASKED[round_ % len(ASKED)]}
                body = {"model": name, "messages": [message], "max_tokens": 40}
                client.post(f"{url}/v1/chat/completions", json=body).raise_for_status()
            page.wait_for_timeout(300)
    page.wait_for_timeout(3000)


def requests(page: Page, _: str) -> None:
    page.goto("/#/requests")
    page.get_by_role("table").get_by_role("button").first.click()
    expect(page.get_by_label("What it should have been")).to_be_visible()


def bad_adapter() -> list[Path]:
    folder = Path(tempfile.mkdtemp())
    config = json.loads((EMBEDDED / "friendly" / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_qalora": True, "bias": "some"}))
    return [folder / "adapter_config.json", EMBEDDED / "friendly" / "adapter_model.safetensors"]


def lines(count: int, split: str = "train") -> list[str]:
    made = rows("triage", "heldout" if split == "heldout" else "train", count, 0)
    return [json.dumps(each, ensure_ascii=False) for each in made]


def written(name: str, content: list[str]) -> Path:
    path = Path(tempfile.mkdtemp()) / name
    path.write_text("\n".join(content) + "\n")
    return path


def bad_rows() -> Path:
    good = lines(20)
    bad = ['{"messages": [{"role": "user"}]}', '{"messages": []}', "not JSON"]
    return written("broken.jsonl", [*good[:5], *bad, *good[5:]])


def good_rows() -> Path:
    return written("triage.jsonl", lines(300))


def held_out() -> Path:
    return written("heldout.jsonl", lines(60, "heldout"))


def option(page: Page, name: str) -> str:
    found = (
        page.get_by_role("form", name="New job")
        .get_by_label("Training file")
        .locator("option", has_text=name)
    )
    return found.first.inner_text()


Picture = tuple[str, Callable[[Page, str], None], tuple[int, int], str]
# Name of the file, what is done before, the window, the colours. Later ones see what earlier ones did.
PICTURES: list[Picture] = [
    ("blend", blend, WIDE, "light"),
    ("blend-dark", blend, WIDE, "dark"),
    ("blend-telephone", blend, TELEPHONE, "light"),
    ("adapters", adapters, WIDE, "light"),
    ("findings", findings, WIDE, "light"),
    ("training", training, WIDE, "light"),
    ("trained", trained, WIDE, "dark"),
    ("evaluation", evaluation, WIDE, "light"),
    ("traffic", traffic, WIDE, "light"),
    ("traffic-dark", traffic, WIDE, "dark"),
    ("requests", requests, WIDE, "light"),
]
IN_FULL = {"blend", "blend-dark", "adapters", "findings", "traffic", "evaluation", "requests"}


def take(browser: Browser, url: str, picture: Picture) -> None:
    name, prepare, (width, height), scheme = picture
    context = browser.new_context(
        base_url=url, viewport={"width": width, "height": height}, color_scheme=scheme
    )  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    prepare(page, url)
    page.screenshot(path=OUT / f"{name}.png", full_page=name in IN_FULL)
    context.close()
    print(OUT / f"{name}.png")


def main(names: list[str]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    server = ServerProcess(Path(tempfile.mkdtemp()), "--model", "demo", "--request-log")
    try:
        with sync_playwright() as playwright:
            expect.set_options(timeout=PATIENCE_MS)
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else []
            )
            for picture in PICTURES:
                if not names or picture[0] in names:
                    take(browser, server.url, picture)
            browser.close()
    finally:
        server.close()


if __name__ == "__main__":
    main(sys.argv[1:])
