"""What cannot be measured is refused before it costs time, in one line that names the option."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.quantization import Quantization
from lorikeet_bench.arms import open_bench
from lorikeet_bench.merged import write_merged
from lorikeet_bench.plan import Plan, parse_numbers
from tests.tiny import save_adapter, save_model


@pytest.mark.parametrize(
    ("option", "changes"),
    [
        ("--batch", {"batches": ()}),
        ("--batch", {"batches": (1, 1)}),
        ("--batch", {"batches": (4, 0)}),
        ("--batch", {"batches": (1, 257)}),
        ("--tokens", {"tokens": 1}),
        ("--prompt-tokens", {"prompt_tokens": 0}),
        ("--repeat", {"repetitions": 4}),
        ("--ranks", {"model": "own", "ranks": (8, 0)}),
        ("--ranks", {"model": "own", "ranks": (4097,)}),
        ("--ranks .* demo", {"ranks": (8,)}),
        ("--ranks .* --adapter", {"ranks": (8,), "model": "own", "folders": (Path("a"),)}),
        ("--adapters", {"adapters": (0,)}),
        ("--adapters", {"adapters": (65,)}),
        ("--adapter names", {"folders": tuple(Path(str(place)) for place in range(65))}),
        ("--adapter names", {"folders": (Path("a"), Path("a"))}),
    ],
)
def test_options_out_of_bounds(option: str, changes: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match=option) as refused:
        Plan(**changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "1,", "one", "1;4", "1.5"])
def test_batches_that_are_no_numbers(text: str) -> None:
    with pytest.raises(RefusedError, match="--batch"):
        parse_numbers("--batch", text)


def test_lists_are_read() -> None:
    assert parse_numbers("--batch", "1, 4,16") == (1, 4, 16)


def test_a_prompt_and_answer_beyond_the_context(tiny_base: Path) -> None:
    plan = Plan(str(tiny_base), Quantization.FP32, tokens=2000, prompt_tokens=1000)
    with pytest.raises(RefusedError, match=r"--tokens make 3000, .* holds 2048"), open_bench(plan):
        pass


def test_an_adapter_that_is_none_or_of_another_base(tiny_base: Path, tmp_path: Path) -> None:
    stranger = save_adapter(save_model(tmp_path / "gpt2", "gpt2"), tmp_path / "stranger", 4, 1)
    for folder, reason in ((tmp_path / "absent", "does not exist"), (stranger, "no linear module")):
        plan = Plan(str(tiny_base), Quantization.FP32, folders=(folder,))
        with pytest.raises(RefusedError, match=f"{folder.name}.*{reason}"), open_bench(plan):
            pass


def test_weights_that_are_shipped_quantised_are_not_merged_into(
    tiny_base: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    base = load_base(str(tiny_base), "nf4")
    base.model.save_pretrained(tmp_path / "quantised")
    with pytest.raises(RefusedError, match="full precision"):
        write_merged(replace(base, source=str(tmp_path / "quantised")), tiny_adapters[0], tmp_path)
