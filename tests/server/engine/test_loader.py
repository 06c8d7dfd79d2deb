"""The loader reads what is next in line when it is free, whatever was first in line before."""

from __future__ import annotations

import queue
import threading

import torch

from lorikeet_adapters.merges import PREFIX
from lorikeet_adapters.weights import AdapterWeights, ModuleRows
from lorikeet_server.engine.batch import Load
from lorikeet_server.engine.command import AdapterArrived, Command
from lorikeet_server.engine.loader import Loader

ROWS = AdapterWeights({"q": ModuleRows(torch.zeros(1, 2), torch.zeros(1, 2))})


class Desk:
    """A loader whose reads wait to be let through one by one."""

    def __init__(self) -> None:
        self.begun: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.gate = threading.Semaphore(0)
        self.outcomes: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self.loader = Loader(self.fetch, self.outcomes.put)

    def fetch(self, generation: str) -> AdapterWeights:
        self.begun.put(generation)
        assert self.gate.acquire(timeout=30)
        return ROWS

    def finish(self) -> str:
        self.gate.release()
        outcome = self.outcomes.get(timeout=30)
        assert isinstance(outcome, AdapterArrived)
        return outcome.load.generation

    def begins(self) -> str:
        return self.begun.get(timeout=30)


def test_what_moves_to_the_front_of_the_line_is_read_next_and_what_left_it_is_not_read() -> None:
    desk = Desk()
    first, second, third, fourth = (Load(name, ticket) for ticket, name in enumerate("abcd", 1))
    desk.loader.load([first, second, third])
    assert desk.begins() == "a"
    desk.loader.load([fourth, third, first])
    assert desk.finish() == "a"
    assert desk.begins() == "d"
    desk.loader.load([third, fourth])
    assert desk.finish() == "d"
    assert desk.begins() == "c", "b has left the line, a and d are read"
    desk.loader.load([third])
    assert desk.finish() == "c"
    again = Load("b", 5)
    desk.loader.load([again])
    assert desk.begins() == "b"
    assert desk.finish() == "b"
    desk.loader.close()
    assert desk.begun.empty()
    assert desk.outcomes.empty()


def test_merges_do_not_hold_up_files() -> None:
    gate = threading.Event()
    outcomes: queue.SimpleQueue[Command] = queue.SimpleQueue()

    def fetch(generation: str) -> AdapterWeights:
        assert not generation.startswith(PREFIX) or gate.wait(30)
        return ROWS

    loader = Loader(fetch, outcomes.put)
    names = [f"{PREFIX}1", f"{PREFIX}2", "x", "y"]
    loader.load([Load(name, ticket) for ticket, name in enumerate(names, 1)])
    came = []
    for _ in names:
        outcome = outcomes.get(timeout=10)
        assert isinstance(outcome, AdapterArrived)
        came.append(outcome.load.generation)
        if came == ["x", "y"]:
            gate.set()
    assert came == ["x", "y", *names[:2]]
    loader.close()
