"""The long form of the feature matrix: several seeds, random blends of every feature, longer answers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lorikeet_adapters.base_model import load_base
from tests.server.engine.test_features import FILTERS, PROMPT, check, features, serve
from tests.tiny import CONFIGS, blended_model, greedy, peft_model, save_adapter, save_model

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900), FILTERS]
BLENDS = 8


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_every_feature_and_random_blends_equal_the_oracle(
    architecture: str, seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    folder = save_model(tmp_path / "base", architecture, seed)
    table = features(architecture)
    paths = {
        name: save_adapter(folder, tmp_path / name, chance.choice([3, 8, 16]), seed + number, **options)
        for number, (name, options) in enumerate(table.items())
    }
    mixes = {name: {name: 1.0} for name in table}
    expected = {name: greedy(peft_model(folder, path), PROMPT, 24) for name, path in paths.items()}
    blendable = [name for name in table if not name.startswith("dora")]
    for number in range(BLENDS):
        names = chance.sample(blendable, chance.randrange(1, 5))
        blend = {name: round(chance.uniform(-1.0, 1.2), 3) for name in names}
        mixes[f"blend{number}"] = blend
        oracle = blended_model(folder, {paths[name]: weight for name, weight in blend.items()})
        expected[f"blend{number}"] = greedy(oracle, PROMPT, 24)
    base = load_base(str(folder), "fp32")
    for path in paths.values():
        check(path, base, folder)
    assert serve(base, paths, mixes, tokens=24) == expected
