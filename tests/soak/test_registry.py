"""The long form of the registry's promises: more kills, longer lives of the plain model beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.adapters.kills import kill_and_check
from tests.adapters.test_machine import RegistryMachine

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_twenty_five_kills(tmp_path: Path, seed: int) -> None:
    acknowledged = kill_and_check(tmp_path, turns=25, seed=seed)
    print(f"\n25 kills, {acknowledged} changes acknowledged, none lost, nothing half-done")


def test_long_lives() -> None:
    run_state_machine_as_test(
        RegistryMachine,
        settings=settings(
            max_examples=300, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
