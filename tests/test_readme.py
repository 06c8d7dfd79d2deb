"""Each curl line of the README gives the README's output, from a server started as the README says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.lock import holder_url
from lorikeet_adapters.mix import Mix, parse_mix
from lorikeet_adapters.spec import parse_spec
from lorikeet_adapters.weights import AdapterWeights, load_weights
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.offline import complete
from lorikeet_server.engine.request import Request as EngineRequest
from lorikeet_server.engine.request import Sampling
from lorikeet_server.engine.roster import Vocabulary
from lorikeet_server.engine.tokenizer import load_tokenizer
from lorikeet_server.examples import EXAMPLES
from lorikeet_server.stock import DEMO_ADAPTERS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
# A fenced curl line, and the fenced block after it: the answer's text.
SHOWN = re.findall(r"```bash\n(curl [^\n]+)\n```\n+```\n(.*?)\n```", README, re.DOTALL)
# The table of what the blend's parts say alone.
ALONE = re.findall(r"^\| `(\w+)`(?:, the base)? \| (.*) \|$", README, re.MULTILINE)
ADDRESS = "http://127.0.0.1:8000"
START_S = 60


def body_of(line: str) -> dict[str, Any]:
    words = shlex.split(line)
    body: dict[str, Any] = json.loads(words[words.index("-d") + 1])
    return body


@pytest.fixture(scope="module")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("demo") / "data"
    command = [
        str(Path(sys.executable).with_name("lorikeet")),
        "serve",
        "--model",
        "demo",
        "--quantization",
        "nf4",
    ]
    with subprocess.Popen(
        [*command, "--port", "0", "--data-dir", str(data)], stderr=subprocess.PIPE
    ) as server:
        try:
            deadline = time.monotonic() + START_S
            while not ((url := holder_url(data)) and is_ready(url)):
                assert server.poll() is None, server.stderr.read().decode() if server.stderr else ""
                assert time.monotonic() < deadline, "the demo did not come up"
                time.sleep(0.1)
            yield url
        finally:
            server.terminate()
            server.wait(30)
        assert server.returncode == 0


def is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_the_readme_shows_what_the_demo_offers_to_try() -> None:
    shown = [line for line, _ in SHOWN]
    assert shown[: len(EXAMPLES)] == [example.curl(ADDRESS) for example in EXAMPLES]


@pytest.mark.parametrize(("line", "expected"), SHOWN, ids=[body_of(line)["model"] for line, _ in SHOWN])
def test_each_curl_line_gives_the_readmes_output(demo_url: str, line: str, expected: str) -> None:
    """The whole line, in a shell, if there is a curl; else its request and its second half."""
    line = line.replace(ADDRESS, demo_url)
    shown = line.partition(" | ")[2]
    if shutil.which("curl") is None:
        raw = ask(demo_url, body_of(line))
        done = subprocess.run(["bash", "-c", shown], input=raw, capture_output=True, check=True)
    else:
        done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode() == f"{expected}\n"


def ask(url: str, body: dict[str, Any]) -> bytes:
    headers = {"content-type": "application/json"}
    request = Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def test_the_blend_says_what_neither_adapter_nor_the_base_says(demo_url: str) -> None:
    line, blend = SHOWN[-1]
    assert [name for name, _ in ALONE] == ["demo", "formal", "friendly"]
    for name, expected in ALONE:
        said = json.loads(ask(demo_url, {**body_of(line), "model": name}))
        assert said["choices"][0]["message"]["content"] == expected != blend


def test_the_snippet_makes_an_adapter_that_says_what_the_readme_says(demo_url: str, tmp_path: Path) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, check=True, capture_output=True)
    lorikeet = str(Path(sys.executable).with_name("lorikeet"))
    for words in (("check", "my-adapter"), ("add", "my-adapter", "--name", "support")):
        command = [lorikeet, "adapters", *words, "--url", demo_url]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        assert "warning" not in done.stdout
    body = {
        "model": "support",
        "messages": [{"role": "user", "content": "Where is my order?"}],
        "temperature": 0,
    }
    answer = json.loads(ask(demo_url, body))["choices"][0]["message"]["content"]
    assert f"it says `{answer}`" in README


def pack(base: BaseModel) -> None:
    """What bitsandbytes' AVX-512 kernel computes with: the scales of NF4 blocks in bfloat16, not nested."""
    for module in base.model.modules():
        if isinstance(module, Linear4bit):
            state = module.weight.quant_state
            scales = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
            state.absmax, state.nested, state.state2, state.offset = (
                scales.bfloat16().float(),
                False,
                None,
                None,
            )
            module.support_avx512bf16_for_cpu = False


@pytest.mark.parametrize("form", ["nf4", "nf4 packed", "fp32"])
def test_every_shown_token_stands_clear_of_its_rival(form: str) -> None:
    """So the README's output is the same in every form a reader's machine may serve, and in any company."""
    base = load_base("demo", form.partition(" ")[0])
    if form.endswith("packed"):
        pack(base)
    tokenizer = load_tokenizer("demo")
    adapters = {folder.name: read(folder, base) for folder in DEMO_ADAPTERS.iterdir()}
    vocabulary = Vocabulary(tokenizer.decode, tokenizer.eos)
    engine = Engine(base, EngineConfig(), vocabulary, adapters.__getitem__)
    requests = [as_request(line, tokenizer, adapters) for line, _ in SHOWN]
    answers = complete(engine, requests)
    for request, (_, expected) in zip(requests, SHOWN, strict=True):
        tokens, end = answers[request.id]
        assert "".join(token.text for token in tokens) + end.text == expected
        assert least_margin(engine, request, [token.token_id for token in tokens]) > 0.25
    engine.close()


def as_request(line: str, tokenizer: Any, adapters: Mapping[str, AdapterWeights]) -> EngineRequest:
    body = body_of(line)
    prompt = tokenizer.encode(tokenizer.render(body["messages"]))
    terms = [term for term in parse_mix(body["model"], adapters.__contains__) if term.adapter != "demo"]
    return EngineRequest(body["model"], prompt, Sampling(max_tokens=200), Mix.of(terms))


def read(folder: Path, base: BaseModel) -> AdapterWeights:
    spec = parse_spec((folder / "adapter_config.json").read_bytes())
    return load_weights(folder / "adapter_model.safetensors", spec, base.outline, base.compute_dtype)


@torch.no_grad()
def least_margin(engine: Engine, request: EngineRequest, tokens: list[int]) -> float:
    """Smallest lead in logits of a generated token over the next best, teacher-forced."""
    ids = torch.tensor([[*request.prompt, *tokens]])
    runner = engine.runner
    with runner.rank_rows.step([request.mix]):
        logits = runner._model(input_ids=ids, use_cache=False).logits[0, len(request.prompt) - 1 : -1].float()
    best, second = logits.topk(2).values.unbind(-1)
    assert logits.argmax(-1).tolist() == tokens
    return float((best - second).min())
