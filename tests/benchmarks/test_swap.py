"""An adapter that is said to be on disk is read from disk, each time; one on the device is not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_bench import swap
from lorikeet_bench.adapter import fetch, write_random
from lorikeet_bench.arms import NO_TEXT
from lorikeet_bench.machine import describe_machine
from lorikeet_bench.swap import SwapPlan, Times, run
from lorikeet_bench.target import Standing
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine


def test_every_round_reads_its_adapters_from_disk(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for warming up; then each round one by itself, one for `cold` and one for `stall`."""
    read = []

    def fetch_and_count(base: BaseModel, folder: Path) -> AdapterWeights:
        read.append(folder)
        return fetch(base, folder)

    monkeypatch.setattr(swap, "fetch", fetch_and_count)
    plan = SwapPlan(str(tiny_base), Quantization.FP32, rank=2, tokens=8, repetitions=5)
    run(plan, describe_machine, lambda label: None)
    assert len(read) == 1 + 3 * 5


def test_a_figure_taken_with_other_loads_than_it_says_is_none(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny_base), "fp32")
    folder = write_random(base, tmp_path / "one", 2, 0)
    plan = SwapPlan(tokens=8)
    with closing(
        Engine(base, EngineConfig(rank_rows=2), NO_TEXT, lambda name: fetch(base, folder))
    ) as engine:
        ask = swap._Asker(plan, engine, base)
        name = ask.unseen()
        assert ask.first_token(name, loads=1) > 0
        with pytest.raises(AssertionError, match="0 adapters were loaded, not 1"):
            ask.first_token(name, loads=1)
        with pytest.raises(AssertionError, match="1 adapters were loaded, not 0"):
            ask.gaps_beside(ask.unseen(), loads=0)


def test_a_stall_is_what_a_load_adds_to_the_longest_gap() -> None:
    """A newcomer's prompt makes 30 ms of any gap; a load adds nothing in one run and three steps in the other."""
    slow = [1.0, 1.2, 0.9, 2.0, 1.1]  # whole rounds
    gap, beside = [0.01 * each for each in slow], [0.03 * each for each in slow]
    free = Times([], [0.01] * 5, [], gap, beside, beside)
    dear = Times([], [0.2] * 5, [], gap, beside, [0.06 * each for each in slow])
    assert [each.standing for each in swap._targets(free)] == [Standing.MET, Standing.MET]
    assert [each.standing for each in swap._targets(dear)] == [Standing.MISSED, Standing.MISSED]
    assert swap._targets(dear)[1].value == pytest.approx(3)
