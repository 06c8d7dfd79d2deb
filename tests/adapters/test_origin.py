"""What an adapter says of the base it was trained on, and what a server makes of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorikeet_adapters.check import Checker
from lorikeet_adapters.checkpoint import checkpoint_digest
from lorikeet_adapters.origin import ORIGIN_KEY, Kinship, Origin, kinship, probe, read_origin
from lorikeet_adapters.outline import outline_of
from lorikeet_adapters.record import AdapterFacts
from lorikeet_adapters.spec import parse_spec
from tests.tiny import make_model, save_adapter, save_model

TRAINED = Origin("bird", "nf4", "f1", "c1", "p1")


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        (TRAINED, Kinship.SAME),
        (replace(TRAINED, base="another name"), Kinship.SAME),
        (replace(TRAINED, quantization="int8", fingerprint="f2"), Kinship.OTHER_FORM),
        (replace(TRAINED, fingerprint="f2"), Kinship.OTHER_FORM),
        (replace(TRAINED, fingerprint="f2", checkpoint="c2"), Kinship.OTHER_BASE),
        (replace(TRAINED, fingerprint="f2", checkpoint="c2", probe="p2"), Kinship.OTHER_BASE),
        (replace(TRAINED, probe="p2"), Kinship.OTHER_TEMPLATE),
        (replace(TRAINED, fingerprint="f2", probe="p2"), Kinship.OTHER_TEMPLATE),
        (replace(TRAINED, probe=""), Kinship.SAME),  # no template, or a command that loads no tokenizer
        (replace(TRAINED, fingerprint="", probe=""), Kinship.SAME),  # judged by the files alone
        (replace(TRAINED, fingerprint="", checkpoint="c2"), Kinship.OTHER_BASE),
        (replace(TRAINED, fingerprint="f2", checkpoint=""), Kinship.UNKNOWN),
        (None, Kinship.UNKNOWN),
    ],
)
def test_how_the_base_served_is_related(served: Origin | None, expected: Kinship) -> None:
    assert kinship(TRAINED, served) is expected


def test_an_adapter_that_says_nothing_is_not_judged() -> None:
    assert kinship(None, TRAINED) is Kinship.UNKNOWN


def test_whatever_an_adapter_is_judged_by_changes_the_key() -> None:
    others = [replace(TRAINED, **{field: "x"}) for field in ("fingerprint", "checkpoint", "probe")]
    assert len({TRAINED.key, *(each.key for each in others)}) == 4
    assert replace(TRAINED, base="x", quantization="y").key == TRAINED.key
    assert Origin("bird", "nf4", "f1").key == "f1"


@pytest.mark.parametrize(
    "told",
    [
        "nonsense",
        "null",
        "[]",
        '{"base": "a", "quantization": "nf4"}',
        '{"base": "a", "quantization": "nf4", "fingerprint": 5}',
        '{"base": "a", "quantization": "nf4", "fingerprint": "f", "more": "x"}',
        '{"base": "%s", "quantization": "nf4", "fingerprint": "f"}' % ("a" * 201),
        "[" * 100_000,
    ],
)
def test_what_cannot_be_read_is_as_if_it_were_not_there(told: str, tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", {ORIGIN_KEY: told})
    assert read_origin(tmp_path / "x.safetensors") is None


def test_it_reads_back_as_it_was_written(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", {ORIGIN_KEY: TRAINED.to_json()})
    assert read_origin(tmp_path / "x.safetensors") == TRAINED


def test_a_template_that_breaks_has_no_probe() -> None:
    def broken(turns: object) -> tuple[int, ...]:
        raise RuntimeError("no such role")

    assert probe(broken) == ""
    assert len({probe(lambda turns: (len(turns),)), probe(lambda turns: (len(turns), 1))}) == 2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("origin") / "base", "llama")


def test_the_digest_is_the_checkpoints_wherever_it_lies_and_however_it_is_split(
    base: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    assert checkpoint_digest(str(moved)) == checkpoint_digest(str(base))
    make_model("llama").save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert checkpoint_digest(str(tmp_path / "sharded")) == checkpoint_digest(str(base))
    weights = moved / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, weights, {"format": "pt"})
    assert checkpoint_digest(str(moved)) != checkpoint_digest(str(base))
    assert checkpoint_digest(str(tmp_path / "nowhere")) == ""


def judge(base: Path, adapter: Path, trained: Origin, served: Origin) -> AdapterFacts:
    weights = adapter / "adapter_model.safetensors"
    save_file(load_file(weights), weights, {"format": "pt", ORIGIN_KEY: trained.to_json()})
    check = Checker(outline_of(make_model("llama")), "bird", str(base), served=served)
    return check(parse_spec((adapter / "adapter_config.json").read_bytes()), weights)


def test_a_check_warns_and_says_what_a_chat_is_refused_for(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter", rank=2, seed=1)  # it names the base "base"
    assert judge(base, adapter, TRAINED, TRAINED).warnings == ()
    other_form = judge(base, adapter, TRAINED, replace(TRAINED, quantization="int8", fingerprint="f2"))
    assert other_form.chat == ""
    assert other_form.warnings == (
        "it was trained on this base held as nf4, and is served on it held as int8",
    )
    template = judge(base, adapter, TRAINED, replace(TRAINED, probe="p2"))
    assert "chat template" in template.chat
    assert template.warnings == (template.chat,)
    other = judge(base, adapter, replace(TRAINED, checkpoint="c0", fingerprint="f0", base="\ud800"), TRAINED)
    assert "another base" in other.chat
    assert other.chat.isascii()
