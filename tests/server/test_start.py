"""What a start says: which adapters do not fit the base and why, and only requests that can be answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorikeet_adapters.notes import ServedBase
from lorikeet_adapters.store import Store
from lorikeet_server.examples import EXAMPLES, examples_of
from tests.server.process import ServerProcess, lorikeet
from tests.server.world import BASE, World


def test_adapters_of_another_base_are_named_with_a_reason_and_not_offered(
    world: World, tmp_path: Path
) -> None:
    """`formal` is the operator's here, and does not fit the demo."""
    with Store(tmp_path / "data") as store:
        store.notes.remember_base(ServedBase(str(world.base), BASE))
    words = ("adapters", "add", str(world.adapters["formal"]), "--name", "formal")
    assert lorikeet(*words, "--data-dir", str(tmp_path / "data")).returncode == 0
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
