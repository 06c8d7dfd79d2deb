"""A thousand adapters on 64 rank rows, and ten thousand cycles of registering, replacing and deleting."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.test_crowd import churn, serve_crowd

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]


def test_a_thousand_adapters_on_64_rows(tmp_path: Path) -> None:
    serve_crowd(tmp_path, adapters=1000, requests=4000)


def test_ten_thousand_cycles(tmp_path: Path) -> None:
    churn(tmp_path, cycles=10_000)
