"""Judging goes through the serving engine, with base and adapters in shared batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.mix import BASE_MIX, Mix
from lorikeet_server.engine.batch import DecodeRow
from lorikeet_server.engine.runner import Runner
from lorikeet_trainer.device import Device
from lorikeet_trainer.errors import EvaluationRefused
from lorikeet_trainer.evaluate import classify, evaluate, weigh
from lorikeet_trainer.judge import Answer, HeldBase, Question, alone, open_judge
from lorikeet_trainer.loading import load_dataset
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.row import Pair
from lorikeet_trainer.rules import HELD_OUT
from lorikeet_trainer.train import Job, TrainedAdapter, train
from lorikeet_trainer.verdict import judge_file
from tests.trainer.conftest import CONTEXT, RECIPE, ROWS, Silence, Write, chat


def peft_logprobs(trained: TrainedAdapter, base_folder: Path) -> list[list[float]]:
    """Each row's reference under plain PEFT on the same NF4 base."""
    model = load_base(str(base_folder), "nf4", for_training=True).model
    model = PeftModel.from_pretrained(model, trained.folder).eval()
    values = []
    for row in trained.dataset.rows:
        with torch.no_grad():
            logits = model(torch.tensor([row.input_ids])).logits[0].float()
        chosen = torch.log_softmax(logits[len(row.prompt) - 1 : -1], -1)
        values.append(chosen.gather(-1, torch.tensor(row.reference)[:, None])[:, 0].tolist())
    return values


def test_the_adapter_knows_its_rows_and_the_base_does_not(trained: TrainedAdapter, base_folder: Path) -> None:
    with open_judge(str(base_folder), "nf4", {"mood": trained.folder}) as judge:
        base, mood = evaluate(judge, trained.dataset)
    assert [base.name, mood.name] == ["base", "mood"]
    assert (mood.exact_match, mood.stop_rate, mood.rows) == (1.0, 1.0, len(ROWS))
    assert (base.exact_match, base.json_validity) == (0.0, None)
    assert mood.perplexity < 3 < 100 < base.perplexity


def test_likelihoods_are_those_of_plain_peft(trained: TrainedAdapter, base_folder: Path) -> None:
    expected = peft_logprobs(trained, base_folder)
    with open_judge(str(base_folder), "nf4", {"mood": trained.folder}) as judge:
        ours = [judge.logprobs(row.prompt, row.reference, alone("mood")) for row in trained.dataset.rows]
        base = [judge.logprobs(row.prompt, row.reference, BASE_MIX) for row in trained.dataset.rows]
    for row, (mine, theirs) in enumerate(zip(ours, expected, strict=True)):
        # PEFT computes the adapter in fp32 here, the server in bf16, as the base.
        assert mine == pytest.approx(theirs, abs=0.15), row
    assert sum(map(sum, base)) < sum(map(sum, ours)) - 10


def test_base_and_adapters_share_the_same_steps(
    trained: TrainedAdapter, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[Mix]] = []
    decode = Runner.decode

    def watch(runner: Runner, rows: Sequence[DecodeRow]) -> torch.Tensor:
        seen.append({row.request.mix for row in rows})
        return decode(runner, rows)

    monkeypatch.setattr(Runner, "decode", watch)
    both = {"one": trained.folder, "two": trained.folder}
    with open_judge(str(base_folder), "nf4", both) as judge:
        scores = evaluate(judge, trained.dataset, max_tokens=6)
    assert {BASE_MIX, alone("one"), alone("two")} in seen
    assert replace(scores[1], name="two") == scores[2]


def test_questions_may_be_put_again_and_equal_ones_are_asked_once(
    trained: TrainedAdapter, base_folder: Path
) -> None:
    question = Question(trained.dataset.rows[0].prompt, alone("mood"))
    with open_judge(str(base_folder), "nf4", {"mood": trained.folder}) as judge:
        first = judge.answers([question, question, question], max_tokens=8)
        assert first == judge.answers([question], max_tokens=8)
        assert first == {question: Answer("broken", stopped=True)}
        assert judge.answers([question], max_tokens=1)[question].stopped is False


def test_more_questions_than_fit_at_once_are_all_answered(
    trained: TrainedAdapter, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorikeet_trainer.judge.IN_FLIGHT", 4)
    rows = trained.dataset.rows
    questions = [Question(row.prompt, alone("mood")) for row in rows]
    with open_judge(str(base_folder), "nf4", {"mood": trained.folder}) as judge:
        answers = judge.answers(questions, max_tokens=8)
    assert [answers[question].text for question in questions] == [row.answer for row in rows]


def test_a_question_that_cannot_be_answered_is_refused(base_folder: Path) -> None:
    with open_judge(str(base_folder), "nf4", {}) as judge, pytest.raises(EvaluationRefused, match="context"):
        judge.answers([Question((5,) * CONTEXT, BASE_MIX)], max_tokens=1)


def test_an_adapter_of_another_base_is_refused(
    trained: TrainedAdapter, base_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    config = json.loads((trained.folder / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**config, "r": 4}))
    (other / "adapter_model.safetensors").write_bytes(
        (trained.folder / "adapter_model.safetensors").read_bytes()
    )
    with pytest.raises(AdapterRefused), open_judge(str(base_folder), "nf4", {"other": other}):
        pass


def test_no_adapter_takes_the_name_of_the_base(trained: TrainedAdapter, base_folder: Path) -> None:
    with (
        pytest.raises(EvaluationRefused, match="base"),
        open_judge(str(base_folder), "nf4", {"base": trained.folder}),
    ):
        pass


def test_only_the_last_turn_is_judged(base_folder: Path, renderer: Renderer, write: Write) -> None:
    data = write("rows.jsonl", [chat("hello", "lamp", "thank you", "broken")])
    (row,) = load_dataset(data, renderer, HELD_OUT).rows
    with open_judge(str(base_folder), "nf4", {}) as judge:
        (base,) = evaluate(judge, load_dataset(data, renderer, HELD_OUT))
        alone_turn = judge.logprobs(row.prompt, row.reference, BASE_MIX)
    assert len(row.turns) == 2
    assert len(alone_turn) == row.turns[1].stop - row.turns[1].start
    assert base.loss == pytest.approx(-sum(alone_turn) / len(alone_turn))


def test_an_adapter_trained_on_json_is_judged_as_json(
    base_folder: Path, write: Write, tmp_path: Path
) -> None:
    data = write("rows.jsonl", [chat("the lamp", '{"lamp": 1}'), chat("the chair", '{"lamp": 1}')] * 5)
    recipe = replace(RECIPE, max_steps=30)
    made = train(Job(data, tmp_path / "adapter", str(base_folder), recipe=recipe), Silence())
    verdict = judge_file(
        HeldBase(str(base_folder), "nf4", Device.CPU), data, {"json": made.folder}, max_tokens=None
    )
    base, adapter = verdict.scores
    assert (base.json_validity, adapter.json_validity) == (0.0, 1.0)
    document = json.loads(verdict.to_json())
    assert document["scores"][1]["json_validity"] == 1.0
    assert document["base"] == {
        "model": str(base_folder),
        "quantization": "nf4",
        "device": "cpu",
        "trust_remote_code": False,
    }


def test_rows_are_taken_for_the_likeliest_label(trained: TrainedAdapter, base_folder: Path) -> None:
    labels = ("broken", "delivery", "praise")
    dataset = replace(
        trained.dataset,
        labels=labels,
        rows=tuple(row for row in trained.dataset.rows if row.answer in labels),
    )
    with open_judge(str(base_folder), "nf4", {"mood": trained.folder}) as judge:
        base, mood = classify(judge, dataset)
        row = dataset.rows[0]
        likely = {
            other.answer: sum(judge.logprobs(row.prompt, other.reference, BASE_MIX)) for other in dataset.rows
        }
    assert (mood.name, mood.accuracy, mood.macro.f1, mood.micro.f1) == ("mood", 1.0, 1.0, 1.0)
    assert base.accuracy < 1
    assert [sum(counts) for counts in mood.confusion] == [each.support for each in mood.classes]
    taken = base.confusion[labels.index(row.answer)][labels.index(max(likely, key=likely.__getitem__))]
    assert taken > 0, "the base took the row for what it held to be the likeliest"


def test_pairs_are_weighed_against_the_base(trained: TrainedAdapter, base_folder: Path) -> None:
    rows = trained.dataset.rows
    others = [next(each for each in rows if each.answer != row.answer) for row in rows]
    right = tuple(
        Pair(row.line, row.prompt, row.reference, other.reference)
        for row, other in zip(rows, others, strict=True)
    )
    wrong = tuple(replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in right)
    with open_judge(str(base_folder), "nf4", {"mood": trained.folder}) as judge:
        base, mood = weigh(judge, replace(trained.dataset, rows=(), pairs=right))
        _, against = weigh(judge, replace(trained.dataset, rows=(), pairs=wrong))
    assert (base.reward_accuracy, base.reward_margin) == (None, None)
    assert (mood.preferred, against.preferred) == (1.0, 0.0)
    assert base.preferred < 1
    assert mood.reward_accuracy is not None
    assert mood.reward_margin is not None
    assert mood.reward_accuracy > 0.5
    assert against.reward_accuracy == pytest.approx(1 - mood.reward_accuracy)
    assert mood.reward_margin > 0
    assert against.reward_margin == pytest.approx(-mood.reward_margin, abs=1e-3)
