"""A thousand adapters on 64 rank rows, and ten thousand cycles of registering, replacing and deleting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.server.process import ServerProcess
from tests.server.test_crowd import churn, few_rows, serve_crowd

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    with closing(few_rows(tmp_path)) as made:
        yield made


def test_a_thousand_adapters_on_64_rows(process: ServerProcess, tmp_path: Path) -> None:
    serve_crowd(process, tmp_path, adapters=1000, requests=4000)


def test_ten_thousand_cycles(process: ServerProcess, tmp_path: Path) -> None:
    churn(process, tmp_path, cycles=10_000)
