"""Judging through the serving engine: base and adapters answer in the batches that requests share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.mix import BASE_MIX, Mix, Term
from lorikeet_adapters.source import WEIGHTS_FILE, open_folder
from lorikeet_adapters.spec import parse_spec
from lorikeet_adapters.weights import AdapterWeights, load_weights
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.offline import complete
from lorikeet_server.engine.request import Finished, FinishReason, Request, Sampling, Token
from lorikeet_server.engine.roster import Vocabulary
from lorikeet_server.engine.tokenizer import load_tokenizer
from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.device import Device, refuse_missing
from lorikeet_trainer.errors import EvaluationRefused
from lorikeet_trainer.row import Row
from lorikeet_trainer.scores import BASE, Judged, Scores, score

IN_FLIGHT = 128  # the scheduler looks at every waiting request in every step: more of them only cost time


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt put to a mix."""

    prompt: tuple[int, ...]
    mix: Mix


@dataclass(frozen=True, slots=True)
class Answer:
    """`stopped` is False when the answer was cut off."""

    text: str
    stopped: bool


class Judge:
    """Base and adapters in one engine. Adapters stay resident, so every mix of them can be asked."""

    def __init__(self, engine: Engine, adapters: Mapping[str, AdapterWeights]) -> None:
        self._engine = engine
        self._ids = map(str, count())  # the engine may still be giving back the slots of earlier requests
        self.contestants: dict[str, Mix] = {BASE: BASE_MIX} | {name: alone(name) for name in adapters}
        # A mix that was served is resident; its probabilities can be read without being asked for.
        self.answers([Question((0,), mix) for mix in self.contestants.values()], max_tokens=1)

    def answers(self, questions: Iterable[Question], max_tokens: int) -> dict[Question, Answer]:
        """Greedy answers, whoever they are put to; equal questions are asked once. Raises EvaluationRefused."""
        sampling = Sampling(max_tokens=max_tokens)
        waiting = iter(dict.fromkeys(questions))
        answers: dict[Question, Answer] = {}
        while together := {next(self._ids): question for question in islice(waiting, IN_FLIGHT)}:
            done = complete(
                self._engine,
                [Request(key, question.prompt, sampling, question.mix) for key, question in together.items()],
            )
            answers |= {question: _answer(*done[key]) for key, question in together.items()}
        return answers

    def logprobs(self, row: Row, mix: Mix) -> tuple[float, ...]:
        """The log-probability of each token of the row's last turn, after the row's own prompt."""
        return tuple(self._engine.logprobs(row.prompt, row.reference, mix))


@contextmanager
def open_judge(
    model: str, quantization: str, adapters: Mapping[str, Path], device: Device = Device.CPU
) -> Iterator[Judge]:
    """Load everything, judge, let go. Raises RefusedError with one line of reason."""
    if BASE in adapters:
        raise EvaluationRefused(f"no adapter can be called {BASE} here: the base model is")
    refuse_missing(device)
    base = load_base(model, quantization, device)
    tokenizer = load_tokenizer(model)
    weights = {name: _read_adapter(folder, base) for name, folder in adapters.items()}
    ranks = sum(each.rank for each in weights.values())
    config = EngineConfig(rank_rows=max(EngineConfig().rank_rows, ranks))
    engine = Engine(base, config, Vocabulary(tokenizer.decode, tokenizer.eos), weights.__getitem__)
    try:
        yield Judge(engine, weights)
    finally:
        engine.close()


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
        return Judged(answer.text, row.answer, answer.stopped, judge.logprobs(row, mix))

    return tuple(score(name, [judged(row, mix) for row in dataset.rows]) for name, mix in contestants.items())


def alone(name: str) -> Mix:
    return Mix((Term(name, 1.0),))


def _read_adapter(folder: Path, base: BaseModel) -> AdapterWeights:
    with open_folder(folder) as files:
        spec = parse_spec(files.config)
    return load_weights(folder / WEIGHTS_FILE, spec, base.outline, base.compute_dtype)


def _answer(tokens: Sequence[Token], end: Finished) -> Answer:
    if end.failure is not None:
        raise EvaluationRefused(end.failure.message)
    text = "".join(token.text for token in tokens) + end.text
    return Answer(text, end.reason is FinishReason.STOP)
