"""curl, and Hugging Face's client for TGI, against a real server: what they send is taken, what they get they can read."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest
from huggingface_hub import InferenceClient, TextGenerationOutput, TextGenerationStreamOutput, constants
from huggingface_hub.errors import ValidationError

from tests.server.loopback import SLASHED, Loopback
from tests.server.world import events_of

MESSAGE = "Order 99389. The chair arrived with a crack and a damaged part. Please reply soon. David"
PROMPT = f"<|user|>{MESSAGE}<|end|><|assistant|>"
CHAT = {"messages": [{"role": "user", "content": MESSAGE}], "temperature": 0, "max_tokens": 12}
NATIVE = {"max_new_tokens": 12, "adapter_id": "formal", "return_full_text": False}
JSON = ("-H", "content-type: application/json")


@pytest.fixture(scope="module")
def server(reached: Loopback) -> Loopback:
    return reached


@pytest.fixture
def curl(server: Loopback) -> Any:
    """Call curl with the operator's key; its words are those of a shell."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")

    def run(path: str, body: object = None, *words: str, key: str = "operator") -> tuple[int, str]:
        sent = () if body is None else (*JSON, "-d", json.dumps(body))
        known = ("-H", f"authorization: Bearer {server.keys[key]}") if key else ()
        told = ("-sS", "-N", "--noproxy", "*", "--max-time", "60", "-w", "\n%{http_code}")
        done = subprocess.run(
            ["curl", *told, *known, *sent, *words, server.url + path],
            capture_output=True,
            text=True,
            check=True,
            timeout=90,
        )
        text, _, status = done.stdout.rpartition("\n")
        return int(status), text

    return run


def read(answered: tuple[int, str]) -> Any:
    status, text = answered
    assert status == 200, text
    return json.loads(text)


def test_curl_chats_whole_and_streamed(curl: Any) -> None:
    whole = read(curl("/v1/chat/completions", {"model": SLASHED, **CHAT}))
    said = whole["choices"][0]["message"]["content"]
    status, text = curl("/v1/chat/completions", {"model": SLASHED, "stream": True, **CHAT})
    *events, done = events_of(text)
    assert (status, done) == (200, "[DONE]")
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == said
    blend = {"adapters": [{"name": "formal", "weight": 1.0}]}
    blended = read(curl("/v1/chat/completions", {"model": "demo", **CHAT, **blend}))
    assert blended["choices"][0]["message"]["content"] == said


def test_curl_completes_lists_and_retrieves(curl: Any) -> None:
    answer = read(curl("/v1/completions", {"model": "triage", "prompt": PROMPT, "max_tokens": 4}))
    assert answer["object"] == "text_completion"
    names = [card["id"] for card in read(curl("/v1/models"))["data"]]
    assert SLASHED in names
    for path in (SLASHED, SLASHED.replace("/", "%2F")):
        assert read(curl(f"/v1/models/{path}"))["id"] == SLASHED


def test_curl_speaks_with_the_native_routes(curl: Any) -> None:
    whole = read(curl("/generate", {"inputs": PROMPT, "parameters": NATIVE}))
    assert read(curl("/", {"inputs": PROMPT, "parameters": NATIVE})) == [whole]
    for path, more in (("/generate_stream", {}), ("/", {"stream": True})):
        status, text = curl(path, {"inputs": PROMPT, "parameters": NATIVE, **more})
        assert status == 200
        assert events_of(text)[-1]["generated_text"] == whole["generated_text"]


def test_curl_loads_and_unloads_as_with_vllm(curl: Any) -> None:
    body = {"lora_name": "fresh", "lora_path": "formal"}
    added = "Success: LoRA adapter 'fresh' added successfully."
    assert curl("/v1/load_lora_adapter", body) == (200, added)
    status, text = curl("/v1/load_lora_adapter", body)
    assert (status, json.loads(text)["error"]["type"]) == (400, "InvalidUserInput")
    assert read(curl("/v1/chat/completions", {"model": "fresh", **CHAT}))["model"] == "fresh"
    removed = "Success: LoRA adapter 'fresh' removed successfully."
    assert curl("/v1/unload_lora_adapter", {"lora_name": "fresh"}) == (200, removed)
    status, text = curl("/v1/unload_lora_adapter", {"lora_name": "fresh"})
    assert (status, json.loads(text)["error"]["type"]) == (404, "NotFoundError")


@pytest.mark.parametrize(
    ("path", "body", "key", "status"),
    [
        ("/v1/chat/completions", {"model": "demo", "messages": []}, "operator", 400),
        ("/v1/chat/completions", {"model": "nobody", **CHAT}, "operator", 404),
        ("/v1/chat/completions", {"model": "demo", **CHAT}, "", 401),
        ("/v1/chat/completions", {"model": "demo", **CHAT}, "scraper", 403),
        ("/v1/adapters", None, "tenant", 403),
        ("/generate", {"inputs": ""}, "operator", 422),
        ("/", {"inputs": "a"}, "", 401),
        ("/nowhere", None, "operator", 404),
    ],
)
def test_curl_is_told_what_is_wrong(curl: Any, path: str, body: object, key: str, status: int) -> None:
    answered, text = curl(path, body, key=key)
    assert answered == status
    assert json.loads(text)["error"]


def test_with_a_key_curl_need_not_name_the_content_type(curl: Any) -> None:
    """`-d` alone calls the body a form. Without keys that is refused, as a foreign page can send one."""
    body = json.dumps({"model": "demo", "prompt": PROMPT, "max_tokens": 1})
    assert read(curl("/v1/completions", None, "-d", body))["model"] == "demo"


@pytest.fixture
def tgi(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> InferenceClient:
    """Given an address it takes the server there for TGI, and posts to `/`."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # nothing but the loopback is asked
    return InferenceClient(model=server.url, token=server.keys["operator"], timeout=60)


def test_tgis_client_reads_details_and_streams(tgi: InferenceClient) -> None:
    asked: dict[str, Any] = {"max_new_tokens": 8, "adapter_id": "formal", "top_n_tokens": 2}
    asked["return_full_text"] = False
    text = tgi.text_generation(PROMPT, **asked)
    whole = tgi.text_generation(PROMPT, details=True, decoder_input_details=True, **asked)
    assert isinstance(whole, TextGenerationOutput)
    assert whole.details is not None
    assert whole.generated_text == text
    assert len(whole.details.tokens) == whole.details.generated_tokens == 8
    likeliest: list[Any] = [top[0] for top in whole.details.top_tokens or []]  # it leaves them as they come
    assert [each.id for each in whole.details.tokens] == [each["id"] for each in likeliest]
    assert "".join(each.text for each in whole.details.prefill) == PROMPT
    assert "".join(tgi.text_generation(PROMPT, stream=True, **asked)) == text
    events = list(tgi.text_generation(PROMPT, stream=True, details=True, **asked))
    assert all(isinstance(event, TextGenerationStreamOutput) for event in events)
    assert [event.token.id for event in events] == [each.id for each in whole.details.tokens]
    last = events[-1]
    assert last.generated_text == text
    assert last.details is not None
    assert (last.details.input_length, last.details.generated_tokens) == (len(whole.details.prefill), 8)
    del asked["return_full_text"]
    assert tgi.text_generation(PROMPT, **asked) == PROMPT + text


def test_tgis_client_reads_the_best_of_several(tgi: InferenceClient) -> None:
    whole = tgi.text_generation(
        "?", details=True, best_of=3, do_sample=True, temperature=2.0, max_new_tokens=6, stop=["\0"]
    )
    assert whole.details is not None
    others = whole.details.best_of_sequences
    assert others is not None
    assert [len(each.tokens) == each.generated_tokens for each in others] == [True, True]


def test_tgis_client_holds_an_answer_to_a_grammar(tgi: InferenceClient) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    grammar: Any = {"type": "json", "value": {**schema, "additionalProperties": False}}
    text = tgi.text_generation(PROMPT, grammar=grammar, max_new_tokens=100, return_full_text=False)
    assert json.loads(text).keys() == {"ok"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"adapter_id": "nobody"}, "the model `nobody` does not exist"),
        ({"truncate": 5}, "parameters.truncate: "),
        ({"temperature": -1}, "parameters.temperature: "),
    ],
)
def test_tgis_client_raises_what_is_wrong(tgi: InferenceClient, asked: Any, message: str) -> None:
    """By the `error_type` it tells a wrong request from an overload or a failure."""
    with pytest.raises(ValidationError) as caught:
        tgi.text_generation(PROMPT, max_new_tokens=2, **asked)
    assert str(caught.value).startswith(message)
