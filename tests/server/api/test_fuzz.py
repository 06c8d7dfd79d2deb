"""Whatever a body holds, no route answers 500 and nothing a request says ends the engine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from lorikeet_server.api.app import ROUTES
from lorikeet_server.request_log.log import Bounds
from tests.server.api.test_body import WITHOUT_JSON
from tests.server.kept import put, record
from tests.server.world import (
    BASE,
    Scripted,
    World,
    client_of,
    finished,
    make_server,
    prompt_scores,
    token,
    with_requests,
)
from tests.server.world import Script as Events

WITH_BODY = ("POST", "PUT", "PATCH")
CALLS = sorted(
    f"{method} {route.path}"
    for route in ROUTES
    for method in WITH_BODY
    if method in (route.methods or ()) and route.path not in WITHOUT_JSON
)
RELAXED = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MIX = {"ids": ["formal"], "weights": [0.5]}
SAMPLING: dict[str, Any] = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 1, "stop": ["a"]}
PLAIN: dict[str, Any] = {
    "model": BASE,
    "max_tokens": 2,
    "stop_token_ids": [1],
    "ignore_eos": True,
    "adapters": [{"name": "formal", "weight": 0.5}],
    "lora": [],
    "merged_adapters": None,
    "stream": False,
    "metadata": {},
    "n": 2,
    "min_p": 0.1,
    "typical_p": 0.9,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "logit_bias": {"5": 1, "7": -100},
    "min_tokens": 1,
    "return_token_ids": True,
    "prompt_logprobs": 2,
    **SAMPLING,
}
TOKENIZE = {
    "model": "formal",
    "messages": [{"role": "user", "content": "Hi"}],
    "add_special_tokens": False,
    "return_token_strs": True,
}
DETOKENIZE = {"model": BASE, "tokens": [1, 2]}
KEPT = "req-fuzzed"
RIGHT: dict[str, dict[str, Any]] = {
    "POST /v1/chat/completions": {
        **PLAIN,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "max_completion_tokens": 2,
        "logprobs": True,
        "top_logprobs": 3,
    },
    "POST /v1/completions": {**PLAIN, "prompt": [[1, 2]], "best_of": 3, "echo": True, "logprobs": 2},
    "POST /generate": {
        "inputs": "Hi",
        "parameters": {
            **SAMPLING,
            "max_new_tokens": 2,
            "merged_adapters": MIX,
            "best_of": 2,
            "details": True,
            "decoder_input_details": True,
            "top_n_tokens": 2,
            "typical_p": 0.9,
            "repetition_penalty": 1.1,
        },
    },
    "POST /": {
        "inputs": "Hi",
        "stream": True,
        "parameters": {**SAMPLING, "lora": [{"id": "formal", "scale": 0.5}], "return_full_text": False},
    },
    "POST /generate_stream": {
        "inputs": "Hi",
        "parameters": {**SAMPLING, "adapter_id": "formal", "details": True},
    },
    "POST /v1/adapters": {"name": "fuzzed", "source": {"type": "local", "path": "nowhere"}, "replace": True},
    "PATCH /v1/adapters/{name:path}": {"pinned": True, "metadata": {"by": ["me"]}},
    "POST /v1/adapters/activate/{name:path}": {"generation": "0" * 64},
    "POST /v1/adapters/compose": {
        "name": "fuzzed",
        "adapters": [{"name": "nobody", "weight": 0.5}],
        "method": "ties",
        "density": 0.5,
        "majority_sign_method": "total",
    },
    "POST /v1/load_lora_adapter": {"lora_name": "fuzzed", "lora_path": "nowhere", "load_inplace": True},
    "POST /v1/unload_lora_adapter": {"lora_name": "nobody", "lora_int_id": 1},
    **dict.fromkeys(("POST /tokenize", "POST /v1/tokenize"), TOKENIZE),
    **dict.fromkeys(("POST /detokenize", "POST /v1/detokenize"), DETOKENIZE),
    "POST /v1/fine_tuning/jobs": {
        "model": BASE,
        "training_file": "file-nowhere",
        "validation_file": "file-nowhere",
        "suffix": "fuzzed",
        "seed": 1,
        "metadata": {"by": "me"},
        "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": "auto"}}},
    },
    "PATCH /v1/requests/{id}": {"rating": "up", "correction": "Better."},
    "POST /v1/datasets": {"ids": [KEPT, "req-none"], "q": "", "filename": "fuzzed.jsonl"},
    "PUT /v1/aliases/{name:path}": {"targets": [{"name": "nobody", "generation": "0" * 64, "weight": 0.5}]},
}
# Their folder, adapter or target is nowhere.
REFUSED = {
    "POST /v1/adapters": 422,
    "POST /v1/adapters/compose": 404,
    "POST /v1/load_lora_adapter": 404,
    "POST /v1/unload_lora_adapter": 404,
    "POST /v1/fine_tuning/jobs": 404,
    **{call: 404 for call in RIGHT if "{name:path}" in call},
}
numbers = st.sampled_from([0, -1, 1, 0.5, 1e-40, 1e308, 2**31, 2**63, 2**64, 10**30, True, False])
texts = st.sampled_from(["", "a", BASE, "formal", "formal:0.5+friendly", "../x", "\0", "\u2028", "9" * 300])
leaves = st.none() | numbers | texts | st.text(max_size=6) | st.floats() | st.integers()
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def nearly_right(draw: st.DrawFn, call: str) -> Any:
    """A good body with one or two of its values, at any depth, replaced."""
    body = json.loads(json.dumps(RIGHT[call]))
    for _ in range(draw(st.integers(1, 2))):
        at: Any = body
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = draw(st.sampled_from(keys)) if keys else None
            if key is None:
                break
            if isinstance(at[key], dict | list) and at[key] and draw(st.booleans()):
                at = at[key]
                continue
            at[key] = draw(anything)
            break
    return body


@pytest.fixture(scope="module")
def scripted(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Answers at once, so that many bodies can be tried; everything before the engine is real.

    A server of its own: a body can say which adapter to remove.
    """
    made = Scripted(lambda request: Events(*prompt_scores(request), token(request), finished(request)))
    data = tmp_path_factory.mktemp("fuzz")
    with (
        make_server(world, data, log=Bounds()) as server,
        client_of(with_requests(server.services, made)) as client,
    ):
        assert server.log is not None
        server.log.start()
        put(server.log, record(id=KEPT, created=time.time()))
        yield client


def send(client: TestClient, call: str, body: object) -> Any:
    method, _, path = call.partition(" ")
    headers = {"content-type": "application/json"}
    path = path.replace("{name:path}", "fuzzed").replace("{id}", KEPT)
    return client.request(method, path, content=json.dumps(body), headers=headers)


def check(client: TestClient, call: str, body: object) -> None:
    answer = send(client, call, body)
    assert answer.status_code < 500, (body, answer.text)
    if answer.status_code >= 400:
        assert set(answer.json()) in ({"error"}, {"error", "error_type"})
    assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize("call", CALLS)
def test_the_bodies_to_spoil_are_right(scripted: TestClient, call: str) -> None:
    assert send(scripted, call, RIGHT[call]).status_code == REFUSED.get(call, 200)


@pytest.mark.safety("security 10")
@pytest.mark.parametrize("call", CALLS)
def test_arbitrary_json_is_never_500(scripted: TestClient, call: str) -> None:
    @RELAXED
    @given(anything | st.dictionaries(st.sampled_from(sorted(RIGHT[call])), anything, max_size=6))
    def run(body: object) -> None:
        check(scripted, call, body)

    run()


@pytest.mark.safety("security 10")
@pytest.mark.parametrize("call", CALLS)
def test_nearly_right_json_is_never_500(scripted: TestClient, call: str) -> None:
    @RELAXED
    @given(nearly_right(call))
    def run(body: object) -> None:
        check(scripted, call, body)

    run()


@RELAXED
@given(
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1, exclude_min=True),
    top_k=st.integers(-1, 2**31 - 1),
    seed=st.integers(-(2**63), 2**63 - 1),
    stop=st.lists(st.text(min_size=1, max_size=3), max_size=2),
    ids=st.lists(st.integers(), max_size=2),
    more=st.fixed_dictionaries(
        {},
        optional={
            "min_p": st.floats(0, 1),
            "typical_p": st.floats(0, 1, exclude_min=True),
            "repetition_penalty": st.floats(0.01, 100),
            "frequency_penalty": st.floats(-2, 2),
            "presence_penalty": st.floats(-2, 2),
            "logit_bias": st.dictionaries(st.integers(0, 319).map(str), st.floats(-100, 100), max_size=2),
            "min_tokens": st.integers(0, 2),
            "logprobs": st.integers(0, 20),
            "prompt_logprobs": st.integers(0, 20),
            "n": st.integers(1, 3),
        },
    ),
)
def test_no_accepted_sampling_ends_the_engine(
    client: TestClient,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int,
    stop: list[str],
    ids: list[int],
    more: dict[str, Any],
) -> None:
    fields = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed, **more}
    body = {"model": "formal", "prompt": "Hi", "max_tokens": 2, "stop": stop, "stop_token_ids": ids, **fields}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("weights", [[100.0, -100.0], [1e-320, 5e-324], [100.0, 100.0]], ids=str)
def test_no_accepted_weight_ends_the_engine(client: TestClient, weights: list[float]) -> None:
    terms = [
        {"name": name, "weight": weight} for name, weight in zip(("formal", "friendly"), weights, strict=True)
    ]
    body = {"model": BASE, "prompt": "Hi", "max_tokens": 2, "adapters": terms}
    assert client.post("/v1/completions", json=body).status_code in (200, 422)
    assert client.get("/health/live").status_code == 200
