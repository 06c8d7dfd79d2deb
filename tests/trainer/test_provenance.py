"""Whatever decides how a prompt reaches the model changes a hash."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.origin import Kinship, kinship, read_origin
from lorikeet_server.assembly import origin_of
from lorikeet_server.engine.tokenizer import load_tokenizer
from lorikeet_trainer.provenance import tokenizer_facts
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.train import TrainedAdapter
from tests.trainer.conftest import TEMPLATE, make_tokenizer, save_base


def test_equal_tokenizers_have_equal_facts(renderer: Renderer) -> None:
    assert tokenizer_facts(replace(renderer, tokenizer=make_tokenizer())) == tokenizer_facts(renderer)


def test_another_template_is_another_template_and_probe(renderer: Renderer) -> None:
    other = tokenizer_facts(replace(renderer, tokenizer=make_tokenizer(TEMPLATE.replace("\\n", " "))))
    facts = tokenizer_facts(renderer)
    assert other.vocabulary_sha256 == facts.vocabulary_sha256
    assert other.template_sha256 != facts.template_sha256
    assert other.probe_sha256 != facts.probe_sha256


def test_other_words_are_another_vocabulary(renderer: Renderer) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["zebra"])
    other = tokenizer_facts(replace(renderer, tokenizer=tokenizer))
    assert other.vocabulary_sha256 != tokenizer_facts(renderer).vocabulary_sha256


def test_a_base_without_a_template_has_no_probe(renderer: Renderer) -> None:
    facts = tokenizer_facts(replace(renderer, tokenizer=make_tokenizer(template=None)))
    assert (facts.template_sha256, facts.probe_sha256) == (None, None)


@pytest.mark.parametrize(
    ("form", "template", "expected"),
    [
        ("nf4", TEMPLATE, Kinship.SAME),
        ("int8", TEMPLATE, Kinship.OTHER_FORM),
        ("nf4", TEMPLATE.replace("\\n", " "), Kinship.OTHER_TEMPLATE),
    ],
)
def test_a_server_of_the_same_base_knows_what_was_trained_here(
    trained: TrainedAdapter, base_folder: Path, tmp_path: Path, form: str, template: str, expected: Kinship
) -> None:
    base = Path(shutil.copytree(base_folder, tmp_path / "moved"))
    make_tokenizer(template).save_pretrained(base)
    served = origin_of(load_base(str(base), form), load_tokenizer(str(base)))
    assert kinship(read_origin(trained.folder / "adapter_model.safetensors"), served) is expected


def test_a_server_of_another_base_knows_that_too(trained: TrainedAdapter, tmp_path: Path) -> None:
    base = save_base(tmp_path / "other", lambda model: model.model.norm.weight.data.mul_(1.1))
    served = origin_of(load_base(str(base), "nf4"), load_tokenizer(str(base)))
    origin = read_origin(trained.folder / "adapter_model.safetensors")
    assert kinship(origin, served) is Kinship.OTHER_BASE
