"""Whatever decides how a prompt reaches the model changes a hash."""

from __future__ import annotations

from dataclasses import replace

from lorikeet_trainer.provenance import tokenizer_facts
from lorikeet_trainer.rendering import Renderer
from tests.trainer.conftest import TEMPLATE, make_tokenizer


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
