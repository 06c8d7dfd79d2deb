"""GET /v1/files/{id}/check: what a job would find in a file, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lorikeet_trainer.jobs.errors import CheckFailed, CheckTimedOut
from lorikeet_trainer.jobs.job import FilePurpose
from tests.server.keyed import Keyed, keyed
from tests.server.world import World, make_server

FILES = "/v1/files"
ROWS = [{"prompt": f"order {index}?", "completion": f" on shelf {index}"} for index in range(12)]
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def house(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with (
        make_server(world, tmp_path_factory.mktemp("check")) as server,
        keyed(server, tmp_path_factory.mktemp("keys")) as made,
    ):
        yield made
        server.jobs.leave()


def upload(house: Keyed, data: bytes, who: str = "acme", name: str = "rows.jsonl") -> str:
    sent = {"file": (name, data)}
    answer = house.by(who).post(FILES, files=sent, data={"purpose": "fine-tune"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in rows).encode()


def test_a_good_file(house: Keyed) -> None:
    file = upload(house, lines(ROWS))
    found = house.by("acme").get(f"{FILES}/{file}/check").json()
    assert (found["name"], found["is_usable"], found["rows"], found["usable"]) == ("rows.jsonl", True, 12, 12)
    assert "estimate" not in found
    prompt, learned = found["sample"]["spans"][:2]
    assert (prompt["text"], prompt["learned"]) == ("order 0?", False)
    assert learned["learned"]
    assert learned["text"].startswith(" on shelf 0")
    assert found["sample"]["served"] == "order 0?"
    assert found["sample"]["same_prompt"]
    fifth = house.by("acme").get(f"{FILES}/{file}/check?line=5").json()["sample"]
    assert fifth["line"] == 5
    assert house.by("acme").get(f"{FILES}/{file}/check?line=99").json()["sample"] is None


def test_a_bad_file_is_an_answer_and_no_error(house: Keyed) -> None:
    file = upload(house, lines([*ROWS, {"prompt": HOSTILE}, {"prompt": "\ud800", "completion": "a"}]))
    answer = house.by("acme").get(f"{FILES}/{file}/check")
    assert answer.status_code == 200
    found = answer.json()
    assert not found["is_usable"]
    assert {each["line"] for each in found["findings"]} == {13, 14}
    assert all(each["severity"] == "error" and each["fix"] for each in found["findings"])


def test_a_file_is_its_tenants(house: Keyed) -> None:
    file = upload(house, lines(ROWS))
    assert house.by("operator").get(f"{FILES}/{file}/check").status_code == 200
    other = house.by("beta").get(f"{FILES}/{file}/check")
    assert other.status_code == 404
    assert other.json()["error"]["code"] == "file_not_found"
    assert other.json() == house.by("beta").get(f"{FILES}/{file}").json()
    assert house.by("asking").get(f"{FILES}/{file}/check").status_code == 403


@pytest.mark.parametrize("query", ["line=0", "line=x", "line=1&line=2", "rows=1", "line=", "line=-1"])
def test_a_query_that_means_nothing_is_refused(house: Keyed, query: str) -> None:
    answer = house.by("acme").get(f"{FILES}/{upload(house, lines(ROWS))}/check?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(CheckFailed("it ended"), 503, "check_failed"), (CheckTimedOut("too long"), 504, "check_timeout")],
)
def test_what_cannot_be_checked_says_so(
    house: Keyed, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    file = upload(house, lines(ROWS))

    def check(*_: object) -> None:
        raise error

    monkeypatch.setattr(house.server.jobs.review, "check", check)
    answer = house.by("acme").get(f"{FILES}/{file}/check")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert str(error) == answer.json()["error"]["message"]


def test_a_file_that_was_deleted_meanwhile_is_missing(house: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    file = upload(house, lines(ROWS))
    monkeypatch.setattr(house.server.jobs.review, "check", lambda *_: None)
    assert house.by("acme").get(f"{FILES}/{file}/check").status_code == 404


def test_what_training_measured_is_no_file_to_train_on(house: Keyed) -> None:
    with house.server.jobs.files.intake.file() as arrival:
        arrival.write(b"step,train_loss\n1,2.0\n")
        made = house.server.jobs.files.put(arrival, "results.csv", "acme", FilePurpose.RESULTS)
    answer = house.by("acme").get(f"{FILES}/{made.id}/check")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_job")
