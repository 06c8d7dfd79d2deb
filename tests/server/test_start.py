"""What a start says: which adapters do not fit the base and why, and only requests that can be answered."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lorikeet_adapters.errors import BaseModelRefused
from lorikeet_adapters.notes import ServedBase
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.store import Store
from lorikeet_server.assembly import assemble
from lorikeet_server.cli import main
from lorikeet_server.config import HttpConfig, ModelConfig, ServerConfig
from lorikeet_server.engine.runner import Runner
from lorikeet_server.examples import EXAMPLES, examples_of
from lorikeet_server.serve import run
from tests.adapters.bundles import WordChecker, bundle
from tests.server.process import ServerProcess
from tests.server.world import BASE, World


def test_adapters_of_another_base_are_named_with_a_reason_and_not_offered(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`formal` is the operator's here, and does not fit the demo."""
    with Store(tmp_path / "data") as store:
        store.notes.remember_base(ServedBase(str(world.base), BASE))
    words = ["adapters", "add", str(world.adapters["formal"]), "--name", "formal"]
    monkeypatch.setattr(sys, "argv", ["lorikeet", *words, "--data-dir", str(tmp_path / "data")])
    with pytest.raises(SystemExit) as added:
        main()
    assert not added.value.code
    server = ServerProcess(tmp_path, "--model", "demo", "--threads", "1")
    try:
        assert server.url
        (line,) = [each for each in server.log.splitlines() if "WARNING" in each and "formal" in each]
        assert "adapter formal is not served on the base demo" in line
        assert "model.layers.0" in line
        assert "adapters: extract, friendly, triage" in server.log
        offered = server.output
    finally:
        server.close()
    for example in EXAMPLES:
        assert (f'"{example.model}"' in offered) == ("formal" not in example.model)


def test_a_base_that_is_refused_leaves_the_folder_to_the_one_before(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is judged against a base that is never served, and no command takes it for the folder's."""

    def wrong(self: Runner, *given: Any) -> torch.Tensor:
        return 2 * forward(self, *given)

    with Store(tmp_path) as store:
        registry = Registry(store, "former", WordChecker(), fingerprint="former")
        registry.register("mine", bundle("words"))
        registry.close()
        store.notes.remember_base(former := ServedBase("former/folder", "former"))
        before = store.catalogue.generations()
        forward = Runner._forward
        monkeypatch.setattr(Runner, "_forward", wrong)
        with pytest.raises(BaseModelRefused, match="differs from generate"):
            assemble(
                ServerConfig(ModelConfig(str(world.base), quantization=Quantization.FP32, device="cpu")),
                store,
                {},
            )
        assert store.notes.base() == former
        assert store.catalogue.generations() == before


@pytest.mark.parametrize(
    ("adapters", "models"),
    [
        (["triage", "extract", "formal", "friendly"], [each.model for each in EXAMPLES]),
        (["triage", "formal"], ["triage"]),
        ([], ["mine"]),
    ],
    ids=["all", "some", "none"],
)
def test_what_is_offered_can_be_asked(adapters: list[str], models: list[str]) -> None:
    assert [each.model for each in examples_of(adapters, "mine")] == models


def test_the_thread_that_loads_and_tests_the_base_is_gone_when_it_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It computes, so it has a pool of threads, which would make every step of the engine's slower."""
    seen: list[threading.Thread] = []

    def note(*_: object, **__: object) -> None:
        seen.append(threading.current_thread())
        raise BaseModelRefused("enough")

    monkeypatch.setattr("lorikeet_server.assembly.assemble", note)
    config = ServerConfig(http=HttpConfig(port=0), data_dir=tmp_path / "data")
    with pytest.raises(BaseModelRefused, match="enough"):
        run(config, time.monotonic())
    (thread,) = seen
    thread.join(10)
    assert not thread.is_alive()
    assert thread is not threading.main_thread()
