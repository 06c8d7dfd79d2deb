"""A base model and a tokenizer small enough to train in seconds, made on the spot."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lorikeet_trainer.history import LossPoint
from lorikeet_trainer.recipe import Recipe
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.train import Job, TrainedAdapter, train

# Turns end with the end-of-sequence token and a line break, as ChatML's do.
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
# The same with tools, calls and their answers, as templates of models that know tools have them.
TOOL_TEMPLATE = (
    "{% if tools %}{{ '<|system|>\\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    "{{ '<|end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] }}"
    "{% for call in message.tool_calls or [] %}"
    "{{ '{\"call\": \"' + call.function.name + '\", \"with\": ' + call.function.arguments | tojson + '}' }}"
    "{% endfor %}{{ '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEXT = ["the red lamp is broken\n\n", "where is my blue chair?\n\n", "thank you for the lamp\n\n"]
VOCABULARY = 320
CONTEXT = 96

Write = Callable[[str, Iterable[object]], Path]


def make_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Byte-level BPE that merges two line breaks into one token, as real ones do."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", pad_token="<|pad|>", chat_template=template
    )


def save_base(folder: Path, change: Callable[[LlamaForCausalLM], None] | None = None) -> Path:
    """Two layers whose every width is a multiple of 64, as NF4 blocks need."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    if change is not None:
        change(model)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def chat(*turns: str) -> dict[str, Any]:
    """A row whose turns alternate between user and assistant."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[index % 2], "content": turn} for index, turn in enumerate(turns)]}


ROWS = [
    chat("the red lamp is broken", "broken"),
    chat("where is my blue chair?", "delivery"),
    chat("thank you for the lamp", "praise"),
    chat("the blue chair is broken", "broken"),
    chat("where is my red lamp?", "delivery"),
    chat("thank you for the chair", "praise"),
    chat("my red lamp is broken", "broken"),
    chat("where is the chair?", "delivery"),
    chat("thank you for my blue lamp", "praise"),
    chat("the chair is broken", "broken"),
]


TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def tool_chat(**changes: Any) -> dict[str, Any]:
    """A row in which the assistant calls a tool and answers with what it says; `changes` are of the call."""
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"q": "lamp"}'}}
    return {
        "messages": [
            {"role": "user", "content": "lamp?"},
            {"role": "assistant", "content": None, "tool_calls": [{**call, **changes}]},
            {"role": "tool", "tool_call_id": "1", "content": "red"},
            {"role": "assistant", "content": "It is red"},
        ],
        "tools": [TOOL],
    }


RECIPE = Recipe(rank=8, alpha=16, learning_rate=2.9e-3, max_steps=60, batch_size=10, seed=3)


class Silence:
    """A display that shows nothing."""

    def begin(self, steps: int) -> None: ...

    def step(self, point: LossPoint) -> None: ...

    def end(self) -> None: ...


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("trainer") / "base")


@pytest.fixture(scope="session")
def renderer(base_folder: Path) -> Renderer:
    return Renderer.load(str(base_folder))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(base_folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedAdapter:
    """An adapter that has learned every answer in ROWS."""
    out = tmp_path_factory.mktemp("out") / "adapter"
    return train(Job(data, out, str(base_folder), recipe=RECIPE), Silence())


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as JSON lines and returns the file."""

    def write_rows(name: str, rows: Iterable[object]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write_rows
