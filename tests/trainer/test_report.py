"""The report's numbers are those of the rows, and checking a large file takes seconds."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from lorikeet_trainer.checking import check
from lorikeet_trainer.data_show import duration
from lorikeet_trainer.data_watch import watching
from lorikeet_trainer.estimate import estimate
from lorikeet_trainer.recipe import Recipe
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.report import Bin, histogram
from lorikeet_trainer.rules import HELD_OUT, TRAINING, Rules
from lorikeet_trainer.validator import Validated, validate
from tests.trainer.broken_files import CHATS, PAIRS
from tests.trainer.conftest import chat

LARGE = 100_000


def large_file(rows: int) -> bytes:
    """About 130 bytes a row, each another."""
    lines = (chat(f"where is the lamp of order {n}?", f"order {n} is on its way") for n in range(rows))
    return "\n".join(map(json.dumps, lines)).encode()


def test_bins_double_and_count_every_row() -> None:
    assert histogram([]) == ()
    assert histogram([1, 16, 17, 100, 128, 129]) == (
        Bin(16, 2), Bin(32, 1), Bin(64, 0), Bin(128, 2), Bin(256, 1),
    )  # fmt: skip


def test_the_estimate_has_the_recipes_steps_and_grows_with_the_rows(
    base_folder: Path, renderer: Renderer
) -> None:
    def cost(data: bytes, recipe: Recipe) -> tuple[int, int, float, int]:
        validated = validate(data, "data.jsonl", renderer, HELD_OUT)
        found = estimate(str(base_folder), recipe, validated, "cpu")
        assert found is not None
        return found.steps, found.tokens, found.seconds, found.bytes

    rows = b"\n".join(CHATS)
    few, many = cost(rows, Recipe(max_steps=5)), cost(rows, Recipe(max_steps=5000))
    assert (few[0], many[0]) == (5, 5000)
    assert many[1] == 1000 * few[1]
    assert many[2] > 100 * few[2]
    assert cost(rows, Recipe(max_steps=5, rank=64))[3] > few[3]
    # A pair is two sequences.
    plan = Recipe().plan(10, 96, ())
    pairs = cost(b"\n".join(PAIRS), Recipe())
    made = validate(b"\n".join(PAIRS), "data.jsonl", renderer).pairs
    assert pairs[1] == round(plan.steps * plan.batch_size * sum(pair.tokens for pair in made) / 10)


def test_a_file_without_a_usable_row_has_no_estimate(base_folder: Path) -> None:
    (report,) = check(
        [("data.jsonl", b"{")], str(base_folder), TRAINING, Recipe(), device="cpu", console=silent()
    )
    assert (report.estimate, report.sample, report.lengths, report.is_usable) == (None, None, (), False)


def test_a_held_out_file_beside_a_broken_one_is_checked_too(base_folder: Path) -> None:
    files = [("data.jsonl", b"{"), ("held.jsonl", CHATS[0] + b"\n[]")]
    training, held_out = check(files, str(base_folder), Rules(), Recipe(), device="cpu", console=silent())
    assert training.counts == {"not_json": 1, "too_few_rows": 1}
    assert held_out.counts == {"not_an_object": 1}


def test_progress_is_lines_in_a_log_and_nothing_for_a_small_file(renderer: Renderer) -> None:
    said = io.StringIO()
    for rows in (100, 20_000):
        with watching(Console(file=said), "data.jsonl") as watch:
            for done in range(0, rows + 1, 10):
                watch(done, rows)
    lines = said.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[-1] == "data.jsonl: 20,000 of 20,000 lines checked"


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_progress_ends_with_the_last_line(end: bytes, renderer: Renderer) -> None:
    said: list[tuple[int, int]] = []
    validate(large_file(1030) + end, "data.jsonl", renderer, HELD_OUT, lambda *each: said.append(each))
    assert said == [(512, 1030), (1024, 1030), (1030, 1030)]


def test_progress_is_a_bar_on_a_terminal(renderer: Renderer) -> None:
    said = io.StringIO()
    with watching(Console(file=said, force_terminal=True), "data.jsonl") as watch:
        validate(large_file(2000), "data.jsonl", renderer, HELD_OUT, watch)
    assert "checking data.jsonl" in said.getvalue()
    assert "100%" in said.getvalue()


def test_durations_are_read_at_a_glance() -> None:
    assert [duration(each) for each in (3, 90, 7200)] == ["3 s", "1.5 min", "2.0 h"]


def test_work_grows_with_the_rows_and_not_with_their_square(renderer: Renderer) -> None:
    """Four times the rows in far less than sixteen times the time; the processor's, as others share it."""
    small, large = large_file(2000), large_file(8000)
    timed(small, renderer)
    assert timed(large, renderer)[0] < 8 * timed(small, renderer)[0]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_hundred_thousand_rows_are_checked_in_seconds(renderer: Renderer) -> None:
    seconds, found = timed(large_file(LARGE), renderer)
    print(f"{LARGE} rows in {seconds:.1f} s of processor time")
    assert (found.records, len(found.rows), found.findings) == (LARGE, LARGE, ())
    assert seconds < 60


def timed(data: bytes, renderer: Renderer) -> tuple[float, Validated]:
    begun = time.process_time()
    found = validate(data, "data.jsonl", renderer)
    return time.process_time() - begun, found


def silent() -> Console:
    return Console(file=io.StringIO())
