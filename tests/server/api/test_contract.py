"""No answer is a 500, of a status or shape that /openapi.json does not name, or given without the key that it asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.contract import check_contract
from tests.server.world import World


@pytest.mark.timeout(300)  # thousands of requests: 20 s where nothing else runs
def test_every_answer_is_one_that_the_document_names(world: World, tmp_path: Path) -> None:
    """With keys, as then nothing is open that need not be; the long form, without keys too, is a soak."""
    assert check_contract(world, tmp_path, with_keys=True, examples=3, covered_once=True).cases > 600
