"""A target is met or missed where the interval says so, and otherwise undecided; what it divides by is the arm's own."""

from __future__ import annotations

import pytest

from lorikeet_bench.arms import EngineArm
from lorikeet_bench.interval import Interval
from lorikeet_bench.label import Label
from lorikeet_bench.target import Standing, Target, told
from lorikeet_bench.targets import _rows_bytes
from tests.benchmarks.conftest import Measured


@pytest.mark.parametrize(
    ("low", "high", "least", "most"),
    [
        (1.1, 1.3, Standing.MET, Standing.MISSED),
        (0.9, 1.3, Standing.UNDECIDED, Standing.UNDECIDED),  # its middle is on one side of the bound
        (0.7, 0.9, Standing.MISSED, Standing.MET),
        (1.0, 1.2, Standing.MET, Standing.UNDECIDED),
        (0.8, 1.0, Standing.UNDECIDED, Standing.MET),
    ],
)
def test_the_interval_decides_not_the_point(low: float, high: float, least: Standing, most: Standing) -> None:
    found = Interval((low + high) / 2, low, high)
    assert Target.at_least("speed", found, 1).standing is least
    assert Target.at_most("time", found, 1).standing is most


def test_a_target_is_told_with_its_interval() -> None:
    row = {"name": "speed", "value": 1.0, "low": 0.9, "high": 1.25, "wanted": ">= 1", "standing": "undecided"}
    assert list(told({"targets": [row]})) == ["undecided: speed 1.000 [0.900, 1.250], wanted >= 1"]


def test_rows_are_the_bytes_of_the_arms_own_adapters(measured: Measured) -> None:
    """The four of the mixed batch have the ranks 8, 4, 16 and 16: a mean over them would be theirs by luck alone."""
    arms = {arm.label: arm for arm in measured.bench.arms if isinstance(arm, EngineArm)}
    each = [
        sum(rows.a.nbytes + rows.b.nbytes for rows in adapter.weights.modules.values())
        for adapter in measured.bench.sets[0].adapters
    ]
    assert len(set(each)) > 2
    assert _rows_bytes(measured.bench, arms[Label("mixed", (8, 4, 16, 16))]) == sum(each)
    assert _rows_bytes(measured.bench, arms[Label("blend", (8, 4))]) == sum(each[:2])
    assert _rows_bytes(measured.bench, arms[Label("adapter", (8,))]) == each[0]


def test_an_arm_is_named_by_the_ranks_it_has() -> None:
    names = {
        "base": Label("base"),
        "adapter r4": Label("adapter", (4,)),
        "blend x2 r16": Label("blend", (16, 16)),
        "blend x2 r16+8": Label("blend", (16, 8)),
        "mixed x4 r8-16": Label("mixed", (16, 8, 16, 16)),
    }
    assert {str(label): label for label in names.values()} == names
