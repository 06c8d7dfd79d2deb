"""The page Training: from a dropped file to an adapter that is judged, in a browser, on the demo."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from lorikeet_trainer.confusion import score_labels
from lorikeet_trainer.demo.tasks import rows
from lorikeet_trainer.scores import is_json
from tests.server.console.conftest import Watched
from tests.server.process import ServerProcess

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
HOSTILE = "<img src=x onerror=document.title='owned'>"
STEPS = 4
LONG_MS = 120_000  # what a job may take where others use the machine, too


def chats(count: int) -> list[str]:
    return [json.dumps(each, ensure_ascii=False) for each in rows("triage", "train", count, 0)]


def file(folder: Path, name: str, lines: Sequence[str]) -> Path:
    path = folder / name
    path.write_text("".join(f"{each}\n" for each in lines))
    return path


def drop(page: Page, path: Path) -> Locator:
    """Give it to the page; the region that the report comes into."""
    region = page.get_by_role("region", name="Files", exact=True)
    region.get_by_label("Drop a file of JSON lines").set_input_files(path)
    return region


def is_narrow(page: Page) -> bool:
    """Whether nothing is wider than the window."""
    width: int = page.evaluate("document.documentElement.scrollWidth")
    return width <= page.viewport_size["width"]  # type: ignore[index]


def upload(demo: ServerProcess, path: Path) -> str:
    sent = {"file": (path.name, path.read_bytes())}
    data = {"purpose": "fine-tune"}
    got = httpx.post(f"{demo.url}/v1/files", files=sent, data=data, headers={"x-lorikeet": "1"})
    made: str = got.raise_for_status().json()["id"]
    return made


def checked(demo: ServerProcess, id: str, line: int) -> dict[str, Any]:
    got = httpx.get(f"{demo.url}/v1/files/{id}/check?line={line}", timeout=60.0)
    found: dict[str, Any] = got.raise_for_status().json()
    return found


def test_a_good_file_is_checked_and_its_mask_is_the_trainers(
    page: Page, demo: ServerProcess, tmp_path: Path
) -> None:
    good = file(tmp_path, "good.jsonl", chats(20))
    page.goto("/#/training")
    files = drop(page, good)
    api.expect(files.get_by_text("good.jsonl can be trained on.")).to_be_visible(timeout=LONG_MS)
    files.get_by_label("Line", exact=True).fill("7")
    api.expect(files.get_by_text("of line 7 are learned")).to_be_visible()
    sample = checked(demo, upload(demo, good), 7)["sample"]
    learned = files.locator("pre.mask mark.learned")
    assert learned.all_text_contents() == [each["text"] for each in sample["spans"] if each["learned"]]
    whole, served = files.locator("pre.mask").all_text_contents()
    assert whole == "".join(each["text"] for each in sample["spans"])
    assert served == sample["served"]
    api.expect(files.get_by_text("the same tokens")).to_be_visible()
    look = learned.first.evaluate(
        "each => { const it = getComputedStyle(each); return [it.borderBottomStyle, it.outlineStyle]; }"
    )
    assert look == ["solid", "solid"]  # colour is not alone
    files.get_by_label("Line", exact=True).fill("999")
    api.expect(files.get_by_text("On line 999 is no row")).to_be_visible()


def test_a_broken_file_is_shown_line_by_line_and_never_as_markup(page: Page, tmp_path: Path) -> None:
    """What stands in the file, its name included, is text."""
    broken = [
        *chats(20),
        json.dumps({"messages": [{"role": HOSTILE, "content": "hi"}, {"role": "assistant", "content": "a"}]}),
        json.dumps(
            {"messages": [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": ""}]}
        ),
        "{",
    ]
    page.goto("/#/training")
    files = drop(page, file(tmp_path, f"{HOSTILE.replace('/', '')}.jsonl", broken))
    api.expect(files.get_by_text("cannot be trained on: 3 errors")).to_be_visible(timeout=LONG_MS)
    table = files.locator("table.findings tbody tr")
    told = [each.locator("td").all_inner_texts() for each in table.all()]
    assert [(severity.strip(), line, code) for severity, line, _, code, *_ in told] == [
        ("error", "21", "unknown_role"),
        ("error", "22", "empty_assistant"),
        ("error", "23", "not_json"),
    ]
    assert all(fix for *_, fix in told)
    assert HOSTILE[:20] in told[0][4]
    assert page.locator("main img").count() == 0
    assert page.title() == "Training · Lorikeet"
    page.set_viewport_size({"width": 360, "height": 740})
    assert is_narrow(page)


def test_a_refusal_stands_at_the_field_it_is_about(
    page: Page, demo: ServerProcess, tmp_path: Path, watched: Watched
) -> None:
    upload(demo, file(tmp_path, "rows.jsonl", chats(20)))
    page.goto("/#/training")
    form = page.get_by_role("form", name="New job")
    form.get_by_label("Batch size").fill("1000")
    form.get_by_role("button", name="Start training").click()
    api.expect(form.get_by_label("Batch size")).to_have_attribute("aria-invalid", "true")
    form.get_by_label("Batch size").fill("4")
    form.get_by_label("Rank").fill("99999")
    form.get_by_role("button", name="Start training").click()
    rank = form.get_by_label("Rank")
    api.expect(rank).to_have_attribute("aria-invalid", "true")
    described = rank.get_attribute("aria-describedby")
    assert described is not None
    assert "not between 1 and 4096" in page.locator(f"#{described}").inner_text()
    api.expect(form.get_by_label("Batch size")).not_to_have_attribute("aria-invalid", "true")
    watched.refused.clear()  # both were meant


@pytest.mark.timeout(300)  # to its end
def test_a_job_is_trained_in_sight_and_its_outcome_told(
    page: Page, demo: ServerProcess, tmp_path: Path
) -> None:
    name = "training rows.jsonl"
    upload(demo, file(tmp_path, name, chats(40)))
    page.goto("/#/training")
    form = page.get_by_role("form", name="New job")
    api.expect(form.get_by_label("Training file").locator("option", has_text=name)).to_be_attached()
    for label, value in (("Steps", STEPS), ("Checkpoint every", 2), ("Batch size", 2), ("Rank", 4)):
        form.get_by_label(label, exact=True).fill(str(value))
    form.get_by_label("Suffix").fill("seen")
    form.get_by_role("button", name="Start training").click()
    job = page.get_by_role("region", name="Job", exact=True)
    # Before it is over: the curve has points, and what is saved can be tried.
    link = job.get_by_role("link", name="Try step 2 in the playground")
    api.expect(link).to_be_visible(timeout=LONG_MS)
    api.expect(job.get_by_role("button", name="Pause")).to_be_visible()
    assert "%3Aseen%3A" in str(link.get_attribute("href"))
    api.expect(job.get_by_role("figure", name="Loss, nats a learned token").locator("canvas")).to_be_visible()
    # Cancelling asks first, and thinking better of it changes nothing.
    job.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Go on training").click()
    api.expect(page.get_by_role("dialog")).to_have_count(0)

    api.expect(job.get_by_text("The gate has")).to_be_visible(timeout=LONG_MS)
    api.expect(job.get_by_role("row", name="strength")).to_contain_text("How much of the change")
    api.expect(job.get_by_role("row", name="valid loss")).to_be_visible()
    api.expect(job.get_by_role("button", name="Pause")).to_have_count(0)
    events = job.get_by_role("log").locator("li")
    api.expect(events.last).to_contain_text("successfully completed")
    assert job.get_by_text("step 4 of 4").count() == 1
    loss = job.get_by_role("figure", name="Loss, nats a learned token").locator("b")
    assert all(float(each) > 0 for each in loss.all_inner_texts())
    with page.expect_download() as waiting:
        job.get_by_role("button", name="Download the figures").click()
    content = Path(waiting.value.path()).read_text().splitlines()
    assert content[0].startswith("step,train_loss")
    assert len(content) == 1 + STEPS
    # What was made is asked at once.
    with page.expect_response("**/v1/chat/completions") as answered:
        job.get_by_role("link", name="in the playground").last.click()
    assert answered.value.status == 200
    api.expect(page.get_by_role("region", name="Answer 2", exact=True).locator("p.facts")).to_be_visible()
    page.go_back()
    page.set_viewport_size({"width": 360, "height": 740})
    api.expect(page.locator(".plot canvas")).to_have_count(3)
    page.wait_for_function("document.querySelector('.plot canvas').getBoundingClientRect().right <= 360")
    assert is_narrow(page)


def test_a_broken_stream_is_taken_up_again_behind_what_came_last(page: Page, demo: ServerProcess) -> None:
    """Each event is told once, whatever the network does; a page that never asks again would lose the end."""
    job = "ftjob-broken"
    told = [
        {
            "object": "fine_tuning.job.event",
            "id": f"ftevent-{each}",
            "created_at": 1,
            "level": "info",
            "message": f"event {each}.",
            "type": "message",
            "data": {},
        }
        for each in range(1, 5)
    ]
    record = {
        "id": job,
        "status": "running",
        "model": "demo",
        "method": {"type": "supervised"},
        "error": None,
        "created_at": 1,
        "finished_at": None,
        "fine_tuned_model": None,
        "result_files": [],
        "x_lorikeet": {
            "phase": "training",
            "step": 0,
            "total_steps": 0,
            "train_loss": None,
            "valid_loss": None,
            "tokens": 0,
            "attempt": 0,
            "generation": None,
            "quarantined": False,
        },
    }
    asked: list[str | None] = []

    def stream(route: Any) -> None:
        since = route.request.headers.get("last-event-id")
        asked.append(since)
        some = told[:2] if since is None else told[2:]
        over = since is not None
        record["status"] = "succeeded" if over else "running"
        lines = "".join(f"id: {each['id']}\ndata: {json.dumps(each)}\n\n" for each in some)
        route.fulfill(content_type="text/event-stream", body=lines + ("data: [DONE]\n\n" if over else ""))

    page.route(f"**/v1/fine_tuning/jobs/{job}/events?stream=true", stream)
    page.route(f"**/v1/fine_tuning/jobs/{job}/checkpoints?*", lambda route: route.fulfill(json={"data": []}))
    page.route(f"**/v1/fine_tuning/jobs/{job}", lambda route: route.fulfill(json=record))
    page.goto(f"/#/training?job={job}")
    events = page.get_by_role("log").locator("li")
    api.expect(events).to_have_count(4)
    assert asked == [None, "ftevent-2"]
    assert [each.split("event ")[1] for each in events.all_inner_texts()] == ["1.", "2.", "3.", "4."]


def test_models_are_evaluated_on_held_out_rows(page: Page, demo: ServerProcess, tmp_path: Path) -> None:
    """The counts are what the routes answer, counted by the trainer's own function."""
    lines = chats(20)
    page.goto("/#/training")
    panel = page.get_by_role("region", name="Evaluation", exact=True)
    panel.get_by_label("Drop held-out rows").set_input_files(file(tmp_path, "held.jsonl", lines))
    panel.get_by_label("triage", exact=True).check()
    panel.get_by_role("button", name="Evaluate").click()
    matrix = panel.get_by_role("region", name="Confusion matrix of triage")
    api.expect(matrix).to_be_visible(timeout=LONG_MS)
    expected = [json.loads(each)["messages"][-1]["content"] for each in lines]
    answers = [said(demo, "triage", json.loads(each)["messages"][:-1]) for each in lines]
    labels = sorted(set(expected))
    ours = score_labels("triage", labels, zip(expected, answers, strict=True))
    head = matrix.locator("thead th").all_inner_texts()
    assert head[: len(labels) + 1] == ["Label", *labels]
    counts = [
        each.locator("td").all_inner_texts()[: len(labels)] for each in matrix.locator("tbody tr").all()
    ]
    assert [tuple(map(int, each)) for each in counts] == list(ours.confusion)
    scores = panel.get_by_role("table").filter(has_text="Exact match").locator("tbody tr", has_text="triage")
    shown = scores.locator("td").all_inner_texts()
    assert shown[0] == "20"
    percent = [
        f"{100 * each:.1f} %"
        for each in (ours.accuracy, ours.accuracy, ours.macro.precision, ours.macro.recall, ours.macro.f1)
    ]
    assert [shown[1], *shown[3:]] == percent
    api.expect(panel.get_by_text("Rows in which the models differ: 20")).to_be_visible()
    page.set_viewport_size({"width": 360, "height": 740})
    assert is_narrow(page)


def said(demo: ServerProcess, model: str, messages: list[dict[str, str]]) -> str:
    asked = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 8}
    got = httpx.post(f"{demo.url}/v1/chat/completions", json=asked, timeout=60.0)
    text: str = got.raise_for_status().json()["choices"][0]["message"]["content"]
    return text.strip()


def test_labels_are_text_too_and_a_run_can_be_stopped(page: Page, tmp_path: Path) -> None:
    labelled = [
        json.dumps({"text": f"lamp {each}", "label": (HOSTILE, "fine")[each % 2]}) for each in range(20)
    ]
    page.goto("/#/training")
    panel = page.get_by_role("region", name="Evaluation", exact=True)
    panel.get_by_label("Drop held-out rows").set_input_files(file(tmp_path, "labels.jsonl", labelled))
    panel.get_by_role("button", name="Evaluate").click()
    api.expect(panel.locator("table.confusion thead th").nth(1)).to_have_text(HOSTILE, timeout=LONG_MS)
    assert page.locator("main img").count() == 0

    page.route("**/v1/completions", lambda route: None)  # never answered
    panel.get_by_role("button", name="Evaluate").click()
    panel.get_by_role("button", name="Stop").click()
    api.expect(panel.get_by_text("Stopped after 0 of 20 answers")).to_be_visible()
    assert page.title() == "Training · Lorikeet"


PAIRS = [
    ("cat", "cat"),
    ("cat", "dog"),
    ("dog", "dog"),
    ("dog", "cat"),
    ("eel", "dog"),
    ("eel", "eel"),
    ("eel", "eel"),
]


def test_the_pure_scores_are_the_trainers(page: Page) -> None:
    page.goto("/#/training")
    labels = ["cat", "dog", "eel", "fox"]  # one that no row has
    found = page.evaluate(
        "async ([labels, pairs]) => (await import('./console/evaluation/scores.js')).labelScores(labels, pairs)",
        [labels, PAIRS],
    )
    ours = score_labels("a", labels, PAIRS)
    assert found["accuracy"] == pytest.approx(ours.accuracy)
    for rate in ("precision", "recall", "f1"):
        assert found["macro"][rate] == pytest.approx(getattr(ours.macro, rate))
        assert [each[rate] for each in found["classes"]] == pytest.approx(
            [getattr(each.rates, rate) for each in ours.classes]
        )
    assert [tuple(row[:-1]) for row in found["table"]] == list(ours.confusion)
    texts = ["{}", "[1]", "1", '"a"', "null", "{", "", "true", '{"a": [1]}']
    judged = page.evaluate(
        "async (texts) => { const { isJson } = await import('./console/evaluation/scores.js'); return texts.map(isJson); }",
        texts,
    )
    assert judged == [is_json(each) for each in texts]


def test_an_answer_that_is_no_label_is_counted_apart(page: Page) -> None:
    page.goto("/#/training")
    found = page.evaluate(
        "async () => (await import('./console/evaluation/scores.js')).labelScores(['a', 'b'], [['a', 'a'], ['a', 'what?'], ['b', 'b']])"
    )
    assert found["table"] == [[1, 0, 1], [0, 1, 0]]
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert [each["precision"] for each in found["classes"]] == [1, 1]
    assert [each["recall"] for each in found["classes"]] == [0.5, 1]
