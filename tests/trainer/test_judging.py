"""`lorikeet eval` over adapters that a data folder holds, and over their parents."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lorikeet_adapters.base_model import outline
from lorikeet_adapters.check import Checker
from lorikeet_adapters.errors import RefusedError, StoreError
from lorikeet_adapters.notes import ServedBase
from lorikeet_adapters.origin import Parent, read_parent, tensors_sha256
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.shelf import Shelf
from lorikeet_adapters.source import open_folder
from lorikeet_adapters.store import Store
from lorikeet_trainer.confusion import score_labels
from lorikeet_trainer.export import with_metadata
from lorikeet_trainer.judge import HeldBase
from lorikeet_trainer.preference import Weighed, score_preferences
from lorikeet_trainer.train import TrainedAdapter
from lorikeet_trainer.verdict import Verdict
from tests.trainer.test_cli import run


def sha256(folder: Path) -> str:
    with (folder / "adapter_model.safetensors").open("rb") as file:
        return tensors_sha256(file)


def with_parent(child: Path, parent: Parent, folder: Path) -> Path:
    """A copy of an adapter, a little weaker, that says it was trained on from another."""
    shutil.copytree(child, folder)
    weights = folder / "adapter_model.safetensors"
    tensors = {name: tensor * (0.9 if "lora_B" in name else 1) for name, tensor in load_file(weights).items()}
    save_file(tensors, weights)
    weights.write_bytes(with_metadata(weights.read_bytes(), {"lorikeet.parent": parent.to_json()}))
    return folder


@pytest.fixture
def data_dir(trained: TrainedAdapter, base_folder: Path, tmp_path: Path) -> Path:
    """`mood`, and `mood-2` that was trained on from it."""
    child = with_parent(trained.folder, Parent("mood", sha256(trained.folder)), tmp_path / "child")
    with Store(tmp_path / "data") as store:
        check = Checker(outline(str(base_folder)), "base", str(base_folder))
        registry = Registry(store, "base", check)
        for name, folder in {"mood": trained.folder, "mood-2": child}.items():
            with open_folder(folder) as files:
                registry.register(name, files)
        registry.close()
        store.notes.remember_base(ServedBase(str(base_folder), "base", "nf4"))
    return tmp_path / "data"


def test_a_registered_adapter_is_judged_beside_its_parent_on_the_base_last_served(
    data_dir: Path, data: Path
) -> None:
    result = run("eval", "mood-2", data, "--data-dir", data_dir, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [each["name"] for each in document["scores"]] == ["base", "mood-2's parent", "mood-2"]
    assert document["base"]["quantization"] == "nf4"
    losses = [each["loss"] for each in document["scores"]]
    assert losses[1] < losses[2] < losses[0]


def test_it_is_read_beside_a_server_that_holds_the_folder(
    data_dir: Path, data: Path, trained: TrainedAdapter
) -> None:
    with Store(data_dir):
        result = run("eval", "mood", f"own={trained.folder}", data, "--data-dir", data_dir, "--json")
    assert result.exit_code == 0, result.output
    base, registered, own = json.loads(result.stdout)["scores"]
    assert (registered["name"], own["name"]) == ("mood", "own")
    assert {**registered, "name": ""} == {**own, "name": ""}
    assert base["loss"] > own["loss"]


def test_a_parent_that_lies_nowhere_is_named(
    data_dir: Path, data: Path, base_folder: Path, trained: TrainedAdapter, tmp_path: Path
) -> None:
    folder = with_parent(trained.folder, Parent("gone", "0" * 64), tmp_path / "orphan")
    result = run("eval", f"orphan={folder}", data, "--model", base_folder, "--data-dir", data_dir)
    assert result.exit_code == 0, result.output
    assert f"orphan was trained on from gone, which is not in {data_dir}" in result.stderr


def test_what_is_not_registered_is_refused_by_name(data_dir: Path, data: Path, tmp_path: Path) -> None:
    result = run("eval", "nobody", data, "--data-dir", data_dir)
    assert isinstance(result.exception, RefusedError)
    assert "`nobody` is not registered" in str(result.exception)
    result = run("eval", "mood", data, "--data-dir", tmp_path / "nowhere")
    assert isinstance(result.exception, StoreError)
    assert "--data-dir" in str(result.exception)


def test_files_that_are_not_there_are_refused_before_anything_is_loaded(data: Path, tmp_path: Path) -> None:
    for words, said in (
        ([tmp_path / "rows.jsonl"], "name a readable file"),
        ([f"a={tmp_path / 'no'}", data], "does not exist"),
    ):
        result = run("eval", *words)
        assert said in str(result.exception)


@pytest.mark.parametrize(
    "command",
    ["eval nobody {data}", "eval mood=. {data}", "merge nobody --out {data}-new", "merge a+ --out y"],
)
def test_what_is_refused_is_refused_without_torch(data_dir: Path, data: Path, command: str) -> None:
    words = [*command.format(data=data).split(), "--data-dir", str(data_dir)]
    code = (
        "import sys, typer, lorikeet_trainer.cli as cli\n"
        "from lorikeet_adapters.errors import RefusedError\n"
        "app = typer.Typer(); app.callback()(lambda: None); cli.register(app)\n"
        f"try: app({words!r})\n"
        "except RefusedError: sys.exit(7 if 'torch' in sys.modules else 0)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_shelf_finds_what_a_name_means_and_what_it_meant(data_dir: Path, trained: TrainedAdapter) -> None:
    shelf = Shelf(data_dir)
    assert {each.name for each in shelf.kept} == {"mood", "mood-2"}
    assert shelf.base is not None
    assert shelf.base.quantization == "nf4"
    assert sha256(shelf.take(shelf.find("mood"), data_dir / "copy")) == sha256(trained.folder)


def test_what_a_file_says_of_its_parent_is_not_trusted(trained: TrainedAdapter, tmp_path: Path) -> None:
    weights = tmp_path / "adapter_model.safetensors"
    data = (trained.folder / "adapter_model.safetensors").read_bytes()
    for told in ("nonsense", "[]", '{"name": "a"}', '{"name": 1, "weights_sha256": "b"}', "[" * 100_000):
        weights.write_bytes(with_metadata(data, {"lorikeet.parent": told}))
        assert read_parent(weights) is None


def test_every_kind_of_verdict_is_shown_and_is_json(base_folder: Path) -> None:
    labels = score_labels("mood", ["a", "[b]"], [("a", "a"), ("a", "[b]")])
    pairs = score_preferences("mood", [Weighed(-1, -2)], [Weighed(-2, -2)])
    verdict = Verdict(HeldBase(str(base_folder), "nf4"), "rows.jsonl", "0" * 64, 2, labels=(labels,))
    assert [table.row_count for table in verdict.tables()] == [0, 1, 2]
    assert json.loads(verdict.to_json())["labels"][0]["confusion"] == [[1, 1], [0, 0]]
    preferring = replace(verdict, labels=(), preferences=(pairs,))
    assert [table.row_count for table in preferring.tables()] == [1]
    assert json.loads(preferring.to_json())["preferences"][0]["reward_accuracy"] == 1.0
