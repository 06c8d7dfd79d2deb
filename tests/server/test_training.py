"""A server that trains, as a process, with the real worker: kill -9 of either leaves no trace in the adapter."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from safetensors.numpy import load_file

from lorikeet_server.cli import main
from tests.server.process import ServerProcess, lorikeet
from tests.server.world import BASE, CONTEXT, World

ROWS = [{"prompt": f"where is order {index}?", "completion": f" on shelf {index % 7}"} for index in range(24)]
ASKED = [{"role": "user", "content": "where is my order?"}]
TURNS = [{"messages": [*ASKED, {"role": "assistant", "content": " here"}]}] * 24
CHOICES = [
    {
        "input": {"messages": ASKED},
        "preferred_output": [{"role": "assistant", "content": f" on shelf {index % 7}"}],
        "non_preferred_output": [{"role": "assistant", "content": " no idea"}],
    }
    for index in range(24)
]
STEPS = 12
PATIENCE = 240.0
SETTINGS = {"max_steps": STEPS, "checkpoint_steps": 3, "rank": 4, "learning_rate": 2e-3}
Kind = Literal["supervised", "dpo"]
Jobs = Callable[..., tuple[int, str, str]]


class Trainer:
    """A server process, and OpenAI's client of whatever address it has now."""

    def __init__(self, folder: Path, world: World, quantization: str) -> None:
        words = [
            "--model",
            str(world.base),
            "--served-name",
            BASE,
            "--quantization",
            quantization,
            "--threads",
            "1",
        ]
        self.process = ServerProcess(folder, *words, "--max-model-len", str(CONTEXT))

    @property
    def client(self) -> openai.OpenAI:
        headers = {"x-lorikeet": "1"}  # a form without keys
        return openai.OpenAI(api_key="none", base_url=f"{self.process.url}/v1", default_headers=headers)

    def order(
        self, rows: Sequence[object] = ROWS, model: str = BASE, kind: Kind = "supervised", **more: Any
    ) -> str:
        data = "".join(json.dumps(each) + "\n" for each in rows).encode()
        client = self.client
        file = client.files.create(file=("rows.jsonl", data), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model=model,
            training_file=file.id,
            seed=5,
            method={"type": kind},
            extra_body={"x_lorikeet": {**SETTINGS, **more}},
        )
        return job.id

    def chat(self, model: str | None) -> str:
        assert model is not None
        said = self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "where is my order?"}], max_tokens=8, seed=1
        )
        assert said.choices[0].message.content is not None
        return said.choices[0].message.content

    def follow(self, job: str) -> Iterator[dict[str, Any]]:
        """Events as the stream tells them, for as long as the server lives."""
        address = f"{self.process.url}/v1/fine_tuning/jobs/{job}/events?stream=true"
        with httpx.stream("GET", address, timeout=PATIENCE) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

    def finish(self, job: str) -> Any:
        told = [each["message"] for each in self.follow(job)]
        done = self.client.fine_tuning.jobs.retrieve(job)
        assert done.status == "succeeded", (done.error, told)
        return done

    def tensors(self, generation: str) -> dict[str, bytes]:
        """Out of the data folder, whatever else the file says of its making."""
        with closing(sqlite3.connect(self.process.data / "catalogue.sqlite")) as catalogue:
            ((weights,),) = catalogue.execute(
                "SELECT weights FROM generations WHERE generation = ?", (generation,)
            ).fetchall()
        found = load_file(self.process.data / "blobs" / "sha256" / weights[:2] / weights)
        return {name: tensor.tobytes() for name, tensor in found.items()}

    def worker_of(self, job: str) -> int | None:
        """Its process id, as the lease has it."""
        path = self.process.data / "training" / "jobs.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
            ((lease,),) = ledger.execute("SELECT lease FROM jobs WHERE id = ?", (job,)).fetchall()
        return None if lease is None else int(json.loads(lease)["pid"])

    def kill_worker(self, job: str) -> None:
        pid = self.worker_of(job)
        if pid is not None:
            with suppress(ProcessLookupError):  # it was about to be restarted
                os.kill(pid, signal.SIGKILL)

    def some_way(self, job: str, events: int) -> bool:
        """Until the job has told so many events more than it had; False when it is over."""
        with closing(self.follow(job)) as told:
            for _ in range(events):
                if next(told, None) is None:
                    return False
        return True

    def told(self, job: str) -> int:
        return len(list(self.client.fine_tuning.jobs.list_events(job, limit=100)))


@pytest.fixture(scope="module")
def trainer(
    world: World, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Trainer]:
    made = Trainer(tmp_path_factory.mktemp("trainer"), world, getattr(request, "param", "fp32"))
    yield made
    made.process.close()


@pytest.fixture(scope="module")
def whole(trainer: Trainer) -> Any:
    """A job that nothing disturbed."""
    return trainer.finish(trainer.order())


def disturbed(trainer: Trainer, kills: int, seed: int, **more: Any) -> Any:
    """A job during which the worker or the server is killed at random moments, in turn."""
    chance = random.Random(seed)
    job = trainer.order(**more)
    for number in range(kills):
        assert trainer.some_way(job, trainer.told(job) + chance.randrange(1, 8)), "over before the last kill"
        until = time.monotonic() + chance.uniform(0, 0.3)
        while time.monotonic() < until:
            pass
        if number % 2:
            trainer.process.end(signal.SIGKILL)
        else:
            trainer.kill_worker(job)
    return trainer.finish(job)


def compare(trainer: Trainer, whole: Any, kills: int, **more: Any) -> None:
    """The job `whole` once more, with kills."""
    broken = disturbed(trainer, kills, seed=kills, **more)
    first, second = (trainer.tensors(each.x_lorikeet["generation"]) for each in (whole, broken))
    assert first == second
    answers = [
        trainer.client.completions.create(
            model=each.fine_tuned_model, prompt="where is", max_tokens=8, temperature=0
        )
        for each in (whole, broken)
    ]
    assert answers[0].choices[0].text == answers[1].choices[0].text
    last = trainer.client.fine_tuning.jobs.checkpoints.list(broken.id).data[0]
    assert last.step_number == more.get("max_steps", STEPS)
    trainer.client.completions.create(model=last.fine_tuned_model_checkpoint, prompt="where", max_tokens=1)


@pytest.mark.safety("reliability 10")
@pytest.mark.timeout(600)
def test_kills_of_worker_and_server_leave_no_trace(trainer: Trainer, whole: Any) -> None:
    compare(trainer, whole, kills=2)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("trainer", ["fp32", "nf4"], indirect=True)
def test_ten_kills_leave_no_trace(trainer: Trainer) -> None:
    more = {"max_steps": 60, "checkpoint_steps": 1}
    compare(trainer, trainer.finish(trainer.order(**more)), kills=10, **more)


@pytest.mark.timeout(600)
def test_the_official_client_chats_with_what_it_trained_and_trains_that_further(
    trainer: Trainer, world: World, whole: Any
) -> None:
    assert trainer.chat(whole.fine_tuned_model)
    preferring = trainer.finish(
        trainer.order(CHOICES, model=whole.fine_tuned_model, kind="dpo", learning_rate=1e-4)
    )
    assert preferring.fine_tuned_model != whole.fine_tuned_model
    assert trainer.chat(preferring.fine_tuned_model)
    record = httpx.get(f"{trainer.process.url}/v1/adapters/{preferring.fine_tuned_model}").json()
    assert record["provenance"]["parent"]["name"] == whole.fine_tuned_model
    assert record["provenance"]["base"]["source"] == BASE
    assert str(world.base.parent) not in json.dumps(record)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Jobs:
    """`lorikeet jobs WORDS` in this process: exit code, output, error output."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lorikeet", "jobs", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        read = capsys.readouterr()
        return int(ended.value.code or 0), read.out, read.err

    return call


@pytest.mark.timeout(600)
def test_a_server_that_is_told_to_stop_keeps_the_step_it_was_at(trainer: Trainer, jobs: Jobs) -> None:
    job = trainer.order(TURNS, max_steps=2000)
    assert next(each for each in trainer.follow(job) if "Checkpoint created" in each["message"])
    newest = trainer.client.fine_tuning.jobs.checkpoints.list(job).data[0]
    assert trainer.chat(newest.fine_tuned_model_checkpoint)
    assert trainer.client.fine_tuning.jobs.retrieve(job).status == "running"  # it was served meanwhile
    assert trainer.process.end(signal.SIGTERM) == 0
    found = trainer.client.fine_tuning.jobs.retrieve(job)
    assert found.model_extra is not None
    assert found.model_extra["x_lorikeet"]["attempt"] == 0
    shown = lorikeet("jobs", "show", job, "--url", trainer.process.url)
    assert shown.returncode == 0, shown.stderr
    assert job in shown.stdout
    _, listed, _ = jobs("list", "--data-dir", str(trainer.process.data), "--json")
    known = [each.id for each in trainer.client.fine_tuning.jobs.list()]
    assert [each["id"] for each in json.loads(listed)] == known
    assert known[0] == job
    at = ("--url", trainer.process.url)
    assert "which is kept" in jobs("events", job, *at)[1]
    assert jobs("pause", job, *at)[0] == 0
    code, _, errors = jobs("cancel", "ftjob-none", *at)
    assert (code, "there is no fine-tuning job" in errors) == (1, True)
    assert "cancelled" in jobs("cancel", job, *at)[1]
