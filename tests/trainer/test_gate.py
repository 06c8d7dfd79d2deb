"""Nothing that differs from what was trained passes the gate; each way to differ is made here, on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.precision import bfloat16_is_fast, compute_in_float32
from lorikeet_server.engine.tokenizer import load_tokenizer
from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.errors import EvaluationRefused
from lorikeet_trainer.figures import difference
from lorikeet_trainer.gate import Gate, _render, gate
from lorikeet_trainer.judge import HeldBase
from lorikeet_trainer.loading import load_dataset
from lorikeet_trainer.parity import Held, Sent, Trace, hold_out, measure, read_parity, write_parity
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.row import Pair, Row, Turn
from lorikeet_trainer.rules import HELD_OUT
from lorikeet_trainer.train import Job, TrainedAdapter, train
from tests.trainer.conftest import RECIPE, ROWS, TEMPLATE, Silence, Write, chat, make_tokenizer, save_base


@dataclass(frozen=True, slots=True)
class Bench:
    """A trained adapter with what its training's forward said of its rows."""

    base: Path
    adapter: Path
    traces: tuple[Trace, ...]

    def judge(self, folder: Path | None = None, **options: object) -> Gate:
        return gate(folder or self.adapter, self.traces, HeldBase(str(self.base), "nf4"), **options)  # type: ignore[arg-type]


def codes(verdict: Gate) -> list[str]:
    assert verdict.passed == (not verdict.reasons)
    return [reason.code for reason in verdict.reasons]


def trained_forward(base: Path, adapter: Path, held: tuple[Held, ...]) -> tuple[Trace, ...]:
    """PEFT's own reading of the adapter on the base as training holds it."""
    loaded = load_base(str(base), "nf4", for_training=True)
    if not bfloat16_is_fast(loaded.device):
        compute_in_float32(loaded.model)
    return measure(PeftModel.from_pretrained(loaded.model, adapter), held)


@pytest.fixture(scope="module")
def bench(trained: TrainedAdapter, base_folder: Path, data: Path) -> Bench:
    held = hold_out(data.read_bytes(), trained.dataset.rows)
    return Bench(base_folder, trained.folder, trained_forward(base_folder, trained.folder, held))


@pytest.fixture
def spoiled(bench: Bench, tmp_path: Path) -> Path:
    """A copy of the adapter to break."""
    return Path(shutil.copytree(bench.adapter, tmp_path / "spoiled"))


def rewrite(folder: Path, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(dict(change(*each) for each in load_file(path).items()), path, {"format": "pt"})


def set_config(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_was_trained_passes_and_says_by_how_much(bench: Bench) -> None:
    verdict = bench.judge()
    assert codes(verdict) == []
    figures = verdict.figures
    assert figures is not None
    assert (figures.rows, figures.tokens) == (len(ROWS), sum(len(each.adapted) for each in bench.traces))
    assert figures.strength == pytest.approx(1.0, abs=0.05)
    assert figures.effect > 1
    assert figures.loss < 1 < figures.parent_loss
    assert json.loads(json.dumps(verdict.to_dict()))["figures"]["rows"] == len(ROWS)


def test_bfloat16_passes_on_a_base_that_training_computed_in_float32(
    trained: TrainedAdapter, base_folder: Path, data: Path
) -> None:
    """The two round differently, here by 0.002 nats on average; half of alpha is 0.4 nats away."""
    loaded = load_base(str(base_folder), "bf16", for_training=True)
    compute_in_float32(loaded.model)
    held = hold_out(data.read_bytes(), trained.dataset.rows)
    traces = measure(PeftModel.from_pretrained(loaded.model, trained.folder), held)
    verdict = gate(trained.folder, traces, HeldBase(str(base_folder), "bf16"))
    assert codes(verdict) == []
    assert verdict.figures is not None
    assert 1e-4 < verdict.figures.difference < 1e-2


def test_renamed_keys_are_caught(bench: Bench, spoiled: Path) -> None:
    rewrite(spoiled, lambda name, tensor: (name.replace("self_attn", "attention"), tensor))
    assert codes(bench.judge(spoiled)) == ["not_servable"]


def test_keys_that_changed_places_are_caught(bench: Bench, spoiled: Path) -> None:
    swap = {"layers.0": "layers.1", "layers.1": "layers.0"}

    def swapped(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        own = next(each for each in swap if each in name)
        return name.replace(own, swap[own]), tensor

    rewrite(spoiled, swapped)
    assert "not_what_was_trained" in codes(bench.judge(spoiled))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_alpha_is_caught(bench: Bench, spoiled: Path, factor: float) -> None:
    set_config(spoiled, lora_alpha=RECIPE.alpha * factor)  # type: ignore[operator]
    assert "not_what_was_trained" in codes(bench.judge(spoiled))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_alpha_is_caught_in_an_adapter_that_changes_less_than_the_tolerance(
    bench: Bench, spoiled: Path, factor: float
) -> None:
    coarse = bfloat16_is_fast(torch.device("cpu"))
    faint = fainter(bench, spoiled, 1e-2 if coarse else 1e-4)
    right = faint.judge(spoiled, quality=False)
    assert codes(right) == []
    assert right.figures is not None
    assert right.figures.effect < (5e-2 if coarse else 1e-3)
    set_config(spoiled, lora_alpha=RECIPE.alpha * factor)  # type: ignore[operator]
    wrong = faint.judge(spoiled, quality=False)
    assert codes(wrong) == ["other_strength"]
    assert wrong.figures is not None
    assert wrong.figures.strength == pytest.approx(factor, rel=0.1)


def fainter(bench: Bench, adapter: Path, share: float) -> Bench:
    """Makes the adapter's whole effect this share of what it was, and has training say what it does then."""
    rewrite(adapter, lambda name, tensor: (name, tensor * (share if "lora_B" in name else 1)))
    return replace(
        bench, traces=trained_forward(bench.base, adapter, tuple(each.held for each in bench.traces))
    )


def test_an_effect_that_rounding_hides_is_not_taken_for_a_wrong_strength(bench: Bench, spoiled: Path) -> None:
    verdict = fainter(bench, spoiled, 1e-4 if bfloat16_is_fast(torch.device("cpu")) else 1e-7).judge(
        spoiled, quality=False
    )
    assert codes(verdict) in (["lost_in_rounding"], ["same_as_base"])
    assert verdict.figures is not None
    assert verdict.figures.strength is None


def test_an_adapter_that_is_the_base_is_caught(bench: Bench, spoiled: Path) -> None:
    rewrite(spoiled, lambda name, tensor: (name, tensor * (0 if "lora_B" in name else 1)))
    assert codes(bench.judge(spoiled)) == ["same_as_base"]


def test_another_template_is_caught(bench: Bench, tmp_path: Path) -> None:
    base = Path(shutil.copytree(bench.base, tmp_path / "base"))
    make_tokenizer(TEMPLATE.replace("<|assistant|>\\n", "<|assistant|>")).save_pretrained(base)
    verdict = replace(bench, base=base).judge()
    assert codes(verdict) == ["other_prompt"]
    assert "line 1" in verdict.reasons[0].message


def test_another_base_is_caught(bench: Bench, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", lambda model: model.model.norm.weight.data.mul_(1.5))
    assert "other_base" in codes(replace(bench, base=base).judge())


def test_an_end_of_turn_that_was_left_out_of_the_loss_is_caught(
    bench: Bench, base_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = load_dataset(data, Renderer.load(str(base_folder)))

    def without_ends(*_: object, **__: object) -> Dataset:
        rows = [
            replace(row, turns=tuple(replace(turn, stop=turn.stop - 1) for turn in row.turns))
            for row in full.rows
        ]
        return replace(full, rows=tuple(rows))

    monkeypatch.setattr("lorikeet_trainer.train.load_dataset", without_ends)
    made = train(Job(data, tmp_path / "endless", str(base_folder), recipe=RECIPE), Silence())
    held = tuple(each.held for each in bench.traces)
    endless = replace(bench, traces=trained_forward(base_folder, made.folder, held))
    assert codes(endless.judge(made.folder)) == ["end_not_learned"]


def test_an_end_that_ends_nothing_on_the_server_is_caught(bench: Bench) -> None:
    other = tuple(
        replace(each, held=replace(each.held, answer=(*each.held.answer[:-1], 5))) for each in bench.traces
    )
    assert "other_end" in codes(replace(bench, traces=other).judge(quality=False))


def test_a_loss_above_the_parents_fails_unless_quality_is_not_asked_for(
    bench: Bench, spoiled: Path, tmp_path: Path
) -> None:
    rewrite(spoiled, lambda name, tensor: (name, tensor * (0.3 if "lora_B" in name else 1)))
    weak = replace(
        bench, traces=trained_forward(bench.base, spoiled, tuple(each.held for each in bench.traces))
    )
    assert codes(weak.judge(spoiled)) == []
    verdict = weak.judge(spoiled, parent=bench.adapter)
    assert codes(verdict) == ["worse_than_parent"]
    assert "its parent's" in verdict.reasons[0].message
    assert codes(weak.judge(spoiled, parent=bench.adapter, quality=False)) == []


def test_pairs_are_judged_by_dpos_loss(bench: Bench) -> None:
    """With the adapter's own answer as the better one the margin is wide; the other way round it is lost."""
    rows = [each.held for each in bench.traces[:4]]
    end = rows[0].answer[-1:]
    good = [Pair(each.line, each.prompt, each.answer, (40, 41, *end)) for each in rows]
    bad = [Pair(each.line, each.prompt, (40, 41, *end), each.answer) for each in rows]
    losses = []
    for pairs in (good, bad):
        held = hold_out(b"", pairs)
        assert [each.is_rejected for each in held] == [False, True] * 4
        judged = replace(bench, traces=trained_forward(bench.base, bench.adapter, held)).judge()
        assert judged.figures is not None
        assert judged.figures.parent_loss == pytest.approx(0.6931, abs=1e-4)
        losses.append((judged.figures.loss, "worse_than_parent" in codes(judged)))
    (better, better_fails), (worse, worse_fails) = losses
    assert better < 0.6 < 0.8 < worse
    assert (better_fails, worse_fails) == (False, True)


def test_without_rows_there_is_no_verdict(bench: Bench) -> None:
    with pytest.raises(EvaluationRefused, match="no held-out row"):
        replace(bench, traces=()).judge()


def test_the_record_reads_back_as_it_was_written(bench: Bench, tmp_path: Path) -> None:
    write_parity(tmp_path, bench.traces)
    assert read_parity(tmp_path) == bench.traces
    (tmp_path / "parity.json").write_text('[{"held": {}}]')
    with pytest.raises(EvaluationRefused, match=r"parity\.json"):
        read_parity(tmp_path)


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def sent_rows() -> Iterator[tuple[object, Sent | None]]:
    turns = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    told = Sent((("system", "Be brief."), ("user", "Hi")))
    answer = {"role": "assistant", "content": "Hello!"}
    yield {"messages": [*turns, answer]}, told
    yield {"messages": [*turns, answer], "tools": []}, None
    yield {"messages": [{"role": "tool", "content": "5"}, answer]}, None
    yield {"prompt": "Once", "completion": " upon"}, Sent(text="Once")
    yield {"prompt": turns, "chosen": [answer], "rejected": [answer]}, told
    yield {"input": {"messages": turns}, "preferred_output": [answer], "non_preferred_output": [answer]}, told
    yield {"text": "Once", "label": "upon"}, Sent(text="Once")
    yield {"text": "Once upon"}, None


@pytest.mark.parametrize(("row", "expected"), list(sent_rows()))
def test_what_a_client_would_send_is_read_from_the_row_itself(row: object, expected: Sent | None) -> None:
    pair = Pair(1, (1, 2), (3,), (4,))
    assert [each.sent for each in hold_out(lines(row), [pair])] == [expected, expected]


def test_a_conversation_is_sent_up_to_the_last_answer_that_was_learned() -> None:
    said = [chat("a", "b", "c", "d", "e", "f")["messages"]]
    said[0][5]["weight"] = 0
    turns = {1: ["a"], 2: ["a", "b", "c"], 3: None}
    for kept, expected in turns.items():
        row = Row(1, tuple(range(9)), tuple(Turn(each, each + 1) for each in range(1, 1 + kept)), "x")
        (held,) = hold_out(lines({"messages": said[0]}), [row])
        told = None if held.sent is None else [content for _, content in held.sent.messages]
        assert told == expected


def test_a_row_of_any_format_renders_on_the_server_as_it_was_trained(
    base_folder: Path, renderer: Renderer, write: Write
) -> None:
    text = load_tokenizer(str(base_folder))
    turns = [{"role": "user", "content": "the red lamp"}]
    answer = [{"role": "assistant", "content": "broken"}]
    other = [{"role": "assistant", "content": "praise"}]
    files: list[dict[str, object]] = [
        {"messages": [*turns, *answer, *turns, *answer]},
        {"prompt": "the red lamp", "completion": "#1"},
        {"text": "the red lamp", "label": "broken"},
        {"prompt": turns, "chosen": answer, "rejected": other},
        {"prompt": "the red lamp", "chosen": "#1", "rejected": "#2"},
        {"input": {"messages": turns}, "preferred_output": answer, "non_preferred_output": other},
        {"text": "the red lamp is broken"},
    ]
    for number, row in enumerate(files):
        path = write(f"{number}.jsonl", [row])
        dataset = load_dataset(path, renderer, HELD_OUT)
        for held in hold_out(path.read_bytes(), dataset.rows or dataset.pairs):
            assert _render(held, text) == (None if number == 6 else held.prompt), row


def test_rows_are_spread_over_the_file() -> None:
    pairs = [Pair(line, (1,), (2,), (3,)) for line in range(1, 101)]
    assert [each.line for each in hold_out(b"", pairs, most=4)][::2] == [1, 26, 51, 76]


def test_improbable_tokens_are_compared_by_their_size() -> None:
    assert difference([-20.0, -0.5], [-10.0, -0.4]) == pytest.approx((1.0 + 0.1) / 2)
