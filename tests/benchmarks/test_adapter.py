"""Random adapters are shaped like those PEFT makes, so that what they cost is what real ones cost."""

from __future__ import annotations

from lorikeet_bench.adapter import Origin
from tests.benchmarks.conftest import Measured


def test_random_adapters_adapt_the_modules_of_pefts_all_linear(measured: Measured) -> None:
    """The head is none of them."""
    real, random = measured.bench.sets[0].adapters[0], measured.bench.sets[0].adapters[2]
    assert (real.origin, random.origin) == (Origin.GIVEN, Origin.RANDOM)
    assert random.weights.modules.keys() == real.weights.modules.keys()
    assert "lm_head" in measured.bench.base.linears
    for name, rows in random.weights.modules.items():
        assert rows.rank == measured.plan.random_ranks[0]
        assert (rows.a.shape[1], rows.b.shape[1]) == (
            real.weights.modules[name].a.shape[1],
            real.weights.modules[name].b.shape[1],
        )
