"""Vocabularies that grammars are compiled for."""

from __future__ import annotations

import pytest

from lorikeet_server.engine.guided import Lexicon
from tests.server.engine.forms import demo_lexicon, tiny_lexicon


@pytest.fixture(scope="package")
def lexicon() -> Lexicon:
    """The demo's."""
    return demo_lexicon()[1]


@pytest.fixture(scope="package")
def tiny() -> Lexicon:
    """One token a byte."""
    return tiny_lexicon()
