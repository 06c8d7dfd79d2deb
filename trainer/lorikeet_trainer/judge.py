"""Base and adapters in one serving engine, to be asked and to be measured in the batches that requests share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import torch

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.mix import BASE_MIX, Mix, Term
from lorikeet_adapters.source import WEIGHTS_FILE, open_folder
from lorikeet_adapters.spec import parse_spec
from lorikeet_adapters.weights import AdapterWeights, load_weights
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.offline import complete, ended, run
from lorikeet_server.engine.request import (
    Event,
    Finished,
    FinishReason,
    PromptScores,
    Request,
    Sampling,
    Token,
)
from lorikeet_server.engine.roster import Vocabulary
from lorikeet_server.engine.tokenizer import Tokenizer, load_tokenizer
from lorikeet_trainer.device import Device, refuse_missing
from lorikeet_trainer.errors import EvaluationRefused
from lorikeet_trainer.scores import BASE

IN_FLIGHT = 128  # the scheduler looks at every waiting request in every step: more of them only cost time


@dataclass(frozen=True, slots=True)
class HeldBase:
    """A base and the form it is served in."""

    model: str
    quantization: str
    device: Device = Device.CPU
    trust_remote_code: bool = False


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


@dataclass(frozen=True, slots=True)
class Said:
    """What was generated, token by token, and how likely each was held to be."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool


class Judge:
    """Adapters stay resident, so every mix of them can be asked."""

    def __init__(
        self, engine: Engine, base: BaseModel, text: Tokenizer, adapters: Mapping[str, AdapterWeights]
    ) -> None:
        self.text = text
        self._engine = engine
        self._base = base
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

    def logprobs(self, prompt: Sequence[int], answer: Sequence[int], mix: Mix) -> tuple[float, ...]:
        """The log-probability in nats of each token of `answer` after `prompt`, in a forward of its own."""
        return tuple(self._engine.logprobs(prompt, answer, mix))

    @torch.no_grad()
    def distribution(self, tokens: Sequence[int], mix: Mix) -> torch.Tensor:
        """logprobs[len(tokens), V] on the CPU, after each of the tokens, in a forward of its own."""
        ids = torch.tensor([tokens], device=self._base.device)
        with self._engine.runner.rank_rows.step([mix]):
            logits = self._base.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
            ).logits[0]
        return torch.log_softmax(logits.float(), -1).cpu()

    def together(
        self, scored: Sequence[Question], asked: Sequence[Question], max_tokens: int
    ) -> tuple[list[tuple[float, ...]], list[Said]]:
        """All of it in one traffic: log-probabilities of prompts but their first token, and greedy answers.

        Raises EvaluationRefused when the engine fails one of them.
        """
        score = Sampling(max_tokens=0, prompt_logprobs=0)
        speak = Sampling(max_tokens=max_tokens)
        requests = [Request(next(self._ids), each.prompt, speak, each.mix) for each in asked]
        requests += [Request(next(self._ids), each.prompt, score, each.mix) for each in scored]
        heard = list(run(self._engine, requests).values())
        return [_scores(each) for each in heard[len(asked) :]], [_said(each) for each in heard[: len(asked)]]


@contextmanager
def open_judge(
    model: str, quantization: str, adapters: Mapping[str, Path], device: Device = Device.CPU
) -> Iterator[Judge]:
    """Load everything, judge, let go. Raises RefusedError with one line of reason."""
    if BASE in adapters:
        raise EvaluationRefused(f"no adapter can be called {BASE} here: the base model is")
    refuse_missing(device)
    base = load_base(model, quantization, device)
    weights = {name: read_adapter(folder, base) for name, folder in adapters.items()}
    with judging(base, load_tokenizer(model), weights) as judge:
        yield judge


@contextmanager
def judging(base: BaseModel, text: Tokenizer, adapters: Mapping[str, AdapterWeights]) -> Iterator[Judge]:
    """An engine of their own for adapters that are read, or made, already."""
    ranks = sum(each.rank for each in adapters.values())
    config = EngineConfig(rank_rows=max(EngineConfig().rank_rows, ranks))
    engine = Engine(base, config, Vocabulary(text.decode, text.eos), adapters.__getitem__)
    try:
        yield Judge(engine, base, text, adapters)
    finally:
        engine.close()


def read_adapter(folder: Path, base: BaseModel) -> AdapterWeights:
    """As the server reads it. Raises AdapterRefused."""
    with open_folder(folder) as files:
        spec = parse_spec(files.config)
    return load_weights(folder / WEIGHTS_FILE, spec, base.outline, base.compute_dtype)


def alone(name: str) -> Mix:
    return Mix((Term(name, 1.0),))


def _answer(tokens: Sequence[Token], end: Finished) -> Answer:
    if end.failure is not None:
        raise EvaluationRefused(end.failure.message)
    text = "".join(token.text for token in tokens) + end.text
    return Answer(text, end.reason is FinishReason.STOP)


def _said(events: Sequence[Event]) -> Said:
    tokens = [each for each in events if isinstance(each, Token)]
    end = _ended_well(events)
    return Said(
        tuple(each.token_id for each in tokens),
        tuple(each.logprob for each in tokens),
        end.reason is FinishReason.STOP,
    )


def _scores(events: Sequence[Event]) -> tuple[float, ...]:
    _ended_well(events)
    (told,) = (each for each in events if isinstance(each, PromptScores))
    return tuple(each.logprob for each in told.scores)


def _ended_well(events: Sequence[Event]) -> Finished:
    end = ended(events)
    if end.failure is not None:
        raise EvaluationRefused(end.failure.message)
    return end
