"""The demo itself, in fp32: its adapters and blends of them in one batch equal PEFT's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.base_source import demo_base
from lorikeet_adapters.mix import Mix, Term
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.request import FinishReason, Request, Sampling, Token
from lorikeet_server.engine.roster import Vocabulary
from lorikeet_server.engine.tokenizer import load_tokenizer
from lorikeet_server.stock import DEMO_ADAPTERS
from tests.server.engine.test_exactness import MIXES, read_adapter
from tests.tiny import blended_model, peft_model

MESSAGES = {
    "triage": "Order 77941. The scooter arrived with a crack and a damaged part. Please reply soon. Yusuf",
    "extract": "Here is Leon with a question about order 54708. The helmet is the wrong size. Please help.",
    "base": "Order 10386. The lamp never came. Please reply soon. Ada",
    "blend": "Here is Mira with a question about order 90215. The kettle arrived broken. Please help.",
    "negative": "Order 66012. I was charged twice for the tent. Please reply soon. Omar",
}
MOST_TOKENS = 80


def generated(model: Any, prompt: tuple[int, ...], eos: frozenset[int]) -> list[int]:
    """generate()'s own greedy answer, its end-of-turn token included."""
    ids = torch.tensor([prompt])
    settings = GenerationConfig(
        max_new_tokens=MOST_TOKENS, do_sample=False, pad_token_id=0, eos_token_id=sorted(eos)
    )
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return [int(token) for token in out[0, len(prompt) :]]


def oracle(base: Path, mix: dict[str, float]) -> Any:
    """PEFT run alone for a single adapter; else the base with the weighted sum of PEFT's own deltas."""
    if list(mix.values()) == [1.0]:
        return peft_model(base, DEMO_ADAPTERS / next(iter(mix)))
    return blended_model(base, {DEMO_ADAPTERS / name: weight for name, weight in mix.items()})


@pytest.fixture(scope="module")
def requests() -> dict[str, Request]:
    tokenizer = load_tokenizer("demo")

    def request(name: str) -> Request:
        prompt = tokenizer.encode(tokenizer.render([{"role": "user", "content": MESSAGES[name]}]))
        mix = Mix.of(Term(adapter, weight) for adapter, weight in MIXES[name].items())
        return Request(name, prompt, Sampling(max_tokens=MOST_TOKENS), mix)

    return {name: request(name) for name in MIXES}


def test_the_demos_ranks_differ() -> None:
    base = load_base("demo", "fp32")
    ranks = {folder.name: read_adapter(folder, base).rank for folder in DEMO_ADAPTERS.iterdir()}
    assert set(ranks) == {"triage", "extract", "formal", "friendly"}
    assert len(set(ranks.values())) >= 3, ranks


def test_every_row_of_the_demos_batch_equals_peft(requests: dict[str, Request]) -> None:
    tokenizer = load_tokenizer("demo")
    expected = {
        name: generated(oracle(demo_base(), MIXES[name]), request.prompt, tokenizer.eos)
        for name, request in requests.items()
    }
    base = load_base("demo", "fp32")
    adapters = {folder.name: read_adapter(folder, base) for folder in DEMO_ADAPTERS.iterdir()}
    config = EngineConfig(
        max_slots=4, prefill_tokens=24
    )  # prompts in chunks, and one request waits for a slot
    engine = Engine(base, config, Vocabulary(tokenizer.decode, tokenizer.eos), adapters.__getitem__)
    tokens: dict[str, list[int]] = {name: [] for name in requests}
    waiting, open_requests = list(requests.values()), set(requests)
    while open_requests:
        if waiting:
            engine.submit(waiting.pop(0))
        for event in engine.step():
            if isinstance(event, Token):
                tokens[event.request_id].append(event.token_id)
            else:
                assert event.reason in (FinishReason.STOP, FinishReason.LENGTH), event
                open_requests.discard(event.request_id)
    assert tokens == expected
    engine.close()
