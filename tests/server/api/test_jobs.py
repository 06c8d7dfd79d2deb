"""/v1/files and /v1/fine_tuning/jobs, first by OpenAI's own client, with a worker that stands in for training."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from starlette.testclient import TestClient

from lorikeet_trainer.jobs.lifecycle import OUTER
from tests.server.keyed import Keyed, keyed
from tests.server.world import BASE, World, make_server
from tests.trainer.office.house import PATIENCE, command, rows

JOBS, FILES = "/v1/fine_tuning/jobs", "/v1/files"
FINAL = {"succeeded", "failed", "cancelled"}


@pytest.fixture(scope="module")
def house(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    data, keys = tmp_path_factory.mktemp("jobs"), tmp_path_factory.mktemp("keys")
    with (
        make_server(world, data, worker=command(world.adapters["formal"])) as server,
        keyed(server, keys, max_file_bytes=100_000) as made,
    ):
        yield made
        server.jobs.leave()


def client_of(house: Keyed, who: str = "acme") -> openai.OpenAI:
    return openai.OpenAI(
        api_key=house.secrets[who], base_url="http://127.0.0.1/v1", http_client=house.by(who), max_retries=0
    )


def upload(house: Keyed, who: str = "acme", data: bytes | None = None) -> str:
    sent = {"file": ("rows.jsonl", rows() if data is None else data)}
    answer = house.by(who).post(FILES, files=sent, data={"purpose": "fine-tune"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def order(house: Keyed, who: str = "acme", **more: Any) -> dict[str, Any]:
    body = {"model": BASE, **more}
    if "training_file" not in body:
        body["training_file"] = upload(house, who)
    answer = house.by(who).post(JOBS, json=body)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def until(house: Keyed, job: str, *statuses: str, phase: str = "") -> dict[str, Any]:
    """Wait on the server's own bell, ask over HTTP."""
    changed = threading.Event()
    with house.server.jobs.heard_by(job, changed.set):
        while True:
            found: dict[str, Any] = house.by("operator").get(f"{JOBS}/{job}").json()
            if found["status"] in statuses and phase in found["x_lorikeet"]["phase"]:
                return found
            assert found["finished_at"] is None or found["status"] in statuses, (
                found
            )  # it cannot come any more
            assert changed.wait(PATIENCE), found
            changed.clear()


def error_of(answer: Any) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_the_official_client_trains_and_chats(house: Keyed) -> None:
    client = client_of(house)
    file = client.files.create(file=("rows.jsonl", rows()), purpose="fine-tune")
    assert client.files.content(file.id).read() == rows()
    assert file.id in [each.id for each in client.files.list(purpose="fine-tune")]
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=file.id,
        suffix="billing",
        seed=3,
        metadata={"team": "billing"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}},
        },
        extra_body={"x_lorikeet": {"rank": 8}},
    )
    assert FineTuningJob.model_validate(job.model_dump(), strict=True).seed == 3
    assert job.hyperparameters.n_epochs == 2
    assert job.hyperparameters.batch_size == "auto"
    until(house, job.id, "succeeded")
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.fine_tuned_model == f"ft:{BASE}:acme:billing:{job.id[-8:]}"
    assert done.trained_tokens == 96
    found = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [each.step_number for each in found] == [12, 9, 6]
    assert found[0].metrics.train_loss == pytest.approx(2 / 12)
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=5))  # several pages
    assert len({each.id for each in events}) == len(events) > 12
    for model in (done.fine_tuned_model, found[0].fine_tuned_model_checkpoint):
        chat = client.completions.create(model=model, prompt="Hello", max_tokens=3)
        assert chat.usage is not None
        assert chat.usage.completion_tokens > 0
    lines = client.files.content(done.result_files[0]).text.splitlines()
    assert lines[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    named = client.fine_tuning.jobs.list(extra_query={"metadata[team]": "billing"}).data
    assert [each.id for each in named] == [job.id]
    client.files.delete(file.id)


def test_the_official_client_pauses_resumes_and_cancels(house: Keyed) -> None:
    client = client_of(house)
    file = client.files.create(file=("rows.jsonl", rows(steps=3000)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=BASE, training_file=file.id)
    until(house, job.id, "running", phase="training")
    assert client.fine_tuning.jobs.pause(job.id).status == "running"  # until its checkpoint is written
    until(house, job.id, "queued", phase="paused")
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    until(house, job.id, "running", phase="training")
    with pytest.raises(openai.ConflictError, match="running cannot resume") as conflict:
        client.fine_tuning.jobs.resume(job.id)
    assert conflict.value.code == "job_conflict"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    done = until(house, job.id, "cancelled", phase="cancelled")
    assert done["fine_tuned_model"] is None
    last = client.fine_tuning.jobs.checkpoints.list(job.id).data[0]
    client.completions.create(model=last.fine_tuned_model_checkpoint, prompt="Hello", max_tokens=1)


def test_events_are_streamed_and_taken_up_again(house: Keyed) -> None:
    job = order(house)["id"]
    text = house.by("acme").get(f"{JOBS}/{job}/events?stream=true").text
    parts = [part for part in text.split("\n\n") if part]
    ids = [part.partition("\n")[0].removeprefix("id: ") for part in parts if part.startswith("id: ")]
    assert parts[-1] == "data: [DONE]"
    told = [json.loads(part.partition("\ndata: ")[2]) for part in parts if part.startswith("id: ")]
    assert [each["id"] for each in told] == ids
    assert told[0]["message"].startswith("Created fine-tuning job")
    assert "successfully completed" in told[-1]["message"]
    listed = house.by("acme").get(f"{JOBS}/{job}/events?limit=100").json()["data"]
    assert [each["id"] for each in reversed(listed)] == ids
    rest = house.by("acme").get(f"{JOBS}/{job}/events?stream=true", headers={"Last-Event-ID": ids[-2]}).text
    assert [part.partition("\n")[0] for part in rest.split("\n\n") if part][:-1] == [f"id: {ids[-1]}"]


def test_of_other_tenants_nothing_is_there(house: Keyed) -> None:
    job = order(house)
    beta = house.by("beta")
    assert job["id"] not in [each["id"] for each in beta.get(JOBS).json()["data"]]
    assert job["training_file"] not in [each["id"] for each in beta.get(FILES).json()["data"]]
    for path in (
        f"{JOBS}/{job['id']}",
        *(f"{JOBS}/{job['id']}/{each}" for each in ("events", "checkpoints")),
    ):
        assert error_of(beta.get(path))["code"] == "job_not_found"
    for verb in ("cancel", "pause", "resume"):
        assert beta.post(f"{JOBS}/{job['id']}/{verb}").status_code == 404
    for path in (f"{FILES}/{job['training_file']}", f"{FILES}/{job['training_file']}/content"):
        assert error_of(beta.get(path))["code"] == "file_not_found"
    assert beta.delete(f"{FILES}/{job['training_file']}").status_code == 404
    stolen = beta.post(JOBS, json={"model": BASE, "training_file": job["training_file"]})
    assert (stolen.status_code, error_of(stolen)["param"]) == (404, "training_file")
    done = until(house, job["id"], "succeeded")
    parent = beta.post(JOBS, json={"model": done["fine_tuned_model"], "training_file": upload(house, "beta")})
    assert error_of(parent)["code"] == "model_not_found"
    assert house.by("operator").get(f"{JOBS}/{job['id']}").status_code == 200


def test_training_needs_the_scope_admin(house: Keyed) -> None:
    for path in (JOBS, FILES, f"{JOBS}/x", f"{FILES}/x/content"):
        assert house.by("asking").get(path).status_code == 403


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n_epochs": 3}, "n_epochs"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"method": {"type": "supervised", "dpo": {}}}, "method.dpo"),
        ({"method": {"type": "dpo"}, "hyperparameters": {"n_epochs": 1}}, "hyperparameters"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs.constrained-int"),
        ({"hyperparameters": {"beta": 0.1}}, "hyperparameters.beta"),
        ({"suffix": "a b"}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"x_lorikeet": {"ranks": 4}}, "x_lorikeet.ranks"),
        ({"x_lorikeet": {"learning_rate": 1.0}}, "hyperparameters"),
        (
            {"x_lorikeet": {"max_steps": 5}, "hyperparameters": {"n_epochs": 2}},
            "x_lorikeet.max_steps",
        ),
        ({"training_file": "file-none"}, "training_file"),
        ({"validation_file": "file-none"}, "validation_file"),
        ({"model": "nobody"}, "model"),
    ],
    ids=str,
)
def test_what_cannot_be_ordered_is_refused_by_name(house: Keyed, more: dict[str, Any], param: str) -> None:
    body = {"model": BASE, "training_file": upload(house), **more}
    answer = house.by("acme").post(JOBS, json=body)
    assert answer.status_code in (400, 404), answer.text
    assert str(error_of(answer)["param"]).startswith(param.rpartition(".constrained")[0] or param)


def test_neutral_fields_are_accepted(house: Keyed) -> None:
    job = order(
        house, integrations=[], validation_file=None, suffix=None, metadata=None, hyperparameters=None
    )
    assert job["integrations"] == []
    assert job["method"]["type"] == "supervised"


def test_preferences_are_a_method(house: Keyed) -> None:
    job = order(house, method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}})
    assert job["method"]["dpo"]["hyperparameters"]["beta"] == 0.2
    request = json.loads(
        (Path(house.server.registry.store.folder) / "training/jobs" / job["id"] / "request.json").read_text()
    )
    assert (request["recipe"]["method"], request["recipe"]["beta"]) == ("dpo", 0.2)


def test_the_same_key_is_the_same_job(house: Keyed) -> None:
    body = {"model": BASE, "training_file": upload(house)}
    first, again = (
        house.by("acme").post(JOBS, json=body, headers={"idempotency-key": "k1"}) for _ in range(2)
    )
    assert first.json()["id"] == again.json()["id"]
    other = house.by("acme").post(JOBS, json={**body, "seed": 1}, headers={"idempotency-key": "k1"})
    assert error_of(other)["code"] == "idempotency_key_reused"


@pytest.mark.parametrize(
    ("files", "data", "param"),
    [
        ({"file": ("a.jsonl", b"{}")}, {}, "purpose"),
        ({"file": ("a.jsonl", b"{}")}, {"purpose": "batch"}, "purpose"),
        ({"file": ("a.jsonl", b"")}, {"purpose": "fine-tune"}, "file"),
        ({"other": ("a.jsonl", b"{}")}, {"purpose": "fine-tune"}, "file"),
        ({"file": ("a.jsonl", b"{}")}, {"purpose": "fine-tune", "colour": "red"}, "colour"),
        (
            {"file": ("a.jsonl", b"{}")},
            {"purpose": "fine-tune", "expires_after[seconds]": "5"},
            "expires_after.anchor",
        ),
        (
            {"file": ("a.jsonl", b"{}")},
            {"purpose": "fine-tune", "expires_after[anchor]": "created_at", "expires_after[seconds]": "5"},
            "expires_after.seconds",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_uploaded(house: Keyed, files: Any, data: dict[str, str], param: str) -> None:
    answer = house.by("acme").post(FILES, files=files, data=data)
    assert answer.status_code == 400, answer.text
    assert error_of(answer)["param"] == param


def test_a_file_has_a_bound_and_a_name_that_is_no_path(house: Keyed) -> None:
    large = house.by("acme").post(FILES, files={"file": ("a", b"x" * 200_000)}, data={"purpose": "fine-tune"})
    assert (large.status_code, error_of(large)["code"]) == (413, "body_too_large")
    assert "--max-file-bytes" in error_of(large)["message"]
    sent = {"file": ("../../../etc/passwd", b"{}")}
    answer = house.by("acme").post(FILES, files=sent, data={"purpose": "fine-tune", **expiry(3600)}).json()
    assert answer["filename"] == "../../../etc/passwd"
    assert answer["expires_at"] == answer["created_at"] + 3600
    path = f"{FILES}/{answer['id']}"
    assert house.by("acme").get(f"{path}/content").content == b"{}"
    assert house.by("acme").delete(path).json() == {"id": answer["id"], "object": "file", "deleted": True}
    assert house.by("acme").get(path).status_code == 404


def expiry(seconds: int) -> dict[str, str]:
    return {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(seconds)}


def test_a_used_file_cannot_be_deleted(house: Keyed) -> None:
    job = order(house, training_file=upload(house, data=rows(steps=3000)))
    answer = house.by("acme").delete(f"{FILES}/{job['training_file']}")
    assert (answer.status_code, error_of(answer)["code"]) == (409, "file_in_use")
    house.by("acme").post(f"{JOBS}/{job['id']}/cancel")
    until(house, job["id"], "cancelled", phase="cancelled")


def test_pages_of_files(house: Keyed) -> None:
    made = [upload(house, "beta") for _ in range(3)]
    page = house.by("beta").get(f"{FILES}?limit=2&order=asc").json()
    assert (page["has_more"], page["last_id"]) == (True, page["data"][-1]["id"])
    rest = house.by("beta").get(f"{FILES}?order=asc&after={page['last_id']}").json()
    both = [each["id"] for each in page["data"] + rest["data"]]
    assert [each for each in both if each in made] == made
    assert house.by("beta").get(f"{FILES}?limit=0").status_code == 400
    assert error_of(house.by("beta").get(f"{FILES}?colour=red"))["param"] == "colour"


def test_a_key_does_not_tell_of_a_file_that_has_been_deleted(house: Keyed) -> None:
    sent = {"file": ("rows.jsonl", rows())}

    def again() -> Any:
        headers = {"idempotency-key": "file-1"}
        return house.by("acme").post(FILES, files=sent, data={"purpose": "fine-tune"}, headers=headers)

    made = again()
    assert again().json() == made.json()
    assert house.by("acme").delete(f"{FILES}/{made.json()['id']}").status_code == 200
    late = again()
    assert (late.status_code, error_of(late)["code"]) == (422, "idempotency_key_reused")
    assert "deleted" in error_of(late)["message"]


def test_a_range_of_a_file(house: Keyed) -> None:
    file = upload(house)

    def part(asked: str) -> Any:
        return house.by("acme").get(f"{FILES}/{file}/content", headers={"range": asked})

    assert (part("bytes=1-3").status_code, part("bytes=1-3").content) == (206, rows()[1:4])
    beyond, broken = part("bytes=9999999-"), part("lines=1-2")
    assert (beyond.status_code, error_of(beyond)["code"]) == (416, "range_not_satisfiable")
    assert (broken.status_code, error_of(broken)["param"]) == (400, "Range")


def test_metadata_is_picked_by_a_key(house: Keyed) -> None:
    assert house.by("acme").get(f"{JOBS}?metadata[a]=b").json()["data"] == []
    for query in ("metadata[]=b", "metadata[=b", "metadata=b", "metadata[][a]=b", "metadata[a[b]]=c"):
        answer = house.by("acme").get(f"{JOBS}?{query}")
        assert answer.status_code == 400
        assert error_of(answer)["param"].startswith("metadata")


def test_jobs_and_steps_are_counted(house: Keyed) -> None:
    until(house, order(house)["id"], "succeeded")
    text = house.by("operator").get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("lorikeet_training"))
    assert float(lines['lorikeet_training_jobs{state="succeeded"}']) >= 1
    assert float(lines["lorikeet_training_steps_total"]) >= 12
    assert float(lines["lorikeet_training_checkpoints_total"]) >= 4
    assert len([each for each in lines if each.startswith("lorikeet_training_jobs{")]) == len(OUTER)


@pytest.mark.safety("reliability 10")
def test_training_that_has_stopped_is_told_and_turns_nothing_red(house: Keyed) -> None:
    operator = house.by("operator")
    broken, file = house.server.jobs.supervisor._broken, upload(house)
    assert "lorikeet_training_stopped 0.0" in operator.get("/metrics").text
    assert operator.get("/health/ready").json() == {"status": "ok"}
    broken.set()
    try:
        answer = house.by("acme").post(JOBS, json={"model": BASE, "training_file": file})
        assert (answer.status_code, error_of(answer)["code"]) == (503, "training_stopped")
        assert int(answer.headers["retry-after"]) == 60
        assert "lorikeet_training_stopped 1.0" in operator.get("/metrics").text
        ready = operator.get("/health/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "ok", "training": "stopped"})
    finally:
        broken.clear()


def test_without_keys_a_form_needs_the_header(client: TestClient) -> None:
    sent = {"file": ("a.jsonl", b"{}")}
    assert client.post(FILES, files=sent, data={"purpose": "fine-tune"}).status_code == 403
    answer = client.post(FILES, files=sent, data={"purpose": "fine-tune"}, headers={"x-lorikeet": "1"})
    assert answer.status_code == 200
