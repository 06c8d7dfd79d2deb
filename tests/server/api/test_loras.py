"""vLLM's two routes: its bodies, its texts, its errors; behind them the registry."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from lorikeet_server.api.app import create_app
from tests.server.world import BASE, Exchange, Server, World, client_of, post
from tests.tiny import save_adapter

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
ALREADY = (
    "The lora adapter 'fresh' has already been loaded. "
    "If you want to load the adapter in place, set 'load_inplace' to True."
)


@pytest.fixture
def running(server: Server) -> Any:
    with client_of(server.app) as client:
        yield client


def load(client: TestClient, name: str = "fresh", path: str = "formal", **more: Any) -> Any:
    return post(client, LOAD, {"lora_name": name, "lora_path": path, **more})


def error(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    assert found["code"] == answer.status_code
    return found


def test_load_use_unload_in_vllms_words(running: TestClient, server: Server) -> None:
    answer = load(running, is_3d_lora_weight=False, base_model_name="")
    assert answer.status_code == 200
    assert answer.text == "Success: LoRA adapter 'fresh' added successfully."
    assert answer.headers["content-type"].startswith("text/plain")
    assert "fresh" in {card["id"] for card in running.get("/v1/models").json()["data"]}
    body = {"prompt": "Hello", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    told = {
        name: post(running, "/v1/completions", {**body, "model": name}).json()["choices"][0]["text"]
        for name in ("fresh", "formal", BASE)
    }
    assert told["fresh"] == told["formal"] != told[BASE]
    answer = post(running, UNLOAD, {"lora_name": "fresh", "lora_int_id": None})
    assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'fresh' removed successfully.")
    assert post(running, "/v1/completions", {**body, "model": "fresh"}).status_code == 404
    assert server.leases() == dict.fromkeys(("formal", "friendly", "triage"), 0)


@pytest.mark.parametrize("path", ["formal", "friendly"])
def test_loaded_already_is_a_400_for_the_same_bytes_and_for_others(running: TestClient, path: str) -> None:
    load(running)
    answer = load(running, path=path)
    assert answer.status_code == 400
    found = error(answer)
    assert (found["message"], found["type"]) == (ALREADY, "InvalidUserInput")


def test_in_place_replaces_what_the_name_means(running: TestClient, server: Server) -> None:
    load(running)
    before = server.registry.record("fresh").generation
    assert load(running, path="friendly", load_inplace=True).status_code == 200
    assert server.registry.record("fresh").generation != before
    assert server.registry.record("fresh").generation == server.registry.record("friendly").generation
    assert load(running, path="friendly", load_inplace=True).status_code == 200
    assert load(running, "other", load_inplace=True).status_code == 200


@pytest.mark.parametrize("name", ["nobody", "../etc"])
def test_unloading_what_is_not_there_is_a_404(running: TestClient, name: str) -> None:
    found = error(post(running, UNLOAD, {"lora_name": name}))
    assert found["message"] == f"The lora adapter '{name}' cannot be found."
    assert (found["type"], found["code"]) == ("NotFoundError", 404)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (LOAD, {"lora_name": "", "lora_path": "a"}, "Both 'lora_name' and 'lora_path' must be provided."),
        (LOAD, {"lora_name": "a", "lora_path": ""}, "Both 'lora_name' and 'lora_path' must be provided."),
        (UNLOAD, {"lora_name": ""}, "'lora_name' needs to be provided to unload a LoRA adapter."),
        (LOAD, {"lora_name": "a"}, "lora_path: field required"),
        (UNLOAD, {}, "lora_name: field required"),
        (LOAD, {"lora_name": "a", "lora_path": "b", "pinned": True}, "pinned: this field is not supported"),
        (LOAD, {"lora_name": "a b", "lora_path": "formal"}, "'a b' is no adapter name"),
    ],
)
def test_what_cannot_be_read_is_a_400(
    running: TestClient, path: str, body: dict[str, Any], message: str
) -> None:
    answer = post(running, path, body)
    assert answer.status_code == 400
    found = error(answer)
    assert found["message"].startswith(message)
    assert found["type"] == "InvalidUserInput"


@pytest.mark.parametrize("path", ["nowhere", "org/name", "formal/adapter_config.json"])
def test_a_path_that_is_not_there_is_a_404_and_names_no_folder_of_the_server(
    running: TestClient, world: World, path: str
) -> None:
    found = error(load(running, path=path))
    assert (found["type"], found["code"]) == ("NotFoundError", 404)
    assert path in found["message"]
    assert str(world.root) not in found["message"]


@pytest.mark.parametrize("path", ["..", "../..", "/etc", "formal/../../tiny"])
def test_a_path_outside_the_root_is_refused(running: TestClient, path: str) -> None:
    found = error(load(running, path=path))
    assert (found["type"], found["code"]) == ("UnprocessableEntityError", 422)
    assert "outside the adapters root" in found["message"]


def test_a_link_out_of_the_root_is_refused(running: TestClient, world: World, tmp_path: Path) -> None:
    save_adapter(world.base, tmp_path / "elsewhere", 2, 9)
    link = world.root / "link"
    link.symlink_to(tmp_path / "elsewhere")
    try:
        assert load(running, path="link").status_code == 422
    finally:
        link.unlink()


def test_a_bad_adapter_is_a_422_with_the_reason_and_changes_nothing(
    running: TestClient, world: World
) -> None:
    broken = world.root / "broken"
    shutil.copytree(world.root / "formal", broken)
    try:
        (broken / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
        found = error(load(running, path="broken"))
    finally:
        shutil.rmtree(broken)
    assert found["code"] == 422
    assert "adapter_model.safetensors" in found["message"] or "header" in found["message"]
    assert running.get("/v1/adapters/fresh").status_code == 404


def test_a_name_that_is_taken_by_the_base_is_a_conflict(running: TestClient) -> None:
    assert error(load(running, BASE))["code"] == 409


@pytest.mark.parametrize("other", ["formal", "friendly"])
def test_of_two_loads_at_once_one_is_too_late(server: Server, other: str) -> None:
    """Both have found the name free before either takes it; the bytes may be the same or not."""
    bodies = [{"lora_name": "fresh", "lora_path": path} for path in ("formal", other)]
    exchanges = [Exchange(LOAD, json.dumps(body).encode()) for body in bodies]

    async def race() -> None:
        await asyncio.gather(*(each.run(server.app) for each in exchanges))

    asyncio.run(race())
    late = {each.status: each.body for each in exchanges}
    assert late.keys() == {200, 400}
    assert json.loads(late[400])["error"]["message"] == ALREADY


def test_a_repository_needs_the_operators_leave(server: Server) -> None:
    """With leave it is asked of the hub, which this test's settings keep offline."""
    http = replace(server.services.http, allow_hub=True)
    app = create_app(replace(server.services, http=http))
    with client_of(app) as client:
        assert error(load(client, path="org/name"))["code"] == 422
