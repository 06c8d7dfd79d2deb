"""Which bases keep rows apart that lie end to end, and that training does not notice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lorikeet_adapters.quantization import Quantization
from lorikeet_trainer.errors import RecipeRefused
from lorikeet_trainer.packing import keeps_apart, may_pack
from lorikeet_trainer.recipe import Method, Recipe
from lorikeet_trainer.train import Job, train
from tests.tiny import CONFIGS
from tests.trainer.conftest import RECIPE, Silence

# They read no positions or make their own mask, so a row would see its neighbours.
MIXING = {"bloom", "opt", "falcon"}


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_the_families_that_keep_rows_apart(architecture: str) -> None:
    assert keeps_apart(CONFIGS[architecture]()) is (architecture not in MIXING)


def test_who_cannot_is_refused_only_when_asked() -> None:
    opt = CONFIGS["opt"]()
    assert may_pack(opt, Recipe(), by_default=True) is False
    with pytest.raises(RecipeRefused, match="not for a opt base"):
        may_pack(opt, Recipe(packing=True), by_default=False)
    llama = CONFIGS["llama"]()
    assert may_pack(llama, Recipe(), by_default=True)
    assert not may_pack(llama, Recipe(), by_default=False)
    assert not may_pack(llama, Recipe(method=Method.DPO), by_default=True)


def test_packed_rows_are_learned_as_padded_ones(base_folder: Path, data: Path, tmp_path: Path) -> None:
    def losses(packing: bool) -> list[float]:
        recipe = replace(RECIPE, quantization=Quantization.FP32, max_steps=4, batch_size=3, packing=packing)
        made = train(Job(data, tmp_path / str(packing), str(base_folder), recipe=recipe), Silence())
        return [point.train_loss for point in made.history]

    assert losses(True) == pytest.approx(losses(False), rel=1e-4)
