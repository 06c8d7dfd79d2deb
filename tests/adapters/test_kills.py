"""A kill at any moment loses nothing acknowledged and shows nothing half-done; tests/soak has the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapters.kills import kill_and_check

pytestmark = pytest.mark.safety("reliability 6")


def test_kills_while_names_and_aliases_change(tmp_path: Path) -> None:
    assert kill_and_check(tmp_path, turns=5) > 20
