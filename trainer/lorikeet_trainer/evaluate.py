"""Every contestant over one data file: what it answers, and how likely it holds what was wanted to be."""

from __future__ import annotations

from lorikeet_adapters.mix import Mix
from lorikeet_trainer.confusion import LabelScores, score_labels
from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.judge import Judge, Question
from lorikeet_trainer.preference import PreferenceScores, Weighed, score_preferences
from lorikeet_trainer.row import Row
from lorikeet_trainer.scores import BASE, Judged, Scores, score


def evaluate(judge: Judge, dataset: Dataset, max_tokens: int | None = None) -> tuple[Scores, ...]:
    """Over every row's last turn, the base first.

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


def classify(judge: Judge, dataset: Dataset) -> tuple[LabelScores, ...]:
    """A row is taken for the label whose tokens, end of turn included, are the most likely after its text.

    So every row has one of the labels, whatever the contestant would say by itself. The labels are
    those of the file's own rows.
    """
    spelled = {row.answer: row.reference for row in dataset.rows}
    labels = sorted(spelled)

    def taken_for(row: Row, mix: Mix) -> str:
        likely = {each: sum(judge.logprobs(row.prompt, spelled[each], mix)) for each in labels}
        return max(labels, key=likely.__getitem__)

    return tuple(
        score_labels(name, labels, [(row.answer, taken_for(row, mix)) for row in dataset.rows])
        for name, mix in judge.contestants.items()
    )


def weigh(judge: Judge, dataset: Dataset) -> tuple[PreferenceScores, ...]:
    """Both answers of every pair, whole: the longer one is not helped."""

    def weighed(mix: Mix) -> list[Weighed]:
        return [
            Weighed(
                sum(judge.logprobs(pair.prompt, pair.chosen, mix)),
                sum(judge.logprobs(pair.prompt, pair.rejected, mix)),
            )
            for pair in dataset.pairs
        ]

    found = {name: weighed(mix) for name, mix in judge.contestants.items()}
    return tuple(
        score_preferences(name, own, None if name == BASE else found[BASE]) for name, own in found.items()
    )
