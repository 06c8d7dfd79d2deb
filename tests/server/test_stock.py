"""What a start registers, and what it leaves as the operator left it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.record import AdapterFacts
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.source import open_folder
from lorikeet_adapters.spec import AdapterSpec
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import Target
from lorikeet_server import stock
from lorikeet_server.stock import (
    DEMO_ADAPTERS,
    offer_embedded,
    register_wanted,
    wanted_folders,
    warn_of_hidden,
)
from tests.adapters.hub import COMMIT, Repo, run_hub


def accept(spec: AdapterSpec, weights: Path) -> AdapterFacts:
    return AdapterFacts({"layer": 1}, 1)


@contextmanager
def opened(data: Path, base: str = "demo") -> Iterator[tuple[Registry, Store]]:
    with Store(data) as store:
        registry = Registry(store, base, accept)
        yield registry, store
        registry.close()


def start(data: Path, *wanted: str, base: str = "demo") -> dict[str, str]:
    """What is registered after a start of the demo."""
    with opened(data, base) as (registry, store):
        offer_embedded(registry, store.notes)
        register_wanted(registry, wanted_folders(wanted), store.intake, 1 << 20)
        return meanings(registry)


def meanings(registry: Registry) -> dict[str, str]:
    return {record.name: record.generation for record in registry.records()}


def variant(folder: Path, alpha: int = 99) -> Path:
    """The embedded `formal` under another alpha: other bytes."""
    shutil.copytree(DEMO_ADAPTERS / "formal", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": alpha}))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_a_new_folder_is_given_the_embedded_adapters_and_keeps_them(data: Path) -> None:
    first = start(data)
    assert set(first) == {"extract", "formal", "friendly", "triage"}
    assert start(data) == first


def test_what_the_operator_removed_stays_removed(data: Path) -> None:
    first = start(data)
    with opened(data) as (registry, _):
        registry.delete("formal", 0)
    left = {name: generation for name, generation in first.items() if name != "formal"}
    assert start(data) == left
    assert start(data) == left


def test_what_the_operator_replaced_stays_replaced(data: Path, tmp_path: Path) -> None:
    first = start(data)
    with opened(data) as (registry, _), open_folder(variant(tmp_path / "own")) as files:
        record, _ = registry.register("formal", files, replace=True)
    assert start(data) == {**first, "formal": record.generation} != first
    assert start(data) == {**first, "formal": record.generation}


def test_a_name_the_operator_took_first_is_theirs(data: Path, tmp_path: Path) -> None:
    with opened(data) as (registry, _), open_folder(variant(tmp_path / "own")) as files:
        record, _ = registry.register("formal", files)
    assert start(data)["formal"] == record.generation


def test_an_untouched_one_follows_a_newer_lorikeets_files(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(data)
    with opened(data) as (registry, _):
        registry.delete("triage", 0)
    newer = tmp_path / "newer"
    shutil.copytree(DEMO_ADAPTERS, newer)
    shutil.rmtree(newer / "formal")
    variant(newer / "formal", alpha=77)
    monkeypatch.setattr(stock, "DEMO_ADAPTERS", newer)
    second = start(data)
    assert set(second) == {"extract", "formal", "friendly"}
    assert second["formal"] != first["formal"]
    assert second["extract"] == first["extract"]


def test_a_base_under_an_embedded_name_goes_without_that_adapter(data: Path) -> None:
    assert set(start(data, base="formal")) == {"extract", "friendly", "triage"}


def test_the_operators_word_holds_on_each_start_and_is_logged_when_it_changes_something(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lorikeet")
    first = start(data)
    wanted = f"formal={variant(tmp_path / 'own')}"
    caplog.clear()
    changed = start(data, wanted)["formal"]
    assert changed != first["formal"]
    assert [each.getMessage() for each in caplog.records] == [f"replaced formal, generation {changed[:12]}"]
    caplog.clear()
    assert start(data, wanted)["formal"] == changed
    assert not caplog.records


@pytest.mark.parametrize("wanted", ["a", "a=/nowhere", "a=/nowhere/at=all"])
def test_a_refusal_names_the_adapter_it_is_about(data: Path, wanted: str) -> None:
    with pytest.raises(RefusedError, match=f"^--adapter {wanted}: "):
        start(data, wanted)


def test_what_the_command_line_says_of_adapters_is_read_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = DEMO_ADAPTERS / "formal"
    assert wanted_folders([f"a={folder}", f"b={folder}"]) == {"a": folder, "b": folder}
    for texts, reason in {
        (f"a={folder}", f"a={folder}"): "stands twice",
        (f"a b={folder}",): "is no adapter name",
        (f"a={tmp_path}",): "has no adapter_config.json",
    }.items():
        with pytest.raises(RefusedError, match=f"^--adapter {texts[0]}: .*{reason}"):
            wanted_folders(texts)


def test_an_adapter_that_a_renamed_base_hides_is_named(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    start(data)
    with opened(data) as (registry, _):
        registry.put_alias("support", [Target("triage", None, 1.0)])
    for base, warned in (("demo", None), ("triage", "adapter"), ("support", "alias")):
        caplog.clear()
        with opened(data, base) as (registry, _):
            warn_of_hidden(registry)
        assert [kind for kind in ("adapter", "alias") if f"the {kind} {base} cannot be" in caplog.text] == (
            [warned] if warned else []
        )


def test_a_hub_id_is_fetched_when_the_registry_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert wanted_folders(["mine=acme/support"]) == {"mine": Path("acme/support")}
    with run_hub() as hub, opened(tmp_path / "data") as (registry, store):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        hub.repos["acme/support"] = Repo(
            {
                "adapter_config.json": b'{"peft_type": "LORA", "r": 1, "lora_alpha": 1}',
                "adapter_model.safetensors": b"x",
            }
        )
        register_wanted(registry, wanted_folders(["mine=acme/support"]), store.intake, 1 << 20)
        assert registry.record("mine").source["commit"] == COMMIT
        with pytest.raises(RefusedError, match="--adapter mine=acme/nobody: acme/nobody does not exist"):
            register_wanted(registry, wanted_folders(["mine=acme/nobody"]), store.intake, 1 << 20)
