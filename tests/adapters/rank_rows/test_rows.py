"""Rank rows on a base: the hooks add exactly what PEFT's layers would, and nothing when nothing is asked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.mix import BASE_MIX, Mix, Term
from lorikeet_adapters.rank_rows.kernels import NATIVE
from lorikeet_adapters.rank_rows.rows import RankRows
from lorikeet_adapters.rank_rows.target import Part, Selection
from lorikeet_adapters.spec import parse_spec
from lorikeet_adapters.weights import AdapterWeights, ModuleRows, load_weights
from tests.kernels import ON_CPU
from tests.tiny import peft_model, save_adapter, save_model

PROMPTS = torch.tensor([[1, 5, 9, 20], [7, 7, 3, 2], [40, 30, 20, 10], [99, 98, 97, 96]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    base = save_model(folder / "base", "llama")
    return {
        "base": base,
        "a": save_adapter(base, folder / "a", rank=4, seed=1),
        "b": save_adapter(
            base, folder / "b", rank=9, seed=2, use_rslora=True, target_modules=["q_proj", "up_proj"]
        ),
    }


@pytest.fixture(scope="module")
def base(folders: dict[str, Path]) -> BaseModel:
    return load_base(str(folders["base"]), "fp32")


@pytest.fixture(params=ON_CPU)
def rows(request: pytest.FixtureRequest, base: BaseModel) -> Iterator[RankRows]:
    made = RankRows(base, 512, request.param)
    yield made
    made.detach()


def read(folder: Path, base: BaseModel) -> AdapterWeights:
    spec = parse_spec((folder / "adapter_config.json").read_bytes())
    return load_weights(folder / "adapter_model.safetensors", spec, base.outline, base.compute_dtype)


def mix(**weights: float) -> Mix:
    return Mix.of(Term(name, weight) for name, weight in weights.items())


def counted(rows: RankRows) -> int:
    """Bytes of every tensor that the targets hold, walked through."""
    parts = [part for target in rows._targets.values() for part in target.parts]
    copies = [each for part in parts if part._gathered for each in part._gathered[1]]
    return sum(each.nbytes for each in (*copies, *(block for part in parts for block in part.arena.blocks)))


@torch.no_grad()
def logits(base: BaseModel, ids: torch.Tensor = PROMPTS) -> torch.Tensor:
    out: torch.Tensor = base.model(input_ids=ids).logits
    return out


def test_a_mixed_batch_equals_peft_row_by_row(
    rows: RankRows, base: BaseModel, folders: dict[str, Path]
) -> None:
    plain = logits(base)
    for name in "ab":
        rows.insert(name, read(folders[name], base))
    per_token = [each for each in (mix(a=1), mix(b=1), BASE_MIX, mix(a=1)) for _ in range(PROMPTS.shape[1])]
    with rows.step(per_token):
        mixed = logits(base)
    with torch.no_grad():
        for row, name in ((0, "a"), (1, "b"), (3, "a")):
            oracle = peft_model(folders["base"], folders[name])(input_ids=PROMPTS[row : row + 1]).logits[0]
            torch.testing.assert_close(mixed[row], oracle, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(mixed[row], plain[row], atol=1e-2), "the adapter does something"
    torch.testing.assert_close(mixed[2], plain[2], rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(base), plain), "nothing stays after the step"


def test_one_mix_for_all_means_the_same_as_a_mix_a_token(
    rows: RankRows, base: BaseModel, folders: dict[str, Path]
) -> None:
    for name in "ab":
        rows.insert(name, read(folders[name], base))
    blend = mix(a=0.7, b=-0.4)
    with rows.step([blend] * PROMPTS.numel()):
        expected = logits(base)
    with rows.step([blend]):
        torch.testing.assert_close(logits(base), expected, rtol=1e-5, atol=1e-5)


def test_one_mix_a_row_means_the_same_for_all_its_tokens(
    rows: RankRows, base: BaseModel, folders: dict[str, Path]
) -> None:
    for name in "ab":
        rows.insert(name, read(folders[name], base))
    mixes = [mix(a=1), mix(a=0.7, b=-0.4), BASE_MIX, mix(b=1)]
    with rows.step([each for each in mixes for _ in range(PROMPTS.shape[1])]):
        expected = logits(base)
    with rows.step(mixes):
        torch.testing.assert_close(logits(base), expected, rtol=1e-5, atol=1e-5)


def test_a_module_that_sees_other_tokens_than_the_batch_is_an_error_not_a_guess(
    rows: RankRows, base: BaseModel, folders: dict[str, Path]
) -> None:
    rows.insert("a", read(folders["a"], base))
    for count in (2, len(PROMPTS) + 1, 2 * PROMPTS.numel()):
        with pytest.raises(ValueError, match="are not those of"), rows.step([mix(a=1)] * count):
            logits(base)


def test_an_adapter_that_is_not_resident_cannot_be_asked_for(
    rows: RankRows, base: BaseModel, folders: dict[str, Path]
) -> None:
    plain = logits(base)
    rows.insert("a", read(folders["a"], base))
    with pytest.raises(LookupError, match="'b'"), rows.step([mix(a=1), mix(b=1)]):
        pass
    assert torch.equal(logits(base), plain)


def test_a_step_that_fails_leaves_nothing_active(
    rows: RankRows, base: BaseModel, folders: dict[str, Path]
) -> None:
    plain = logits(base)
    rows.insert("a", read(folders["a"], base))
    with pytest.raises(ZeroDivisionError), rows.step([mix(a=1)]):
        raise ZeroDivisionError
    assert torch.equal(logits(base), plain)


def test_a_step_that_breaks_on_its_way_leaves_nothing_active(
    rows: RankRows, base: BaseModel, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = logits(base)
    rows.insert("a", read(folders["a"], base))
    with rows.step([mix(a=1)]):
        expected = logits(base)
    assert not torch.equal(expected, plain)
    choose, calls = Part.choose, itertools.count()

    def fails_once(part: Part, selection: Selection) -> None:
        if next(calls) == 4:
            raise MemoryError
        choose(part, selection)

    rows.insert("b", read(folders["b"], base))  # else the choice of the step before would stand
    monkeypatch.setattr(Part, "choose", fails_once)
    with pytest.raises(MemoryError), rows.step([mix(a=1)]):
        logits(base)
    with rows.step([BASE_MIX]):
        assert torch.equal(logits(base), plain)
    with rows.step([mix(a=1)]):
        assert torch.equal(logits(base), expected)


def test_prompts_of_every_length_leave_nothing_behind(
    rows: RankRows, base: BaseModel, folders: dict[str, Path]
) -> None:
    """The mixes stay the same, so nothing chosen for them is ever given up."""
    rows.insert("a", read(folders["a"], base))
    for tokens in (*range(1, 20), 1):
        with rows.step([mix(a=1)]), torch.no_grad():
            base.model(torch.ones(1, tokens, dtype=torch.long))
    parts = [part for target in rows._targets.values() for part in target.parts]
    assert max(len(part._bound) for part in parts) <= 8
    chosen = [part.active for part in parts if part.active]
    assert chosen
    assert max(len(each.s._spans) for each in chosen) <= 1


def test_rows_that_come_and_go_are_seen_by_the_very_mixes_of_the_step_before(
    rows: RankRows, base: BaseModel, folders: dict[str, Path]
) -> None:
    """A choice is kept from step to step; moved rows, new ones and those of another generation end it."""
    rows.insert("a", read(folders["a"], base))
    rows.insert("b", read(folders["b"], base))
    with rows.step([mix(b=1)]):
        expected = logits(base)
    rows.evict("a")
    rows.insert("c", read(folders["a"], base))
    with rows.step([mix(b=1)]):
        assert torch.equal(logits(base), expected)
    rows.evict("b")
    rows.insert("b", read(folders["a"], base))
    with rows.step([mix(c=1)]):
        expected = logits(base)
    with rows.step([mix(b=1)]):
        assert torch.equal(logits(base), expected)
    rows.evict("b")
    with pytest.raises(LookupError, match="'b'"), rows.step([mix(b=1)]):
        pass


def test_no_active_rows_leave_the_output_object_alone(base: BaseModel, folders: dict[str, Path]) -> None:
    made: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        made[module] = output, output.clone()

    layer = base.model.get_submodule("model.layers.0.self_attn")
    modules = {name: layer.get_submodule(name) for name in ("q_proj", "k_proj")}
    hooks = [module.register_forward_hook(note) for module in modules.values()]  # before those of the rows
    rows = RankRows(base, 512)
    rows.insert("b", read(folders["b"], base))
    x = torch.randn(1, 2, 64)
    for mixes, touched in (([BASE_MIX], set()), ([mix(b=1)], {"q_proj"})):
        with rows.step(mixes):
            for name, module in modules.items():
                found, (own, before) = module(x), made[module]
                assert torch.equal(found, before) is (name not in touched)
                assert found is own or name in touched
    rows.detach()
    for hook in hooks:
        hook.remove()


def test_coming_and_going_changes_nobody_elses_rows(
    rows: RankRows, base: BaseModel, folders: dict[str, Path]
) -> None:
    """An adapter between two others leaves, a wider one comes: their rows lie apart, then elsewhere."""
    a, b = read(folders["a"], base), read(folders["b"], base)
    rows.insert("a", a)
    with rows.step([mix(a=1)]):
        alone = logits(base)
    rows.insert("middle", b)
    rows.insert("again", a)
    with rows.step([mix(a=0.5, again=0.5)]):
        torch.testing.assert_close(logits(base), alone, rtol=1e-4, atol=1e-4)
    rows.evict("middle")
    assert rows.resident == {"a": 4, "again": 4}
    whole = rows.bytes
    with rows.step([mix(a=0.5, again=0.5)]):
        logits(base)
    assert rows.bytes == counted(rows)
    assert (rows.bytes > whole) is (rows.kernel != NATIVE), "C looks up what lies apart, others copy it"
    for number in range(6):  # past the first capacity: the arenas grow and the rows move
        rows.insert(f"b{number}", b)
    with rows.step([mix(a=0.25, again=0.75)]):
        torch.testing.assert_close(logits(base), alone, rtol=1e-4, atol=1e-4)
    rows.evict("a")
    assert rows.bytes == counted(rows)
    with rows.step([mix(again=1)]):
        torch.testing.assert_close(logits(base), alone, rtol=1e-4, atol=1e-4)


def test_rows_that_were_given_to_another_are_not_read_from_a_copy(
    rows: RankRows, base: BaseModel, folders: dict[str, Path]
) -> None:
    """Rows that lie apart are gathered once and kept; the copy must not outlive an owner."""
    a = read(folders["a"], base)
    double = AdapterWeights({name: ModuleRows(each.a, each.b * 2) for name, each in a.modules.items()})
    for name in ("x", "between", "y"):
        rows.insert(name, a)
    with rows.step([mix(x=0.5, y=0.5)]):
        once = logits(base)
    rows.evict("y")
    rows.insert("y", double)  # the very same rows
    with rows.step([mix(x=0.5, y=0.25)]):
        torch.testing.assert_close(logits(base), once, rtol=1e-4, atol=1e-4)


def test_insert_into_all_modules_or_none(rows: RankRows, base: BaseModel, folders: dict[str, Path]) -> None:
    a = read(folders["a"], base)
    rows.insert("first", a)
    before = rows.bytes
    modules = list(a.modules)
    broken = AdapterWeights({**a.modules, modules[-1]: ModuleRows(torch.ones(4, 7), torch.ones(4, 7))})
    for _ in range(20):
        with pytest.raises(RuntimeError):
            rows.insert("second", broken)
        rows.insert("third", a)
        rows.evict("third")
    assert rows.resident == {"first": 4}
    assert rows.bytes == before == counted(rows), "the rows of failed attempts were given back"


def test_detached_rows_do_nothing(base: BaseModel, folders: dict[str, Path]) -> None:
    plain = logits(base)
    rows = RankRows(base, 512)
    rows.insert("a", read(folders["a"], base))
    with rows.step([mix(a=1)]):
        rows.detach()
        assert torch.equal(logits(base), plain)
