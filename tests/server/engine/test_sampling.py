"""Sampling through the whole engine: generate() and a plain forward of transformers are the judges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.weights import AdapterWeights, ModuleRows
from lorikeet_server.engine import scorer
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.failures import NON_FINITE
from lorikeet_server.engine.request import (
    Event,
    Finished,
    FinishReason,
    PromptScores,
    Request,
    Sampling,
    Score,
    Token,
)
from lorikeet_server.engine.roster import Vocabulary
from lorikeet_server.engine.tokenizer import load_tokenizer
from tests.tiny import make_model, save_model

CONTEXT = 96
PROMPT = tuple(token * 7 % 256 for token in range(3, 53))
EVERYTHING = Sampling(
    24,
    temperature=1.2,
    top_k=50,
    top_p=0.95,
    seed=5,
    min_p=0.01,
    typical_p=0.95,
    repetition_penalty=1.2,
    frequency_penalty=0.5,
    presence_penalty=0.3,
    logit_bias=((7, 3.0),),
    min_tokens=3,
    logprobs=2,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("sampling") / "base", "llama")


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseModel:
    return load_base(str(folder), "fp32")


class Bench:
    """An engine driven step by step; prompts are computed in chunks, beside decoding rows."""

    def __init__(
        self, base: BaseModel, folder: Path, eos: frozenset[int] = frozenset(), **config: int
    ) -> None:
        decode = load_tokenizer(str(folder)).decode
        settings = EngineConfig(**{"max_slots": 4, "prefill_tokens": 11, "max_model_len": CONTEXT, **config})
        adapters = {"huge": huge(base), "huge in the middle": huge_in_the_middle()}
        self.engine = Engine(base, settings, Vocabulary(decode, eos), adapters.__getitem__)
        self.events: list[Event] = []

    def run(self, *requests: Request) -> None:
        for request in requests:
            self.engine.submit(request)
        while not {request.id for request in requests} <= self.ends().keys():
            self.step()
        while not self.engine.idle:
            self.step()

    def step(self) -> None:
        self.events += self.engine.step()

    def ends(self) -> dict[str, Finished]:
        return {event.request_id: event for event in self.events if isinstance(event, Finished)}

    def told(self, request_id: str) -> list[Token]:
        return [each for each in self.events if isinstance(each, Token) and each.request_id == request_id]

    def tokens(self, request_id: str) -> list[int]:
        return [event.token_id for event in self.told(request_id)]

    def scores(self, request_id: str) -> list[tuple[Score, ...]]:
        return [
            event.scores
            for event in self.events
            if isinstance(event, PromptScores) and event.request_id == request_id
        ]


def huge(base: BaseModel) -> AdapterWeights:
    """It makes every logit infinite or no number."""
    return AdapterWeights(
        {
            name: ModuleRows(
                torch.full((1, shape.in_features), 3e38), torch.full((1, shape.out_features), 3e38)
            )
            for name, shape in base.linears.items()
        }
    )


@torch.no_grad()
def huge_in_the_middle() -> AdapterWeights:
    """On the head: its rows answer to the state at one place of PROMPT, and to that at its end not enough."""
    model = make_model("llama")
    states = model(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states[-1][0]
    keys = states / states.pow(2).sum(-1, keepdim=True)
    place = int((keys @ states[-1]).abs().argmin())
    assert float((keys @ states[-1]).abs()[place]) < 0.2
    return AdapterWeights({"lm_head": ModuleRows(keys[place : place + 1] * 1e30, torch.full((1, 320), 1e9))})


@pytest.fixture
def bench(base: BaseModel, folder: Path) -> Any:
    made = Bench(base, folder)
    yield made
    made.engine.close()


def generate(tokens: int, **options: Any) -> list[int]:
    """generate()'s own greedy tokens."""
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=0, **options)
    ids = torch.tensor([PROMPT])
    out = make_model("llama").generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
    )
    return [int(token) for token in out[0, len(PROMPT) :]]


@torch.no_grad()
def reference(tokens: list[int]) -> torch.Tensor:
    """log-probabilities [len(tokens), V] of a plain forward."""
    return torch.log_softmax(make_model("llama")(torch.tensor([tokens])).logits[0], -1)


def test_greedy_rows_of_one_batch_are_what_generate_says_of_each(base: BaseModel, folder: Path) -> None:
    plain = generate(16)
    eos = plain[3]
    bias = {plain[0]: -20.0, 9: 4.0}
    expected = {
        "plain": plain[: plain.index(eos) + 1],
        "penalised": generate(16, repetition_penalty=1.6),
        "biased": generate(16, sequence_bias=[[[token], value] for token, value in bias.items()]),
        "long": generate(16, min_new_tokens=10, eos_token_id=eos),
    }
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "penalised": {"repetition_penalty": 1.6, "ignore_eos": True},
        "biased": {"logit_bias": tuple(bias.items()), "ignore_eos": True},
        "long": {"min_tokens": 10},
    }
    made = Bench(base, folder, frozenset({eos}))
    made.run(*(Request(name, PROMPT, Sampling(16, **each)) for name, each in options.items()))
    assert {name: made.tokens(name) for name in options} == expected
    assert len({tuple(each) for each in expected.values()}) == 4
    made.engine.close()


@pytest.mark.parametrize("piece", [4, scorer.PIECE])
def test_scores_are_those_of_a_plain_forward(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr("lorikeet_server.engine.runner.PIECE", piece)
    sampling = Sampling(6, temperature=1.5, seed=3, logprobs=4, prompt_logprobs=3)
    other = Request("other", PROMPT[:9], Sampling(20))
    bench.run(
        other, Request("scored", PROMPT, sampling), Request("last", PROMPT[:2], replace(sampling, seed=4))
    )
    answer = bench.tokens("scored")
    expected = reference([*PROMPT, *answer])
    (scores,) = bench.scores("scored")
    assert [each.token_id for each in scores] == list(PROMPT[1:])
    for place, score in enumerate(scores):
        check(expected[place], score, 3)
        assert score.rank == 1 + int((expected[place] > expected[place, score.token_id]).sum())
    for place, token in enumerate(bench.told("scored"), len(PROMPT) - 1):
        check(expected[place], token, 4)
    assert bench.events.index(PromptScores("scored", scores)) < bench.events.index(bench.told("scored")[0])
    assert len(bench.scores("last")[0]) == 1
    assert not bench.scores("other")


def check(expected: torch.Tensor, told: Score | Token, count: int) -> None:
    assert told.logprob == pytest.approx(float(expected[told.token_id]), abs=1e-4)
    values, ids = expected.topk(count)
    assert [token for token, _ in told.top] == ids.tolist()
    assert [value for _, value in told.top] == pytest.approx(values.tolist(), abs=1e-4)


def test_a_kept_prompt_is_scored_like_any_other(bench: Bench) -> None:
    bench.run(Request("first", PROMPT, Sampling(2)))
    bench.run(Request("reuses", PROMPT, Sampling(2)))
    assert bench.engine.stats.prefix_hit_tokens > 0
    scored = Sampling(2, prompt_logprobs=0)
    bench.run(Request("scored", PROMPT, scored))
    assert len(bench.scores("scored")[0]) == len(PROMPT) - 1


@pytest.mark.parametrize("steps", [2, 5, 9, 20])
def test_a_preempted_request_goes_on_as_if_nothing_had_been(
    base: BaseModel, folder: Path, steps: int
) -> None:
    asked = Request("r", PROMPT, replace(EVERYTHING, prompt_logprobs=1))
    alone, taken = Bench(base, folder), Bench(base, folder)
    alone.run(asked)
    taken.engine.submit(asked)
    for _ in range(steps):
        taken.step()
    taken.engine._scheduler.preempt("r")
    while "r" not in taken.ends():
        taken.step()
    assert taken.tokens("r") == alone.tokens("r")
    assert len(taken.scores("r")) == 1
    assert len(taken.scores("r")[0]) == len(PROMPT) - 1
    for made in (alone, taken):
        made.engine.close()


def test_tokens_do_not_depend_on_the_company(base: BaseModel, folder: Path) -> None:
    asked = Request("r", PROMPT, EVERYTHING)
    alone, crowd = Bench(base, folder), Bench(base, folder)
    alone.run(asked)
    others = [Request(f"o{n}", PROMPT[n:], replace(EVERYTHING, seed=n, temperature=n / 2)) for n in range(5)]
    crowd.run(*others[:2], asked, *others[2:])
    assert [(each.token_id, each.text) for each in crowd.told("r")] == [
        (each.token_id, each.text) for each in alone.told("r")
    ]
    assert len({tuple(crowd.tokens(each.id)) for each in (asked, *others)}) == 6
    for made in (alone, crowd):
        assert len(made.engine.runner._sampler._histories) == 0, "who leaves is forgotten"
        made.engine.close()


def test_a_request_for_no_token_ends_with_its_prompt(bench: Bench) -> None:
    whole = tuple(range(1, CONTEXT + 1))
    bench.run(
        Request("scored", PROMPT, Sampling(0, prompt_logprobs=0)),
        Request("silent", PROMPT, Sampling(0)),
        Request("to the brim", whole, Sampling(0, prompt_logprobs=0)),
        Request("over it", whole, Sampling(1)),
    )
    for name in ("scored", "silent", "to the brim"):
        ended = bench.ends()[name]
        assert (ended.reason, ended.completion_tokens, bench.told(name)) == (FinishReason.LENGTH, 0, [])
        assert ended.timing.first_token is None
    assert len(bench.scores("scored")[0]) == len(PROMPT) - 1
    assert len(bench.scores("to the brim")[0]) == CONTEXT - 1
    assert not bench.scores("silent")
    failure = bench.ends()["over it"].failure
    assert failure is not None
    assert failure.code == "context_length_exceeded"


@pytest.mark.parametrize("adapter", ["huge", "huge in the middle"])
def test_a_prompt_whose_scores_are_not_finite_fails_alone(bench: Bench, adapter: str) -> None:
    scored, mix = Sampling(3, prompt_logprobs=1), Mix.of([Term(adapter, 1.0)])
    bench.run(Request("bad", PROMPT, scored, mix), Request("good", PROMPT, scored))
    assert bench.ends()["bad"].failure == NON_FINITE
    assert not bench.scores("bad")
    assert bench.ends()["good"].failure is None
    assert len(bench.scores("good")) == 1


def test_a_stop_string_counts_behind_the_least_length(bench: Bench, folder: Path) -> None:
    (letter,) = load_tokenizer(str(folder)).encode("a")
    for least in (0, 5):
        sampling = Sampling(12, stop=("aa",), min_tokens=least, logit_bias=((letter, 100.0),))
        bench.run(Request(f"least {least}", PROMPT, sampling))
    ends = bench.ends()
    assert [ends[name].completion_tokens for name in ("least 0", "least 5")] == [2, 7]
    assert "".join(token.text for token in bench.told("least 5")) == "aaaaa"
    assert {end.stopped_by for end in ends.values()} == {"aa"}
