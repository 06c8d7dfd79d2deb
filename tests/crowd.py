"""Many small adapters on the demo base, PEFT's answers to them, and clients that ask for them by popularity."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorikeet_adapters.base_source import demo_base
from lorikeet_adapters.outline import Outline
from lorikeet_adapters.peft_files import peft_files
from lorikeet_adapters.weights import AdapterWeights, ModuleRows
from tests.server.process import ServerProcess
from tests.tiny import greedy

PROMPT = "<|user|>My lamp from order 51234 is late.<|end|><|assistant|>"
TOKENS = 6
RANKS = (2, 4, 8, 16)
LEAVES = ("v_proj", "o_proj", "down_proj")


def make_adapter(folder: Path, outline: Outline, seed: int) -> Path:
    """A folder as PEFT saves it, with random weights large enough to change what is said."""
    chance = random.Random(seed)
    rank, leaf = chance.choice(RANKS), chance.choice(LEAVES)
    generator = torch.Generator().manual_seed(seed)
    modules = {
        name: ModuleRows(
            torch.randn(rank, shape.in_features, generator=generator) * 0.3,
            torch.randn(rank, shape.out_features, generator=generator) * 0.6,
        )
        for name, shape in outline.linears.items()
        if name.endswith(leaf)
    }
    config, tensors = peft_files(AdapterWeights(modules), outline, "demo")
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_bytes(config)
    (folder / "adapter_model.safetensors").write_bytes(tensors)
    return folder


def peft_answers(folders: Iterable[Path]) -> dict[str, str]:
    """What PEFT says to the prompt with each adapter alone, in fp32, by folder name."""
    model = AutoModelForCausalLM.from_pretrained(demo_base(), dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # else `greedy` would suppress it, to get all its tokens
    tokenizer = AutoTokenizer.from_pretrained(demo_base())
    prompt = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    answers = {}
    for folder in folders:
        adapted = PeftModel.from_pretrained(model, folder).eval()
        tokens = greedy(adapted, prompt, TOKENS)
        answers[folder.name] = tokenizer.decode(tokens, skip_special_tokens=True)
        model = adapted.unload()
    return answers


@dataclass(frozen=True, slots=True)
class Answer:
    name: str
    status: int
    text: str


@dataclass(frozen=True, slots=True)
class Held:
    """What a server process holds of the machine: resident bytes, open files, threads, bytes on disk."""

    memory: int
    files: int
    threads: int
    disk: int

    @classmethod
    def by(cls, process: ServerProcess) -> Held:
        """Once the connections of clients that have left are closed."""
        running = psutil.Process(process.pid)
        deadline = time.monotonic() + 10
        while len(running.net_connections("tcp")) > 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        disk = sum(each.stat().st_size for each in process.data.rglob("*") if each.is_file())
        return cls(running.memory_info().rss, running.num_fds(), running.num_threads(), disk)


def ask(client: httpx.Client, name: str) -> Answer:
    body = {"model": name, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    answer = client.post("/v1/completions", json=body)
    said = answer.json()["choices"][0]["text"] if answer.status_code == 200 else answer.text
    return Answer(name, answer.status_code, said)


def ask_by_popularity(url: str, names: list[str], requests: int, clients: int, seed: int = 0) -> list[Answer]:
    """Zipf(1): the k-th name is asked for in proportion to 1/k."""
    chance = random.Random(seed)
    drawn = chance.choices(names, [1 / place for place in range(1, len(names) + 1)], k=requests)
    with httpx.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda name: ask(client, name), drawn))


def demo_server(folder: Path, *words: str) -> ServerProcess:
    """The demo base in fp32, where every answer must be PEFT's; adapters are found below `folder`/adapters."""
    root = folder / "adapters"
    root.mkdir(exist_ok=True)
    fixed = ("--model", "demo", "--quantization", "fp32", "--threads", "1", "--adapters-root", str(root))
    return ServerProcess(folder, *fixed, *words)


def register(url: str, name: str, path: str, **options: object) -> httpx.Response:
    body = {"name": name, "source": {"type": "local", "path": path}, **options}
    return httpx.post(f"{url}/v1/adapters", json=body, timeout=60)


def metric(url: str, name: str, label: str = "") -> float:
    """The sum of a metric's samples, of those with a label where it is given."""
    lines = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if label in line]
    values = [line.rpartition(" ")[2] for line in lines if line.partition("{")[0].partition(" ")[0] == name]
    assert values, f"no metric {name}"
    return sum(map(float, values))
