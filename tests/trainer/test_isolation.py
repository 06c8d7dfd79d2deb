"""Training moves nobody else: the base and other adapters give the same bits before, during and after."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lorikeet_adapters.base_model import fingerprint, load_base
from lorikeet_adapters.mix import BASE_MIX, Mix, Term
from lorikeet_adapters.precision import bfloat16_is_fast, compute_in_float32
from lorikeet_server.engine.tokenizer import load_tokenizer
from lorikeet_trainer.history import LossPoint
from lorikeet_trainer.judge import Judge, alone, judging, read_adapter
from lorikeet_trainer.quiet import quiet_libraries
from lorikeet_trainer.targets import target_modules
from lorikeet_trainer.train import Job, TrainedAdapter, fit, train
from tests.tiny import save_adapter
from tests.trainer.conftest import RECIPE, Silence

STEPS = 4
MIXES = (
    BASE_MIX,
    alone("mood"),
    alone("other"),
    Mix.of([Term("mood", 0.5), Term("other", -0.3)]),
)


class Watching:
    """A display that looks at the resident engine at every step."""

    def __init__(self, judge: Judge, tokens: tuple[int, ...]) -> None:
        self.judge = judge
        self.tokens = tokens
        self.seen: list[list[torch.Tensor]] = []

    def look(self) -> list[torch.Tensor]:
        return [self.judge.distribution(self.tokens, mix) for mix in MIXES]

    def begin(self, steps: int) -> None: ...

    def step(self, point: LossPoint) -> None:
        self.seen.append(self.look())

    def end(self) -> None: ...


@pytest.fixture
def files(trained: TrainedAdapter, base_folder: Path, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Two adapters; whatever a test does, their bytes are as before when it has ended."""
    folders = {
        "mood": trained.folder,
        "other": save_adapter(base_folder, tmp_path / "other", rank=4, seed=2),
    }

    def bytes_of() -> dict[str, str]:
        paths = [path for folder in (*folders.values(), base_folder) for path in sorted(folder.iterdir())]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    before = bytes_of()
    yield folders
    assert bytes_of() == before


def test_a_resident_engine_gives_the_same_bits_while_another_adapter_is_trained(
    trained: TrainedAdapter, files: dict[str, Path], base_folder: Path, data: Path, tmp_path: Path
) -> None:
    base = load_base(str(base_folder), "nf4")
    weights = {name: read_adapter(folder, base) for name, folder in files.items()}
    with judging(base, load_tokenizer(str(base_folder)), weights) as judge:
        watch = Watching(judge, trained.dataset.rows[0].input_ids)
        before = watch.look()
        held = digest(base.model)  # after a forward: in the first one bitsandbytes packs its layers
        made = train(
            Job(data, tmp_path / "new", str(base_folder), recipe=replace(RECIPE, max_steps=STEPS)), watch
        )
        looks = [before, *watch.seen, watch.look()]
    assert len(looks) == STEPS + 2
    for look in looks:
        assert all(torch.equal(now, then) for now, then in zip(look, before, strict=True))
    assert not torch.equal(before[0], before[1]), "the adapters do something"
    assert digest(base.model) == held
    assert (made.folder / "adapter_model.safetensors").is_file()


def digest(model: nn.Module) -> str:
    """Of the bytes as they lie there. A state dict, of which `fingerprint` is made, unpacks a packed layer."""
    found = hashlib.sha256()
    for name, each in (*model.named_parameters(), *model.named_buffers()):
        found.update(name.encode() + each.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def test_the_base_that_was_trained_on_is_as_it_was(trained: TrainedAdapter, base_folder: Path) -> None:
    base = load_base(str(base_folder), "nf4", for_training=True)
    if not bfloat16_is_fast(base.device):
        compute_in_float32(base.model)
    ids = torch.tensor([trained.dataset.rows[0].input_ids])
    with torch.no_grad():
        before, held = base.model(ids).logits, fingerprint(base.model)
        rows = trained.dataset.rows
        plan = replace(RECIPE, max_steps=STEPS).plan(len(rows), base.context_length, target_modules(base))
        with torch.enable_grad(), quiet_libraries():
            model, _ = fit(base, trained.dataset, load_tokenizer(str(base_folder)).backend, plan, Silence())
        moved = model(ids).logits
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, before)
        assert not torch.equal(moved, before)
        left = model.unload().eval()
        assert torch.equal(left(ids).logits, before)
        assert fingerprint(left) == held
