"""Rows outside any chat template: here the tokenizer adds what starts a text, if anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lorikeet_trainer.encoding import Ids
from lorikeet_trainer.example import Completion, Labelled, Text
from lorikeet_trainer.finding import RowFinding
from lorikeet_trainer.row import Row, Turn
from lorikeet_trainer.workbench import Workbench

LEAST_TEXT = 3  # tokens: one to begin with, one to learn, and the end


def make_completion_rows(
    bench: Workbench, examples: Sequence[Completion]
) -> Iterator[Row | RowFinding | None]:
    prompts = bench.encoder.plain([each.prompt for each in examples])
    wholes = bench.encoder.plain([each.prompt + each.completion for each in examples])
    for each, prompt, whole in zip(examples, prompts, wholes, strict=True):
        yield _answered(bench, (each.line, "completion"), prompt, whole, each.completion)


def make_labelled_rows(bench: Workbench, examples: Sequence[Labelled]) -> Iterator[Row | RowFinding | None]:
    """A label is tokenised by itself, so that it is the same tokens whatever text it follows."""
    prompts = bench.encoder.plain([each.text for each in examples])
    labels = bench.encoder.rendered([each.label for each in examples])
    for each, prompt, label in zip(examples, prompts, labels, strict=True):
        yield _answered(bench, (each.line, "label"), prompt, prompt + label, each.label)


def make_text_rows(bench: Workbench, examples: Sequence[Text]) -> Iterator[Row | RowFinding]:
    """Every token is learned but the first, which has nothing before it to be predicted from."""
    for each, ids in zip(examples, bench.encoder.plain([each.text for each in examples]), strict=True):
        has_end = ids[-1:] and ids[-1] in bench.renderer.ends
        ended = ids if has_end else bench.ended(each.line, "text", ids)
        if isinstance(ended, RowFinding):
            yield ended
        elif len(ended) < LEAST_TEXT:
            message = "the text has no token that can be learned"
            yield RowFinding(each.line, "text", "no_learned_token", message, "drop the row or write more")
        else:
            yield _text_row(bench, each.line, ended)


def _text_row(bench: Workbench, line: int, ids: Ids) -> Row:
    """Text may be cut anywhere: its end is only learned where it is seen."""
    if len(ids) > bench.limit:
        bench.leave_out(line, len(ids), kept=bench.limit)
        ids = ids[: bench.limit]
    answer = bench.renderer.tokenizer.decode(list(ids[1:]), skip_special_tokens=True)
    return Row(line, ids, (Turn(1, len(ids)),), answer)


def _answered(
    bench: Workbench, place: tuple[int, str], prompt: Ids, whole: Ids, answer: str
) -> Row | RowFinding | None:
    line, path = place
    ended = bench.ended(line, path, whole)
    if isinstance(ended, RowFinding):
        return ended
    turn = bench.turn(line, path, prompt, ended)
    if isinstance(turn, RowFinding):
        return turn
    if turn.stop > bench.limit:
        bench.leave_out(line, turn.stop)
        return None
    return Row(line, ended[: turn.stop], (turn,), answer)
