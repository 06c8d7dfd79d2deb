"""POST /v1/datasets: what was said becomes a file that the trainer takes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lorikeet_server.request_log.log import Bounds, RequestLog
from lorikeet_server.request_log.record import Record
from lorikeet_trainer.cli import register
from tests.server.kept import put, record, written
from tests.server.keyed import Keyed, keyed
from tests.server.world import BASE, World, make_server, post
from tests.trainer.office.house import command

DATASETS, FILES, JOBS = "/v1/datasets", "/v1/files", "/v1/fine_tuning/jobs"
TEXT = {"prompt": "Where is my order?", "completion": "On its way."}
CHAT = ({"role": "user", "content": "Is 50% off?"},)
MOST_BYTES = 20_000


@pytest.fixture(scope="module")
def house(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    data, keys = tmp_path_factory.mktemp("datasets"), tmp_path_factory.mktemp("keys")
    with (
        make_server(world, data, worker=command(world.adapters["formal"]), log=Bounds()) as server,
        keyed(server, keys, max_file_bytes=MOST_BYTES) as made,
    ):
        yield made
        server.jobs.leave()


@pytest.fixture
def log(house: Keyed) -> RequestLog:
    """Without what other tests have put there."""
    assert house.server.log is not None
    house.server.log.records.retain(time.time() + 1, 1 << 30)
    return house.server.log


def kept(log: RequestLog, *given: dict[str, Any]) -> list[Record]:
    made = [record(created=time.time(), tenant="acme", **each) for each in given]
    put(log, *made)
    return made


def dataset(house: Keyed, who: str = "acme", **body: Any) -> tuple[dict[str, Any], list[Any]]:
    """The answer, and the rows of its file."""
    answer = house.by(who).post(DATASETS, json=body)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    lines = house.by(who).get(f"{FILES}/{made['id']}/content").text.splitlines()
    assert len(lines) == made["rows"]
    return made, [json.loads(each) for each in lines]


def refusal(house: Keyed, who: str = "acme", **body: Any) -> tuple[int, str, str]:
    """Nothing of what is refused stays."""
    before = house.by(who).get(FILES).json()
    answer = house.by(who).post(DATASETS, json=body)
    assert house.by(who).get(FILES).json() == before
    assert not list(house.server.jobs.files.path("").parent.joinpath("incoming").iterdir())
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def test_what_was_said_can_be_trained_on(house: Keyed, log: RequestLog, world: World, tmp_path: Path) -> None:
    """Real chats, of which one is corrected; the validator of the command line, and an order."""
    said = []
    for number in range(12):
        turns = [{"role": "user", "content": f"{number}. Größe {number}?"}]
        if number % 2:
            turns[:0] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        body = {"model": "formal", "messages": turns, "seed": number}
        ended = {"min_tokens": 4, "logit_bias": {str(world.end): 100}}
        with written(log, 1):
            answer = post(house.by("asking"), "/v1/chat/completions", {**body, **ended})
            assert answer.status_code == 200, answer.text
        (choice,) = answer.json()["choices"]
        assert choice["finish_reason"] == "stop"
        said.append([*turns, {"role": "assistant", "content": choice["message"]["content"]}])
    newest = house.by("acme").get("/v1/requests?limit=1").json()["data"][0]["id"]
    house.by("acme").patch(f"/v1/requests/{newest}", json={"correction": "perhaps"})
    said[-1][-1]["content"] = "perhaps"
    made, rows = dataset(house, model="formal", filename="yes or no.jsonl")
    assert (made["object"], made["rows"], made["left_out"]) == ("dataset", 12, {})
    learned = [[{key: each[key] for key in ("role", "content")} for each in row["messages"]] for row in rows]
    assert learned == said
    weights = [[each.get("weight") for each in row["messages"]] for row in rows]
    assert weights == [[None, None], [None, 0, None, None]] * 6
    file = house.by("acme").get(f"{FILES}/{made['id']}").json()
    assert made["file"] == file
    assert (file["purpose"], file["filename"]) == ("fine-tune", "yes or no.jsonl")
    check(house, made["id"], world, tmp_path)
    order = house.by("acme").post(JOBS, json={"model": BASE, "training_file": made["id"]})
    assert order.status_code == 200, order.text
    house.by("acme").post(f"{JOBS}/{order.json()['id']}/cancel")


def check(house: Keyed, file: str, world: World, folder: Path) -> None:
    """`lorikeet data validate`, which takes every row."""
    data = folder / "rows.jsonl"
    data.write_bytes(house.by("acme").get(f"{FILES}/{file}/content").content)
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    done = CliRunner().invoke(app, ["data", "validate", str(data), "--model", str(world.base), "--json"])
    assert done.exit_code == 0, done.output
    (report,) = json.loads(done.stdout[done.stdout.index("[") :])
    assert report["counts"] == {}, report["findings"]
    assert report["usable"] == report["rows"] == 12


def test_texts_can_be_trained_on(house: Keyed, log: RequestLog, world: World, tmp_path: Path) -> None:
    kept(log, *({"prompt": f"Where is {at}?", "answer": f" In {at}."} for at in range(12)))
    made, rows = dataset(house)
    assert rows[3] == {"prompt": "Where is 3?", "completion": " In 3."}
    assert made["file"]["filename"] == "requests.jsonl"
    check(house, made["id"], world, tmp_path)


def test_every_reason_is_counted(house: Keyed, log: RequestLog) -> None:
    made = kept(log, {}, {}, {"finish_reason": "length"}, {"answer": " "}, {"correction": "Here."})
    house.by("acme").patch(f"/v1/requests/{made[1].id}", json={"rating": "down"})
    told, rows = dataset(house)
    assert rows == [TEXT, {**TEXT, "completion": "Here."}]
    assert told["left_out"] == {"cut_off": 1, "empty": 1, "rated_down": 1}
    house.by("acme").patch(f"/v1/requests/{made[1].id}", json={"rating": "up"})
    told, rows = dataset(house)
    assert told["left_out"] == {"cut_off": 1, "duplicate": 1, "empty": 1}
    assert dataset(house, rating="up")[1] == [TEXT]


def test_ids_and_filters_say_which(house: Keyed, log: RequestLog) -> None:
    first, second, third = kept(log, {"answer": "1"}, {"answer": "2", "model": "b"}, {"answer": "3%"})

    def answers(**body: Any) -> list[str]:
        return [each["completion"] for each in dataset(house, **body)[1]]

    assert answers(ids=[third.id, first.id, third.id]) == ["1", "3%"]
    assert answers(model="b") == ["2"]
    assert answers(q="3%") == ["3%"]
    assert answers(q="ORDER", model="formal", rating="none") == ["1", "3%"]
    assert answers() == answers(ids=None, q=None) == ["1", "2", "3%"]
    assert dataset(house, ids=[second.id, "req-none"])[0]["left_out"] == {"not_found": 1}


@pytest.mark.safety("security 17")
def test_another_tenants_requests_are_in_no_file(house: Keyed, log: RequestLog) -> None:
    (mine,) = kept(log, {"answer": "acme's"})
    theirs = record(created=time.time(), tenant="beta", answer="beta's")
    put(log, theirs)
    assert [each["completion"] for each in dataset(house)[1]] == ["acme's"]
    made, rows = dataset(house, ids=[theirs.id, mine.id])
    assert ([each["completion"] for each in rows], made["left_out"]) == (["acme's"], {"not_found": 1})
    assert house.by("beta").get(f"{FILES}/{made['id']}").status_code == 404
    assert len(dataset(house, "operator")[1]) == 2


def test_chats_beside_texts_are_refused_with_both_counts(house: Keyed, log: RequestLog) -> None:
    kept(log, {"messages": CHAT}, {"messages": CHAT, "answer": "No."}, {}, {"finish_reason": "length"})
    status, code, message = refusal(house)
    assert (status, code) == (400, "invalid_dataset")
    assert message.startswith("2 of these requests are chats and 1 are texts;")


def test_what_makes_no_row_is_refused_with_the_reasons(house: Keyed, log: RequestLog) -> None:
    assert refusal(house) == (400, "invalid_dataset", "no request makes a row: there is none")
    kept(log, {"finish_reason": "length"}, {"finish_reason": "length"}, {"answer": ""})
    assert refusal(house)[2] == "no request makes a row: 2 cut_off, 1 empty"
    assert refusal(house, ids=["req-none"])[2] == "no request makes a row: 1 not_found"


def test_a_file_over_the_bound_is_refused(house: Keyed, log: RequestLog) -> None:
    kept(log, *({"answer": letter * (MOST_BYTES // 3)} for letter in "abc"))
    status, code, message = refusal(house)
    assert (status, code) == (400, "invalid_dataset")
    assert f"over {MOST_BYTES} bytes, the most that --max-file-bytes allows" in message
    assert dataset(house, q="aa")[0]["rows"] == 1


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("ids", {"ids": []}),
        ("ids", {"ids": ["req-1"] * 10_001}),
        ("ids", {"ids": "req-1"}),
        ("rating", {"rating": "best"}),
        ("q", {"q": "a" * 201}),
        ("q", {"q": "\0"}),
        ("filename", {"filename": "a\nb"}),
        ("filename", {"filename": "a" * 256}),
        ("what", {"what": 1}),
    ],
)
def test_a_body_that_is_none_is_refused(house: Keyed, param: str, body: dict[str, Any]) -> None:
    answer = house.by("acme").post(DATASETS, json=body)
    assert answer.status_code == 400
    assert param in answer.json()["error"]["message"]


def test_ids_beside_a_filter_are_refused(house: Keyed) -> None:
    for more in ({"q": "a"}, {"model": "a"}, {"rating": "up"}):
        assert "send no filter beside them" in refusal(house, ids=["req-1"], **more)[2]


def test_one_key_is_one_file(house: Keyed, log: RequestLog) -> None:
    kept(log, {})
    key = {"Idempotency-Key": "once"}
    first = house.by("acme").post(DATASETS, json={}, headers=key)
    kept(log, {"answer": "Another."})
    again = house.by("acme").post(DATASETS, json={}, headers=key)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    house.by("acme").delete(f"{FILES}/{first.json()['id']}")
    gone = house.by("acme").post(DATASETS, json={}, headers=key)
    assert (gone.status_code, gone.json()["error"]["code"]) == (422, "idempotency_key_reused")
