"""Forms that answers are held to in tests, and the demo with its four adapters to answer in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import numpy as np

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.mix import BASE_MIX, Mix, Term
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.constraint import Constraint, Grammar, Guide, Refusal
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.guided import Lexicon, compile_constraint, read_lexicon
from lorikeet_server.engine.offline import complete
from lorikeet_server.engine.request import FinishReason, Request, Sampling
from lorikeet_server.engine.roster import Vocabulary
from lorikeet_server.engine.tokenizer import Tokenizer, load_tokenizer
from lorikeet_server.stock import DEMO_ADAPTERS
from tests.server.engine.test_exactness import read_adapter
from tests.tiny import VOCABULARY, make_tokenizer

TICKET: dict[str, Any] = {
    "type": "object",
    "properties": {
        "order": {"type": "integer", "minimum": 10000, "maximum": 99999},
        "topic": {"enum": ["delivery", "damage", "billing", "Größe"]},
        "name": {"type": ["string", "null"], "minLength": 2, "maxLength": 8},
        "urgent": {"type": "boolean"},
        "score": {"type": "number", "minimum": 0, "exclusiveMaximum": 5},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
    },
    "required": ["order", "topic", "name", "urgent"],
    "additionalProperties": False,
}
SHAPES: dict[str, Any] = {
    "$defs": {
        "point": {
            "type": "array",
            "prefixItems": [{"type": "integer", "minimum": -9, "maximum": 9}, {"const": "é\n"}],
            "items": False,
            "minItems": 2,
        }
    },
    "anyOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": "dot"}, "at": {"$ref": "#/$defs/point"}},
            "required": ["kind", "at"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {
                "kind": {"const": "code"},
                "id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
            },
            "required": ["kind", "id"],
            "additionalProperties": False,
        },
    ],
}
CHOICES = ["yes", "yes, please", "no", 'ask "Zoë"\n']
NAMES = ("triage", "extract", "formal", "friendly")
MIXES = [
    *(Mix.of([Term(name, 1.0)]) for name in NAMES),
    Mix.of([Term("extract", 0.6), Term("formal", 0.7)]),
    BASE_MIX,
]
MESSAGES = [
    "Order 77941. The scooter arrived with a crack and a damaged part. Please reply soon. Yusuf",
    "Here is Leon with a question about order 54708. The helmet is the wrong size. Please help.",
    "Order 10386. The lamp never came. Please reply soon. Ada",
]


def demo_lexicon() -> tuple[Tokenizer, Lexicon]:
    tokenizer = load_tokenizer("demo")
    return tokenizer, read_lexicon(tokenizer, 1024)


def tiny_lexicon() -> Lexicon:
    """One token a byte."""
    return read_lexicon(Tokenizer(make_tokenizer(), frozenset({256})), VOCABULARY)


def grammar_for(constraint: Constraint, lexicon: Lexicon) -> Grammar:
    made = compile_constraint(constraint, lexicon)
    assert not isinstance(made, Refusal), made
    return made


def allowed(guide: Guide) -> np.ndarray:
    """Ids of the tokens that may come next."""
    found: np.ndarray = np.nonzero(
        np.unpackbits(np.frombuffer(guide.allowed(), np.uint8), bitorder="little")
    )[0]
    return found


def wander(guide: Guide, ends: tuple[int, ...], seed: int, most: int = 300) -> list[int] | None:
    """Any text of the form, by chance among what is allowed; None when it does not come to its end."""
    chance = np.random.default_rng(seed)
    tokens: list[int] = []
    for _ in range(most):
        choosable = allowed(guide)
        can_end = bool(np.isin(choosable, ends).any())
        if can_end and (np.isin(choosable, ends).all() or chance.random() < 0.5):
            return tokens
        tokens.append(int(chance.choice(choosable[~np.isin(choosable, ends)])))
        guide.accept(tokens[-1])
    return None


def follow(grammar: Grammar, text: str, lexicon: Lexicon) -> bool:
    """Whether the grammar lets this text through to its end, one token of the vocabulary after another."""
    guide = grammar.begin()
    for token in lexicon.tokenizer.tokenize_str(text):
        if token not in allowed(guide):
            return False
        guide.accept(token)
    return bool(set(lexicon.ends) & set(allowed(guide).tolist()))


def check_answer(text: str, form: object) -> None:
    """`form` is a schema or a list of choices."""
    if isinstance(form, list):
        assert text in form
    else:
        jsonschema.Draft202012Validator(form).validate(json.loads(text))


@dataclass
class Demo:
    """The demo in fp32 with a slot for each of eight rows."""

    engine: Engine
    tokenizer: Tokenizer
    lexicon: Lexicon
    grammars: dict[str, Grammar] = field(default_factory=dict)

    def request(
        self, name: str, number: int, mix: Mix, form: object = None, temperature: float = 1.0
    ) -> Request:
        chat = [{"role": "user", "content": MESSAGES[number % len(MESSAGES)]}]
        prompt = self.tokenizer.encode(self.tokenizer.render(chat))
        sampling = Sampling(max_tokens=400 if form else 40, temperature=temperature, seed=number)
        return Request(name, prompt, sampling, mix, grammar=self.grammar(form))

    def grammar(self, form: object) -> Grammar | None:
        if form is None:
            return None
        make = Constraint.choice if isinstance(form, list) else Constraint.json_schema
        key = json.dumps(form)
        if key not in self.grammars:
            self.grammars[key] = grammar_for(make(form), self.lexicon)  # type: ignore[arg-type]
        return self.grammars[key]

    def answers(self, requests: Iterable[Request]) -> dict[str, tuple[list[int], str, FinishReason]]:
        found = complete(self.engine, requests)
        assert not len(self.engine.runner.guides)
        return {
            name: (
                [each.token_id for each in tokens],
                "".join(each.text for each in tokens) + end.text,
                end.reason,
            )
            for name, (tokens, end) in found.items()
        }


@contextmanager
def open_demo() -> Iterator[Demo]:
    base = load_base("demo", "fp32")
    tokenizer, lexicon = demo_lexicon()
    adapters = {folder.name: read_adapter(folder, base) for folder in DEMO_ADAPTERS.iterdir()}
    engine = Engine(
        base, EngineConfig(max_slots=8), Vocabulary(tokenizer.decode, tokenizer.eos), adapters.__getitem__
    )
    yield Demo(engine, tokenizer, lexicon)
    engine.close()
