"""Answers and likelihoods of every contestant over one data file."""

from __future__ import annotations

from lorikeet_adapters.mix import Mix
from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.judge import Judge, Question
from lorikeet_trainer.row import Row
from lorikeet_trainer.scores import Judged, Scores, score


def evaluate(judge: Judge, dataset: Dataset, max_tokens: int | None = None) -> tuple[Scores, ...]:
    """Every contestant over every row's last turn, the base first.

    Without `max_tokens` an answer may be twice as long as the longest reference.
    """
    longest = max(len(row.reference) for row in dataset.rows)
    contestants = judge.contestants
    questions = [Question(row.prompt, mix) for row in dataset.rows for mix in contestants.values()]
    answers = judge.answers(questions, max_tokens or 2 * longest)

    def judged(row: Row, mix: Mix) -> Judged:
        answer = answers[Question(row.prompt, mix)]
        return Judged(answer.text, row.answer, answer.stopped, judge.logprobs(row.prompt, row.reference, mix))

    return tuple(score(name, [judged(row, mix) for row in dataset.rows]) for name, mix in contestants.items())
