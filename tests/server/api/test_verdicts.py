"""One verdict, however it is asked for: `dry_run`, a registration and `lorikeet adapters check` name the same reasons."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient

from lorikeet_adapters.finding import Finding, grouped
from lorikeet_server.cli import main
from tests.adapters.hostile import HOSTILE
from tests.server.world import World

ROUTE = "/v1/adapters"


@pytest.fixture(scope="module")
def folder(world: World) -> Iterator[Path]:
    made = world.root / "judged"
    shutil.copytree(world.adapters["triage"], made)
    yield made
    shutil.rmtree(made)


def verdict(client: TestClient) -> list[dict[str, str]]:
    source = {"type": "local", "path": "judged"}
    answer = client.post(f"{ROUTE}?dry_run=true", json={"source": source})
    assert answer.status_code == 200, answer.text
    assert not answer.json()["loadable"]
    refused = client.post(ROUTE, json={"name": "judged", "source": source})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_adapter")
    findings: list[dict[str, str]] = answer.json()["findings"]
    for each, _ in grouped([Finding(**each) for each in findings]):  # the message has one of a kind
        assert each.message in refused.json()["error"]["message"]
    return findings


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_config_has_one_verdict(client: TestClient, folder: Path, name: str) -> None:
    text, expected = HOSTILE[name]
    (folder / "adapter_config.json").write_bytes(text)
    found = {(each["field"], each["code"]) for each in verdict(client)}
    assert expected <= found
    # The rank of the file stands in the config: where that is readable, the weights may not fit it either.
    assert {code for _, code in found - expected} <= {"shape_mismatch"}


def test_check_on_the_command_line_gives_the_list_of_the_dry_run(
    client: TestClient,
    world: World,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("everything", "modules_to_save", "pissa", "empty"):
        (folder / "adapter_config.json").write_bytes(HOSTILE[name][0])
        words = ["lorikeet", "adapters", "check", str(folder), "--model", str(world.base), "--json"]
        monkeypatch.setattr(sys, "argv", words)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 1
        assert json.loads(capsys.readouterr().out)["findings"] == verdict(client)


def test_config_and_weights_are_judged_together_in_the_order_of_the_stages(
    client: TestClient, world: World, folder: Path
) -> None:
    config: dict[str, Any] = json.loads((world.adapters["triage"] / "adapter_config.json").read_text())
    unservable = {**config, "surprise": 1, "modules_to_save": ["lm_head"]}
    (folder / "adapter_config.json").write_text(json.dumps(unservable))
    file = folder / "adapter_model.safetensors"
    good = load_file(file)
    first = next(iter(good))
    spoilt = {**good, first: torch.full_like(good[first], torch.nan), "stray": torch.zeros(1)}
    save_file(spoilt, file)
    assert [each["code"] for each in verdict(client)] == [
        "unknown_key",
        "unsupported_option",
        "unsupported_tensor",
        "not_finite",
    ]
    save_file(good, file)


def test_an_adapter_wider_than_the_server_has_rows_is_refused_at_once(
    client: TestClient, world: World, folder: Path
) -> None:
    from tests.tiny import save_adapter

    wide = save_adapter(world.base, world.root / "wide", rank=600, seed=1, target_modules=["down_proj"])
    answer = client.post(ROUTE, json={"name": "wide", "source": {"type": "local", "path": "wide"}})
    shutil.rmtree(wide)
    assert answer.status_code == 422
    assert "its rank 600 is over the 512 rank rows" in answer.json()["error"]["message"]
