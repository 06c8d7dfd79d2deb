"""The engine around the model: loads, failures, cancels, endings. A tiny real model does the computing."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.errors import AdapterNotFound
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.record import Memory
from lorikeet_adapters.weights import AdapterWeights, ModuleRows
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.failures import DEAD, NON_FINITE, too_many_rows
from lorikeet_server.engine.offline import complete
from lorikeet_server.engine.request import Event, Failure, Finished, FinishReason, Request, Sampling, Token
from lorikeet_server.engine.residency import RETRY_MOST_S, RETRY_S
from lorikeet_server.engine.roster import Vocabulary
from lorikeet_server.engine.tokenizer import load_tokenizer
from tests.tiny import greedy, make_model, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("engine") / "base", "llama")


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseModel:
    return load_base(str(folder), "fp32")


def rows_for(base: BaseModel, rank: int = 2, fill: float = 0.1) -> AdapterWeights:
    return AdapterWeights(
        {
            name: ModuleRows(
                torch.full((rank, shape.in_features), fill), torch.full((rank, shape.out_features), fill)
            )
            for name, shape in base.linears.items()
        }
    )


class World:
    """An engine driven step by step, with every event kept."""

    def __init__(
        self,
        base: BaseModel,
        folder: Path,
        adapters: dict[str, AdapterWeights],
        clock: Callable[[], float] = time.monotonic,
        **config: int,
    ) -> None:
        tokenizer = load_tokenizer(str(folder))
        self.adapters = adapters
        settings = EngineConfig(**{"max_slots": 3, "prefill_tokens": 16, "rank_rows": 8, **config})
        vocabulary = Vocabulary(tokenizer.decode, tokenizer.eos)
        self.engine = Engine(base, settings, vocabulary, self.fetch, clock=clock)
        self.events: list[Event] = []
        self.fetched: list[str] = []

    def fetch(self, generation: str) -> AdapterWeights:
        self.fetched.append(generation)
        if generation not in self.adapters:
            raise AdapterNotFound(generation)
        return self.adapters[generation]

    def run(self, *requests: Request) -> dict[str, Finished]:
        for request in requests:
            self.engine.submit(request)
        wanted = {request.id for request in requests}
        while not wanted <= self.endings().keys():
            self.events += self.engine.step()
        return self.endings()

    def endings(self) -> dict[str, Finished]:
        return {event.request_id: event for event in self.events if isinstance(event, Finished)}

    def tokens(self, request_id: str) -> list[int]:
        own = [event for event in self.events if isinstance(event, Token) and event.request_id == request_id]
        assert [event.index for event in own] == list(range(len(own)))
        return [event.token_id for event in own]


def request(name: str, *adapters: str, tokens: int = 6, prompt: int = 5, **sampling: object) -> Request:
    mix = Mix.of(Term(adapter, 1.0) for adapter in adapters)
    settings = Sampling(max_tokens=tokens, **sampling)  # type: ignore[arg-type]  # what the test gives
    return Request(name, tuple(range(1, prompt + 1)), settings, mix)


def test_the_whole_answer_is_what_generate_says(base: BaseModel, folder: Path) -> None:
    world = World(base, folder, {})
    ended = world.run(request("one"))["one"]
    assert world.tokens("one") == greedy(make_model("llama"), [1, 2, 3, 4, 5], 6)
    assert (ended.reason, ended.completion_tokens) == (FinishReason.LENGTH, 6)
    assert 0 <= (ended.timing.queued or 0) <= (ended.timing.first_token or 0) <= ended.timing.total
    world.engine.close()


def test_a_stop_token_ends_it_and_counts(base: BaseModel, folder: Path) -> None:
    expected = greedy(make_model("llama"), [1, 2, 3, 4, 5], 6)
    world = World(base, folder, {})
    ended = world.run(request("one", stop_token_ids=frozenset({expected[2]})))["one"]
    stops_at = expected.index(expected[2]) + 1
    assert (ended.reason, ended.completion_tokens, ended.stopped_by) == (
        FinishReason.STOP,
        stops_at,
        expected[2],
    )
    world.engine.close()


def test_seeded_tokens_do_not_depend_on_the_company(base: BaseModel, folder: Path) -> None:
    chosen = request("drawn", temperature=1.5, seed=11, tokens=12)
    alone = World(base, folder, {})
    alone.run(chosen)
    crowd = World(base, folder, {"x": rows_for(base)})
    crowd.run(request("other", "x", prompt=9), chosen, request("third", temperature=1.0, seed=3))
    other_seed = World(base, folder, {})
    other_seed.run(request("drawn", temperature=1.5, seed=12, tokens=12))
    assert alone.tokens("drawn") == crowd.tokens("drawn") != other_seed.tokens("drawn")
    for world in (alone, crowd, other_seed):
        world.engine.close()


@pytest.mark.parametrize(
    ("adapters", "code"),
    [({}, "adapter_refused"), ({"x": "large"}, "mix_too_large"), ({"x": "huge"}, NON_FINITE.code)],
)
def test_what_is_wrong_with_a_mix_fails_that_request_alone(
    base: BaseModel, folder: Path, adapters: dict[str, str], code: str
) -> None:
    kinds = {"large": rows_for(base, rank=9), "huge": rows_for(base, fill=3e38)}
    world = World(base, folder, {name: kinds[kind] for name, kind in adapters.items()})
    endings = world.run(request("bad", "x"), request("good"))
    assert endings["bad"].reason is FinishReason.FAILED
    assert endings["bad"].failure is not None
    assert endings["bad"].failure.code == code
    assert endings["good"].reason is FinishReason.LENGTH
    assert world.tokens("good") == greedy(make_model("llama"), [1, 2, 3, 4, 5], 6)
    world.engine.close()


def test_a_prompt_that_can_never_fit_is_refused_at_once(base: BaseModel, folder: Path) -> None:
    world = World(base, folder, {}, max_model_len=8)
    endings = world.run(request("long", prompt=8), request("fits", prompt=6, tokens=50))
    assert endings["long"].failure is not None
    assert endings["long"].failure.code == "context_length_exceeded"
    assert (endings["fits"].reason, endings["fits"].completion_tokens) == (FinishReason.LENGTH, 2)
    world.engine.close()


def test_a_token_id_beyond_the_embeddings_fails_that_request_alone(base: BaseModel, folder: Path) -> None:
    world = World(base, folder, {})
    size = base.model.config.vocab_size
    beyond = Request("beyond", (1, size), Sampling(max_tokens=2))
    endings = world.run(beyond, Request("last", (1, size - 1), Sampling(max_tokens=2)))
    assert endings["beyond"].failure == Failure(
        "unknown_token", f"the prompt has the token id {size}, the base's embeddings end at {size}"
    )
    assert endings["last"].reason is FinishReason.LENGTH
    world.engine.close()


def test_a_failed_load_is_answered_from_memory_for_a_while_that_doubles(
    base: BaseModel, folder: Path
) -> None:
    now = [100.0]
    world = World(base, folder, {}, clock=lambda: now[0])

    def reads(name: str) -> int:
        before, request_id = len(world.fetched), f"after {len(world.events)} events"
        failure = world.run(request(request_id, name))[request_id].failure
        assert (failure is None) is (name in world.adapters and len(world.fetched) > before)
        assert failure is None or failure.code == "adapter_refused"
        return len(world.fetched) - before

    assert reads("x") == 1
    now[0] += RETRY_S - 0.1
    assert reads("x") == 0
    assert reads("y") == 1, "another one's load is its own"
    now[0] += 0.2
    assert (reads("x"), reads("x")) == (1, 0)
    now[0] += RETRY_S + 0.2
    assert reads("x") == 0, "twice as long"
    for _ in range(10):
        now[0] += RETRY_MOST_S + 0.1
        assert reads("x") == 1, "but never longer than the bound"
    world.adapters["x"] = rows_for(base)
    assert reads("x") == 0
    world.engine.retire("x")
    assert reads("x") == 1, "a retired one is forgotten"
    world.engine.close()


def test_a_pin_asks_again_for_what_failed_and_its_success_ends_the_refusals(
    base: BaseModel, folder: Path
) -> None:
    world = World(base, folder, {}, clock=lambda: 100.0)
    assert world.run(request("early", "x"))["early"].failure
    world.adapters["x"] = rows_for(base)
    world.engine.pin("x", True)
    assert world.run(request("late", "x"))["late"].failure
    while not world.engine.runner.rank_rows.resident:
        world.engine.step()
    assert world.run(request("last", "x"))["last"].failure is None
    world.engine.close()


def test_evicted_adapters_come_back_and_answers_stay_the_same(base: BaseModel, folder: Path) -> None:
    kinds = {name: rows_for(base, rank=4, fill=0.02 * n) for n, name in enumerate("abc", 1)}
    world = World(base, folder, kinds)
    order = ["a", "b", "c", "a", "c", "b", "a"]
    for n, name in enumerate(order):
        world.run(request(f"{n}", name))
    assert world.engine.stats.evictions >= 4
    assert world.engine.stats.rows_used <= 8
    first = {name: world.tokens(str(order.index(name))) for name in "abc"}
    assert len({tuple(tokens) for tokens in first.values()}) > 1
    assert all(world.tokens(str(n)) == first[name] for n, name in enumerate(order))
    world.engine.close()


@pytest.mark.safety("reliability 5")
def test_every_request_has_exactly_one_ending_under_random_traffic(base: BaseModel, folder: Path) -> None:
    chance = random.Random(4)
    world = World(base, folder, {name: rows_for(base, rank=3, fill=0.01) for name in "abc"})
    names = [f"r{n}" for n in range(30)]
    for step, name in enumerate(names):
        mix = chance.sample(["a", "b", "c", "missing"], chance.randrange(3))
        world.engine.submit(
            request(name, *mix, tokens=chance.randrange(1, 9), prompt=chance.randrange(1, 40))
        )
        for _ in range(chance.randrange(3)):
            world.events += world.engine.step()
        if chance.random() < 0.3:
            world.engine.cancel(chance.choice(names[: step + 1]))
    while world.endings().keys() != set(names):
        world.events += world.engine.step()
    finished = [event.request_id for event in world.events if isinstance(event, Finished)]
    assert sorted(finished) == sorted(names)
    seen: set[str] = set()
    for event in world.events:
        assert event.request_id not in seen, "an event after the ending"
        if isinstance(event, Finished):
            seen.add(event.request_id)
    world.engine.submit(request("last", tokens=1))
    while "last" not in world.endings():
        world.events += world.engine.step()
    world.events += world.engine.step() if not world.engine._scheduler.idle else []
    assert world.engine.runner.slots_used == 0
    world.engine.close()


@pytest.mark.safety("reliability 2")
@pytest.mark.parametrize("part", ["runner.execute", "_scheduler.schedule", "_apply"])
def test_death_is_remembered_and_everybody_gets_one_answer(
    base: BaseModel, folder: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    world = World(base, folder, {})
    published: list[Event] = []
    world.engine.publish = published.extend

    def broken(*_: object) -> None:
        raise RuntimeError("the device is gone")

    *path, name = part.split(".")
    monkeypatch.setattr(getattr(world.engine, path[0]) if path else world.engine, name, broken)
    for request_id in ("running", "beside"):
        world.engine.submit(request(request_id))
    thread = threading.Thread(target=world.engine.run)
    thread.start()
    while world.engine.failure is None:
        thread.join(0.01)
        assert thread.is_alive(), "the thread answers later requests, too"
    world.engine.submit(request("later"))
    world.engine.stop()
    thread.join(30)
    assert not thread.is_alive()
    endings = [event for event in published if isinstance(event, Finished)]
    assert sorted(event.request_id for event in endings) == ["beside", "later", "running"]
    assert {event.failure for event in endings} == {DEAD}
    world.engine.runner.rank_rows.detach()


def test_what_is_on_its_way_in_when_it_stops_is_answered(base: BaseModel, folder: Path) -> None:
    world = World(base, folder, {})
    published: list[Event] = []
    world.engine.publish = published.extend
    world.engine.submit(request("running", tokens=100))
    world.engine.stop()
    world.engine.submit(request("late"))
    world.engine.run()
    endings = {event.request_id: event.reason for event in published if isinstance(event, Finished)}
    assert endings == {"running": FinishReason.ABORTED, "late": FinishReason.ABORTED}


# Pins and retirements.


def test_a_pin_loads_without_a_request_and_is_never_evicted(base: BaseModel, folder: Path) -> None:
    world = World(base, folder, {"a": rows_for(base, 4), "b": rows_for(base, 4), "c": rows_for(base, 4)})
    engine = world.engine
    engine.pin("a", True)
    engine.step()  # the load begins; the next step begins when it has landed
    engine.step()
    assert engine.runner.rank_rows.resident == {"a": 4}
    for name in ("b", "c", "b"):  # each needs the four rows that `a` leaves
        complete(engine, [Request(f"r-{name}", (1, 2), Sampling(max_tokens=2), Mix.of([Term(name, 1.0)]))])
        assert "a" in engine.runner.rank_rows.resident
    engine.pin("a", False)
    mix = Mix.of([Term("b", 1.0), Term("c", 1.0)])
    complete(engine, [Request("both", (1, 2), Sampling(max_tokens=2), mix)])
    assert "a" not in engine.runner.rank_rows.resident
    engine.close()


def test_a_mix_that_does_not_fit_beside_the_pinned_fails_and_does_not_wait(
    base: BaseModel, folder: Path
) -> None:
    world = World(base, folder, {"a": rows_for(base, 5), "b": rows_for(base, 4)})
    world.engine.pin("a", True)
    beside = Request("beside", (1, 2), Sampling(max_tokens=2), Mix.of([Term("b", 1.0)]))
    alone = Request("alone", (1, 2), Sampling(max_tokens=2), Mix.of([Term("a", 1.0)]))
    answers = complete(world.engine, [beside, alone])
    assert answers["beside"][1].failure == too_many_rows(wanted=4, budget=8, pinned=5)
    assert answers["alone"][1].failure is None
    world.engine.close()


def test_a_pin_whose_load_fails_is_given_up(base: BaseModel, folder: Path) -> None:
    world = World(base, folder, {})
    world.engine.pin("nobody", True)
    world.engine.step()
    world.engine.step()
    assert world.engine._scheduler.idle, "it is not tried again and again"
    world.engine.close()


def test_a_retirement_is_answered_with_the_bytes_given_back(base: BaseModel, folder: Path) -> None:
    weights = rows_for(base, 4)
    world = World(base, folder, {"a": weights})
    complete(world.engine, [Request("r", (1, 2), Sampling(max_tokens=2), Mix.of([Term("a", 1.0)]))])
    answers = [world.engine.retire("a"), world.engine.retire("a"), world.engine.retire("nobody")]
    world.engine.step()
    both = Memory(device=weights.bytes, host=weights.bytes)
    assert [each.result(0) for each in answers] == [both, Memory(), Memory()]
    assert world.engine.runner.rank_rows.resident == {}
    world.engine.close()
