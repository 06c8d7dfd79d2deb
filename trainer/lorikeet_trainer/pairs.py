"""Preferences to pairs: one prompt, two answers, each checked as the answer of a row is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lorikeet_trainer.chat_rows import untaken
from lorikeet_trainer.encoding import Ids
from lorikeet_trainer.example import ChatPair, TextPair
from lorikeet_trainer.finding import RowFinding
from lorikeet_trainer.row import Pair
from lorikeet_trainer.template import TemplateRefused
from lorikeet_trainer.workbench import Workbench, template_refuses


def make_chat_pairs(bench: Workbench, examples: Sequence[ChatPair]) -> Iterator[Pair | RowFinding | None]:
    texts: list[str] = []
    rendered: list[ChatPair] = []
    for each in examples:
        refusal = _untaken(bench, each)
        if refusal is not None:
            yield refusal
            continue
        try:
            texts += _three_texts(bench, each)
            rendered.append(each)
        except TemplateRefused as refused:
            yield template_refuses(each.line, each.where, refused)
    ids = iter(bench.encoder.rendered(texts))
    for each in rendered:
        yield _pair(bench, each.line, each.names, (next(ids), next(ids), next(ids)))


def make_text_pairs(bench: Workbench, examples: Sequence[TextPair]) -> Iterator[Pair | RowFinding | None]:
    prompts = bench.encoder.plain([each.prompt for each in examples])
    chosen = bench.encoder.plain([each.prompt + each.chosen for each in examples])
    rejected = bench.encoder.plain([each.prompt + each.rejected for each in examples])
    names = ("chosen", "rejected")
    for each, prompt, better, worse in zip(examples, prompts, chosen, rejected, strict=True):
        ended = [bench.ended(each.line, name, ids) for name, ids in zip(names, (better, worse), strict=True)]
        refusal = next((ids for ids in ended if isinstance(ids, RowFinding)), None)
        whole = [ids for ids in ended if not isinstance(ids, RowFinding)]
        yield refusal or _pair(bench, each.line, names, (prompt, whole[0], whole[1]))


def _untaken(bench: Workbench, pair: ChatPair) -> RowFinding | None:
    template, line = bench.template, pair.line
    found = untaken(template, line, pair.where, pair.messages, pair.tools)
    for name, answer in zip(pair.names, (pair.chosen, pair.rejected), strict=True):
        found = found or untaken(template, line, name, (answer,), ())
    return found


def _three_texts(bench: Workbench, pair: ChatPair) -> list[str]:
    """The prompt, and it with each answer."""
    render, tools = bench.template.render, pair.tools
    answered = [(*pair.messages, answer) for answer in (pair.chosen, pair.rejected)]
    wholes = [render(messages, tools, waiting=False) for messages in answered]
    return [render(pair.messages, tools, waiting=True), *wholes]


def _pair(
    bench: Workbench, line: int, names: tuple[str, str], ids: tuple[Ids, Ids, Ids]
) -> Pair | RowFinding | None:
    prompt, *wholes = ids
    answers = []
    for name, whole in zip(names, wholes, strict=True):
        turn = bench.turn(line, name, prompt, whole)
        if isinstance(turn, RowFinding):
            return turn
        answers.append(whole[turn.start : turn.stop])
    chosen, rejected = answers
    if chosen == rejected:
        message = "both answers are the same tokens"
        return RowFinding(
            line, names[1], "same_answers", message, "drop the row; a preference is between two"
        )
    pair = Pair(line, prompt, chosen, rejected)
    if pair.longest > bench.limit:
        bench.leave_out(line, pair.longest)
        return None
    return pair
