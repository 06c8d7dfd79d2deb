"""What the rows of one file are made with."""

from __future__ import annotations

from dataclasses import dataclass, field

from lorikeet_trainer.encoding import Encoder, Ids
from lorikeet_trainer.finding import RowFinding
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.row import Pair, Row, Turn
from lorikeet_trainer.template import Template, TemplateRefused
from lorikeet_trainer.turns import find_turn

Made = Row | Pair | RowFinding


@dataclass(frozen=True, slots=True)
class Overlong:
    """A row of `tokens` tokens, of which `kept` fit; none when it was left out."""

    line: int
    tokens: int
    kept: int


@dataclass(frozen=True, slots=True)
class Workbench:
    """No row becomes longer than `limit`; what did not fit is written down in `overlong`."""

    renderer: Renderer
    encoder: Encoder
    template: Template
    limit: int
    overlong: list[Overlong] = field(default_factory=list)

    @classmethod
    def of(cls, renderer: Renderer, limit: int) -> Workbench:
        return cls(renderer, Encoder(renderer.tokenizer), Template(renderer.tokenizer), limit)

    def turn(self, line: int, field_: str, prompt: Ids, whole: Ids) -> Turn | RowFinding:
        return find_turn(line, field_, prompt, whole, self.renderer.ends)

    def ended(self, line: int, field_: str, ids: Ids) -> Ids | RowFinding:
        """Plain text with the end of a turn behind it."""
        eos = self.renderer.tokenizer.eos_token_id
        if eos is not None:
            return (*ids, eos)
        message = "the base's tokenizer names no end-of-turn token"
        fix = "choose a base whose tokenizer has an eos_token"
        return RowFinding(line, field_, "no_end_of_turn", message, fix)

    def leave_out(self, line: int, tokens: int, kept: int = 0) -> None:
        self.overlong.append(Overlong(line, tokens, kept))


def template_refuses(line: int, field_: str, refusal: TemplateRefused) -> RowFinding:
    message = f"the base's chat template refuses the conversation: {refusal}"
    fix = "order the roles as the template wants them"
    return RowFinding(line, field_, "template_refuses", message, fix)
