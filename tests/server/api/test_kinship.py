"""Adapters of another template or base: a chat would give them prompts they never saw, so it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.check import Checker
from lorikeet_adapters.origin import ORIGIN_KEY, Origin
from lorikeet_adapters.spec import parse_spec
from lorikeet_server.assembly import origin_of
from lorikeet_server.engine.tokenizer import load_tokenizer
from tests.server.world import BASE, Server, World, events_of

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def origins(world: World) -> dict[str, Origin]:
    """The base as this server holds it, and others."""
    source = str(world.base)
    own = origin_of(load_base(source, "fp32"), load_tokenizer(source))
    return {
        "kin-same": own,
        "kin-form": replace(own, quantization="nf4", fingerprint="f"),
        "kin-template": replace(own, probe="another"),
        "kin-base": replace(own, base="cockatoo", fingerprint="f", checkpoint="c"),
    }


@pytest.fixture(scope="module")
def records(
    shared: tuple[Server, TestClient], world: World, origins: Mapping[str, Origin]
) -> Iterator[dict[str, Any]]:
    client = shared[1]
    made: dict[str, Any] = {}
    for name, origin in origins.items():
        folder = Path(shutil.copytree(world.adapters["triage"], world.root / name))
        weights = folder / "adapter_model.safetensors"
        save_file(load_file(weights), weights, {"format": "pt", ORIGIN_KEY: origin.to_json()})
        answer = client.post("/v1/adapters", json={"name": name, "source": {"type": "local", "path": name}})
        assert answer.status_code == 201, answer.text
        made[name] = answer.json()
    yield made
    for name in made:
        client.delete(f"/v1/adapters/{name}")
        shutil.rmtree(world.root / name)


def test_the_record_says_how_the_base_is_related(records: Mapping[str, Any]) -> None:
    assert records["kin-same"]["warnings"] == []
    assert records["kin-form"]["warnings"] == [
        "it was trained on this base held as nf4, and is served on it held as fp32"
    ]
    assert "chat template" in records["kin-template"]["warnings"][0]
    assert '"cockatoo"' in records["kin-base"]["warnings"][0]
    assert {each["state"] for each in records.values()} == {"registered"}


@pytest.mark.parametrize(
    ("name", "status"), [("kin-same", 200), ("kin-form", 200), ("kin-template", 409), ("kin-base", 409)]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_refused_by_name_and_a_completion_is_served(
    client: TestClient, records: Mapping[str, Any], name: str, status: int, stream: bool
) -> None:
    body = {"model": name, "max_tokens": 2, "stream": stream}
    chat = client.post(CHAT, json={**body, "messages": MESSAGES})
    assert chat.status_code == status, chat.text
    if status == 409:
        error = chat.json()["error"]
        assert error["code"] == "adapter_not_for_chat"
        assert f"`{name}` is not served in a chat: it was trained" in error["message"]
        assert "/v1/completions" in error["message"]
    elif stream:
        assert events_of(chat.text)
    assert client.post("/v1/completions", json={**body, "prompt": "Hi"}).status_code == 200
    native = {"inputs": "Hi", "parameters": {"adapter_id": name, "max_new_tokens": 2}}
    assert client.post("/generate", json=native).status_code == 200


def test_it_is_refused_in_whatever_form_it_is_asked_for(
    shared: tuple[Server, TestClient], records: Mapping[str, Any]
) -> None:
    server, client = shared
    alias = client.put("/v1/aliases/kin-alias", json={"targets": [{"name": "kin-template", "weight": 1}]})
    assert alias.status_code in (200, 201), alias.text
    forms: list[dict[str, Any]] = [
        {"model": "kin-alias"},
        {"model": "formal:0.5+kin-template:0.5"},
        {"model": BASE, "adapters": [{"name": "kin-template", "weight": 1}]},
        {"model": BASE, "merged_adapters": {"ids": ["formal", "kin-template"], "weights": [1, 1]}},
        {
            "model": BASE,
            "merged_adapters": {
                "ids": ["kin-same", "kin-template"],
                "weights": [1, 1],
                "merge_strategy": "ties",
                "density": 0.5,
            },
        },
    ]
    for form in forms:
        answer = client.post(CHAT, json={**form, "messages": MESSAGES, "max_tokens": 2})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "adapter_not_for_chat"), form
    assert set(server.leases().values()) == {0}, "a refusal holds nothing"
    client.delete("/v1/aliases/kin-alias")


def test_a_dry_run_tells_the_warnings(client: TestClient, records: Mapping[str, Any]) -> None:
    source = {"type": "local", "path": "kin-form"}
    answer = client.post("/v1/adapters?dry_run=true", json={"source": source})
    assert answer.json() == {
        "loadable": True,
        "findings": [],
        "warnings": records["kin-form"]["warnings"],
    }


def test_our_own_adapters_have_no_warning_on_our_own_base() -> None:
    base = load_base("demo", "nf4")
    check = Checker(base.outline, base.name, base.source, 512, origin_of(base, load_tokenizer("demo")))
    from lorikeet_trainer.demo_evaluation import demo_adapters

    for folder in demo_adapters().values():
        spec = parse_spec((folder / "adapter_config.json").read_bytes())
        facts = check(spec, folder / "adapter_model.safetensors")
        assert (facts.warnings, facts.chat) == ((), ""), folder.name
        assert json.loads((folder / "training_provenance.json").read_text())["base"]["source"] == "demo"
