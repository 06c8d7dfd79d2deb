"""The document's promises held for many more requests, with keys and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.contract import check_contract
from tests.server.world import make_world

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("with_keys", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_answer_is_one_that_the_document_names(tmp_path: Path, with_keys: bool, seed: int) -> None:
    world = make_world(tmp_path / "world")
    check_contract(world, tmp_path, with_keys=with_keys, examples=200, seed=seed)
