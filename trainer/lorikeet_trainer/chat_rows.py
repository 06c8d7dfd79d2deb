"""Conversations to rows: rendered through the base's chat template, tokenised and masked.

A conversation is rendered once up to each answer that is learned, as the server renders a prompt, and
once including it. Rows go in waves, the first answers of all, then the second ones, so that each wave
is one call of the tokenizer, and a row that is full already costs nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lorikeet_trainer.encoding import Ids
from lorikeet_trainer.example import Chat, Message, Tools
from lorikeet_trainer.finding import RowFinding
from lorikeet_trainer.row import Row, Turn
from lorikeet_trainer.template import Template, TemplateRefused
from lorikeet_trainer.workbench import Workbench, template_refuses


@dataclass(slots=True)
class _Growing:
    """A conversation whose answers are found one after another."""

    chat: Chat
    answers: list[int]  # indices of the messages that are still to be learned
    ids: Ids = ()
    turns: list[Turn] = field(default_factory=list)
    last: str = ""  # the text of the last one found; none for a tool call


def make_chat_rows(bench: Workbench, chats: Sequence[Chat]) -> list[Row | RowFinding]:
    """A row or a finding for each; nothing for one of which no answer fits."""
    made: list[Row | RowFinding] = []
    growing = []
    for chat in chats:
        refusal = untaken(bench.template, chat.line, "messages", chat.messages, chat.tools)
        if refusal is None:
            answers = [index for index, message in enumerate(chat.messages) if message.is_learned]
            growing.append(_Growing(chat, answers))
        else:
            made.append(refusal)
    while growing:
        refused, growing = _wave(bench, growing)
        made += refused
        made += [_finish(bench, each) for each in growing if not each.answers and each.turns]
        growing = [each for each in growing if each.answers]
    return made


def untaken(
    template: Template, line: int, where: str, messages: Iterable[Message], tools: Tools
) -> RowFinding | None:
    """What the row has and the base's template leaves out, refused by name."""
    found = None
    if tools and not template.takes("tools"):
        found = where.rpartition(".")[0] + ".tools" if "." in where else "tools", "tools"
    for index, each in enumerate(messages):
        if found is not None:
            break
        if each.tool_calls and not template.takes("tool_calls"):
            found = f"{where}[{index}].tool_calls", "tool calls"
        elif each.role == "tool" and not template.takes("tool"):
            found = f"{where}[{index}].role", "turns of the role tool"
    if found is None:
        return None
    message = f"the base's chat template leaves {found[1]} out of the text"
    fix = "choose a base whose template takes them, or train without"
    return RowFinding(line, found[0], "template_without_tools", message, fix)


def _wave(bench: Workbench, growing: Sequence[_Growing]) -> tuple[list[RowFinding], list[_Growing]]:
    """Adds the next answer to each, or refuses it."""
    refused: list[RowFinding] = []
    rendered: list[tuple[_Growing, int]] = []
    texts: list[str] = []
    for each in growing:
        index = each.answers.pop(0)
        try:
            texts += _prompt_and_whole(bench, each.chat, index)
            rendered.append((each, index))
        except TemplateRefused as refusal:
            refused.append(template_refuses(each.chat.line, "messages", refusal))
    ids = iter(bench.encoder.rendered(texts))
    grown = []
    for each, index in rendered:
        finding = _grow(bench, each, index, next(ids), next(ids))
        if finding is None:
            grown.append(each)
        else:
            refused.append(finding)
    return refused, grown


def _prompt_and_whole(bench: Workbench, chat: Chat, index: int) -> tuple[str, str]:
    prompt = bench.template.render(chat.messages[:index], chat.tools, waiting=True)
    return prompt, bench.template.render(chat.messages[: index + 1], chat.tools, waiting=False)


def _grow(bench: Workbench, each: _Growing, index: int, prompt: Ids, whole: Ids) -> RowFinding | None:
    line, path = each.chat.line, f"messages[{index}].content"
    if prompt[: len(each.ids)] != each.ids:
        message = "the base's chat template rewrites earlier turns"
        fix = "write one row per answer, ending with it, or give earlier answers the weight 0"
        return RowFinding(line, path, "history_rewritten", message, fix)
    turn = bench.turn(line, path, prompt, whole)
    if isinstance(turn, RowFinding):
        return turn
    if turn.stop > bench.limit:
        kept = each.turns[-1].stop if each.turns else 0
        bench.leave_out(line, _length(bench, each, turn.stop), kept)
        each.answers.clear()
        return None
    each.turns.append(turn)
    answer = each.chat.messages[index]
    each.ids, each.last = whole, "" if answer.tool_calls else answer.content
    return None


def _length(bench: Workbench, each: _Growing, so_far: int) -> int:
    """Tokens of the whole conversation, which was given up on the way."""
    if not each.answers:
        return so_far
    try:
        text = bench.template.render(each.chat.messages, each.chat.tools, waiting=False)
    except TemplateRefused:
        return so_far
    return len(bench.encoder.rendered([text])[0])


def _finish(bench: Workbench, each: _Growing) -> Row:
    last = each.turns[-1]
    ids = each.ids[: last.stop]
    answer = each.last or bench.renderer.tokenizer.decode(list(ids[last.start :]), skip_special_tokens=True)
    return Row(each.chat.line, ids, tuple(each.turns), answer)
