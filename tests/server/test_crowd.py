"""More adapters than fit, and adapters that come and go: answers stay right, nothing piles up. The long form is a soak."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from lorikeet_adapters.base_model import outline
from tests.crowd import (
    Answer,
    Held,
    ask,
    ask_by_popularity,
    demo_server,
    make_adapter,
    metric,
    peft_answers,
    register,
)
from tests.server.process import ServerProcess

THREAD_SLACK = 4  # pools grow by what happens to come at once
MEMORY_SLACK = 48 << 20  # allocators keep some of what was freed


def few_rows(folder: Path) -> ServerProcess:
    """The demo, whose adapters have 64 rank rows together."""
    return demo_server(folder, "--rank-rows", "64", "--max-slots", "8")


def serve_crowd(process: ServerProcess, folder: Path, adapters: int, requests: int) -> None:
    """Zipf traffic over `adapters` on 64 rank rows: every answer is PEFT's, memory stays where it is."""
    shapes = outline("demo")
    names = [f"a{number:04}" for number in range(adapters)]
    counted = ("lorikeet_adapter_loads_total", "lorikeet_adapter_evictions_total")
    first = [metric(process.url, each) for each in counted]
    folders = [make_adapter(folder / "adapters" / name, shapes, seed) for seed, name in enumerate(names)]
    expected = peft_answers(folders)
    assert len(set(expected.values())) > adapters // 4, "the adapters must say different things"
    for name in names:
        assert register(process.url, name, name).status_code == 201
    warm = ask_by_popularity(process.url, names, requests // 2, clients=8, seed=1)
    before = Held.by(process)
    asked = ask_by_popularity(process.url, names, requests, clients=8, seed=2)
    after = Held.by(process)
    wrong = [each for each in (*warm, *asked) if (each.status, each.text) != (200, expected[each.name])]
    assert not wrong, wrong[:3]
    assert after.memory < before.memory + MEMORY_SLACK
    assert after.files <= before.files
    loads, evictions = (
        metric(process.url, each) - before for each, before in zip(counted, first, strict=True)
    )
    assert loads > 16
    assert evictions > 0
    assert metric(process.url, "lorikeet_rank_rows_used") <= 64


def churn(process: ServerProcess, folder: Path, cycles: int) -> None:
    """Register, generate, replace, generate, delete, over and over: what the process holds returns."""
    shapes = outline("demo")
    folders = [make_adapter(folder / "adapters" / name, shapes, seed) for seed, name in enumerate("xy")]
    expected = peft_answers(folders)
    with httpx.Client(base_url=process.url, timeout=60) as client:
        for number in range(min(cycles // 4, 200)):  # until allocators have what they keep
            _cycle(process.url, client, f"n{number % 7}", expected)
        before = Held.by(process)
        for number in range(cycles):
            _cycle(process.url, client, f"n{number % 7}", expected)
    after = Held.by(process)
    assert after.memory < before.memory + MEMORY_SLACK
    assert after.files <= before.files + 2
    assert after.threads <= before.threads + THREAD_SLACK
    assert after.disk < before.disk + cycles * 2048 + (8 << 20), "the catalogue's history and nothing else"


def _cycle(url: str, client: httpx.Client, name: str, expected: dict[str, str]) -> None:
    assert register(url, name, "x").status_code == 201
    assert ask(client, name) == Answer(name, 200, expected["x"])
    assert register(url, name, "y", replace=True).status_code == 201
    assert ask(client, name) == Answer(name, 200, expected["y"])
    gone = client.delete(f"/v1/adapters/{name}")
    assert gone.status_code == 200, gone.text
    assert ask(client, name).status == 404


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crowd")


@pytest.fixture(scope="module")
def process(folder: Path) -> Iterator[ServerProcess]:
    with closing(few_rows(folder)) as made:
        yield made


@pytest.fixture
def busy(
    process: ServerProcess, folder: Path
) -> Iterator[tuple[ServerProcess, list[Answer], threading.Event]]:
    """A server of which one adapter is asked for without a pause; the answers pile up beside it."""
    make_adapter(folder / "adapters" / "good", outline("demo"), 1)
    assert register(process.url, "good", "good").status_code == 201
    answers: list[Answer] = []
    stop = threading.Event()

    def keep_asking() -> None:
        with httpx.Client(base_url=process.url, timeout=60) as client:
            while not stop.is_set():
                answers.append(ask(client, "good"))

    clients = [threading.Thread(target=keep_asking) for _ in range(4)]
    for each in clients:
        each.start()
    yield process, answers, stop
    stop.set()
    for each in clients:
        each.join()


@pytest.mark.safety("reliability 7")
def test_fifty_broken_registrations_fail_no_request(
    busy: tuple[ServerProcess, list[Answer], threading.Event], folder: Path
) -> None:
    process, answers, stop = busy
    good = folder / "adapters" / "good"
    config, weights = (
        (good / each).read_bytes() for each in ("adapter_config.json", "adapter_model.safetensors")
    )
    broken = [
        (b"{", weights),
        (config, weights[:-7]),
        (config, b""),
        (config.replace(b"LORA", b"IA3"), weights),
        (config, weights.replace(b"lora_A", b"lora_C")),
    ]
    for number in range(50):
        bad = folder / "adapters" / f"broken{number}"
        bad.mkdir()
        for name, content in zip(
            ("adapter_config.json", "adapter_model.safetensors"), broken[number % 5], strict=True
        ):
            (bad / name).write_bytes(content)
        refused = register(process.url, "bad" if number % 2 else "good", bad.name, replace=True)
        assert refused.status_code == 422, refused.text
    seen = len(answers)
    while len(answers) < seen + 8:
        stop.wait(0.01)
    stop.set()
    expected = peft_answers([good])["good"]
    assert {(each.status, each.text) for each in answers} == {(200, expected)}


def test_a_crowd_on_few_rows_is_answered_right(process: ServerProcess, folder: Path) -> None:
    serve_crowd(process, folder, adapters=24, requests=150)


@pytest.mark.safety("reliability 9")
def test_coming_and_going_leaves_nothing_behind(process: ServerProcess, folder: Path) -> None:
    churn(process, folder, cycles=12)
