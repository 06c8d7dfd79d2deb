"""What operators register over HTTP: every answer of GET, POST and DELETE /v1/adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.server.world import BASE, RANKS, Server, World, post

HEX = set("0123456789abcdef")
ROUTE = "/v1/adapters"


def register(client: TestClient, name: str, path: str, **more: Any) -> Any:
    return post(client, ROUTE, {"name": name, "source": {"type": "local", "path": path}, **more})


@pytest.fixture
def folder(world: World) -> Iterator[Path]:
    """A good adapter's folder below the root, for a test to spoil."""
    made = world.root / "spoilt"
    shutil.copytree(world.adapters["triage"], made)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def fresh(client: TestClient) -> Iterator[str]:
    """A name that is free again after the test."""
    yield "fresh"
    client.delete(f"{ROUTE}/fresh")


def test_the_record(client: TestClient, fresh: str, folder: Path) -> None:
    rewrite(lora_alpha=3)(folder)
    answer = register(client, fresh, "spoilt", metadata={"by": "me"})
    assert answer.status_code == 201
    record = answer.json()
    assert record["object"] == "adapter"
    assert record["id"] == fresh
    assert len(record["generation"]) == 64
    assert set(record["generation"]) <= HEX
    assert (record["state"], record["tier"]) == ("registered", "disk")
    assert record["rank"] == RANKS["triage"] == max(record["ranks"].values())
    assert set(record["targets"]) == {module.rpartition(".")[2] for module in record["ranks"]}
    assert record["bytes"] > 0
    assert record["base"] == BASE
    assert record["leases"] == 0
    assert record["source"] == {"type": "local", "path": "spoilt"}
    assert record["warnings"] == []
    assert record["metadata"] == {"by": "me"}
    assert client.get(f"{ROUTE}/{fresh}").json() == record
    assert record in client.get(ROUTE).json()["data"]


def test_the_tier_follows_the_engine(client: TestClient, fresh: str) -> None:
    register(client, fresh, "formal")
    assert (
        post(client, "/v1/completions", {"model": fresh, "prompt": "a", "max_tokens": 1}).status_code == 200
    )
    record = client.get(f"{ROUTE}/{fresh}").json()
    assert (record["state"], record["tier"]) == ("device", "device")


@pytest.mark.safety("reliability 7")
def test_the_same_bytes_again_are_200_and_other_bytes_409(client: TestClient, fresh: str) -> None:
    first = register(client, fresh, "formal")
    again = register(client, fresh, "formal")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    conflict = register(client, fresh, "friendly")
    assert conflict.status_code == 409
    assert conflict.json()["error"]["code"] == "adapter_exists"
    assert conflict.json()["error"]["param"] == "name"
    assert client.get(f"{ROUTE}/{fresh}").json()["generation"] == first.json()["generation"]
    replaced = register(client, fresh, "friendly", replace=True)
    assert replaced.status_code == 201
    assert replaced.json()["generation"] == client.get(f"{ROUTE}/friendly").json()["generation"]


def test_what_is_replaced_serves_the_new_bytes_at_once(client: TestClient, fresh: str) -> None:
    body = {"model": fresh, "prompt": "Hello", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    texts = []
    for path in ("formal", "friendly"):
        register(client, fresh, path, replace=True)
        answer = post(client, "/v1/completions", body)
        plain = post(client, "/v1/completions", {**body, "model": path})
        assert answer.headers["x-lorikeet-generation"] == plain.headers["x-lorikeet-generation"]
        assert answer.json()["choices"] == plain.json()["choices"]
        texts.append(answer.json()["choices"])
    assert texts[0] != texts[1]


def test_a_deleted_name_is_gone_everywhere(client: TestClient) -> None:
    register(client, "short-lived", "formal")
    answer = client.delete(f"{ROUTE}/short-lived")
    assert answer.status_code == 200
    assert answer.json() == {
        "object": "adapter",
        "id": "short-lived",
        "deleted": True,
        "freed": {"device": 0, "host": 0, "disk": 0},  # `formal` still needs the same bytes
    }
    for path in (f"{ROUTE}/short-lived", "/v1/models/short-lived"):
        assert client.get(path).status_code == 404
    listed = [each["id"] for each in client.get(ROUTE).json()["data"]]
    assert "short-lived" not in listed
    body = {"model": "short-lived", "prompt": "a"}
    assert post(client, "/v1/completions", body).status_code == 404
    assert client.delete(f"{ROUTE}/short-lived").status_code == 404


def test_deleting_says_how_many_bytes_came_free(client: TestClient, folder: Path) -> None:
    rewrite(lora_alpha=1)(folder)
    assert register(client, "other-alpha", "spoilt").status_code == 201
    freed = client.delete(f"{ROUTE}/other-alpha").json()["freed"]["disk"]
    assert 0 < freed < (folder / "adapter_model.safetensors").stat().st_size  # the weights are triage's


@pytest.mark.parametrize("name", ["team/support", "v1.2:final", "A_b-c"])
def test_names_with_a_slash_arrive_percent_encoded(client: TestClient, name: str) -> None:
    assert register(client, name, "formal").status_code == 201
    encoded = quote(name, safe="")
    assert client.get(f"{ROUTE}/{encoded}").json()["id"] == name
    assert client.get(f"/v1/models/{encoded}").json()["id"] == name
    assert client.get(f"{ROUTE}/{name}").json()["id"] == name
    body = {"model": name, "prompt": "a", "max_tokens": 1}
    assert post(client, "/v1/completions", body).status_code == 200
    assert client.delete(f"{ROUTE}/{encoded}").json()["id"] == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a/b/c",
        "/a",
        "a/",
        "../a",
        ".hidden",
        "a/../b",
        "a b",
        "a\0",
        "é",
        "a+b",
        "x" * 129,
        "a\n",
        "history/a",
    ],
)
def test_a_name_that_breaks_the_rule_is_400(client: TestClient, name: str) -> None:
    answer = register(client, name, "formal")
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "invalid_name"
    assert answer.json()["error"]["param"] == "name"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "name"),
    ({"name": "a"}, "source"),
    ({"name": "a", "source": "formal"}, "source"),
    ({"name": 5, "source": {"type": "local", "path": "formal"}}, "name"),
    ({"name": "a", "source": {"type": "s3", "repo": "org/name"}}, "source.type"),
    ({"name": "a", "source": {"type": "local", "path": ""}}, "source.path"),
    ({"name": "a", "source": {"type": "local", "path": "formal", "revision": "x"}}, "source.revision"),
    ({"name": "a", "source": {"type": "local", "path": "formal"}, "replace": 1}, "replace"),
    ({"name": "a", "source": {"type": "local", "path": "formal"}, "pinned": 1}, "pinned"),
    ({"name": "a", "source": {"type": "local", "path": "formal"}, "tenants": ["a/b"]}, "tenants"),
    ({"name": "a", "source": {"type": "local", "path": "formal"}, "metadata": []}, "metadata"),
]


@pytest.mark.parametrize(("body", "param"), WRONG, ids=str)
def test_a_wrong_field_is_400_by_name(client: TestClient, body: dict[str, Any], param: str) -> None:
    answer = post(client, ROUTE, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def cut(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])


def overwrite(name: str, content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


def rewrite(**changes: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


SPOILT: dict[str, Callable[[Path], None]] = {
    "no config": lambda folder: (folder / "adapter_config.json").unlink(),
    "no weights": lambda folder: (folder / "adapter_model.safetensors").unlink(),
    "weights cut short": cut,
    "weights empty": overwrite("adapter_model.safetensors", b""),
    "config no JSON": overwrite("adapter_config.json", b"{"),
    "config a list": overwrite("adapter_config.json", b"[]"),
    "rank wrong": rewrite(r=64),
    "rank negative": rewrite(r=-1),
    "DoRA": rewrite(use_dora=True),
    "an unknown truthy key": rewrite(surprise=True),
    "no LoRA": rewrite(peft_type="IA3"),
    "alpha not finite": rewrite(lora_alpha=float("nan")),
}


@pytest.mark.parametrize("kind", list(SPOILT))
def test_a_broken_folder_is_422_with_its_reason_and_no_path(
    client: TestClient, folder: Path, kind: str
) -> None:
    SPOILT[kind](folder)
    before = client.get(ROUTE).json()
    answer = register(client, "broken", "spoilt")
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["code"] == "invalid_adapter"
    assert error["param"] == "source"
    assert len(error["message"]) > 20
    assert_says_nothing_of_the_server(answer.text, folder)
    assert client.get(ROUTE).json() == before


@pytest.mark.safety("security 7")
def test_a_config_that_is_a_link_is_not_followed(client: TestClient, folder: Path, tmp_path: Path) -> None:
    config = folder / "adapter_config.json"
    config.rename(tmp_path / "elsewhere.json")
    config.symlink_to(tmp_path / "elsewhere.json")
    answer = register(client, "broken", "spoilt")
    assert answer.status_code == 422
    assert_says_nothing_of_the_server(answer.text, folder)


@pytest.mark.safety("security 4")
def test_a_pickle_is_never_opened(client: TestClient, folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    answer = register(client, "broken", "spoilt")
    assert answer.status_code == 422
    assert "pickle" in answer.json()["error"]["message"]


OUTSIDE = [
    "..",
    "../..",
    "/",
    "/etc",
    "/etc/passwd",
    "formal/../../..",
    "~",
    "nowhere",
    "\0",
    "a\0b",
    "x" * 300,
]


@pytest.mark.parametrize("path", [*OUTSIDE, "a/" * 2000, "formal/adapter_config.json", "file:///etc"])
def test_a_path_outside_the_root_or_nowhere_is_422(client: TestClient, world: World, path: str) -> None:
    answer = register(client, "outside", path)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["code"] == "invalid_adapter"
    assert_says_nothing_of_the_server(answer.text, world.root)


def test_a_link_out_of_the_root_and_a_loop_are_422(client: TestClient, world: World, tmp_path: Path) -> None:
    shutil.copytree(world.adapters["formal"], tmp_path / "outside")
    links = {"way-out": tmp_path / "outside", "loop": world.root / "loop"}
    for name, target in links.items():
        (world.root / name).symlink_to(target)
        answer = register(client, "linked", name)
        (world.root / name).unlink()
        assert answer.status_code == 422, answer.text
        assert_says_nothing_of_the_server(answer.text, tmp_path)


def test_an_absolute_path_inside_the_root_and_a_detour_are_taken(client: TestClient, world: World) -> None:
    for path in (str(world.root / "formal"), "friendly/../formal", "./formal//"):
        assert register(client, "detour", path, replace=True).status_code in (200, 201)
    client.delete(f"{ROUTE}/detour")


def assert_says_nothing_of_the_server(text: str, folder: Path) -> None:
    for part in (str(folder), str(folder.parent), "Traceback", "0x", "Error("):
        assert part not in text


def test_bad_registrations_do_not_disturb_good_traffic(client: TestClient, folder: Path) -> None:
    body = {"model": "formal", "prompt": "Hello", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    expected = post(client, "/v1/completions", body).json()["choices"]
    cut(folder)
    for _ in range(20):
        assert register(client, "broken", "spoilt").status_code == 422
        assert post(client, "/v1/completions", body).json()["choices"] == expected


def test_two_names_of_the_same_bytes_are_one_generation(
    shared: tuple[Server, TestClient], fresh: str
) -> None:
    server, client = shared
    register(client, fresh, "formal")
    assert server.registry.record(fresh).generation == server.registry.record("formal").generation
    client.delete(f"{ROUTE}/{fresh}")
    assert post(client, "/v1/completions", {"model": "formal", "prompt": "a", "max_tokens": 1}).is_success


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=5), values, max_size=3))
def test_metadata_comes_back_as_it_was_sent(client: TestClient, metadata: dict[str, Any]) -> None:
    answer = register(client, "described", "triage", metadata=metadata)
    listed = client.get(ROUTE)
    client.delete(f"{ROUTE}/described")
    assert answer.json()["metadata"] == metadata
    assert listed.status_code == 200


def test_the_list_is_sorted_and_whole(client: TestClient) -> None:
    listing = client.get(ROUTE).json()
    names = [each["id"] for each in listing["data"]]
    assert listing["object"] == "list"
    assert listing["has_more"] is False
    assert names == sorted(names)
    assert set(RANKS) <= set(names)
