"""What is to be said of a file as a whole: rows that repeat, do not fit, are too few or too alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.finding import MOST_SHOWN, RowFinding, Severity
from lorikeet_trainer.row import Pair, Row
from lorikeet_trainer.workbench import Overlong

MOST_UNEQUAL = 10  # rows of the commonest label for each of the rarest


def few_rows(usable: int, least: int) -> Iterator[RowFinding]:
    if usable < least:
        message = f"{usable} usable rows, the least is {least}"
        yield RowFinding(0, "", "too_few_rows", message, "add rows; a few dozen good ones are a start")


def overlong_rows(overlong: Sequence[Overlong], limit: int, *, may_cut: bool) -> Iterator[RowFinding]:
    """One for each row."""
    for each in overlong:
        length = f"the row has {each.tokens} tokens, the limit is {limit}"
        if not may_cut:
            fix = "shorten it; what is judged is never cut"
            yield RowFinding(each.line, "", "too_long", length, fix)
            continue
        done = f"it is cut after {each.kept}" if each.kept else "it is left out, as no answer fits"
        fix = "shorten it, or allow longer rows where the base's context does"
        yield RowFinding(each.line, "", "too_long", f"{length}: {done}", fix, Severity.WARNING)


def truncation(overlong: Sequence[Overlong], rows: int, kept_tokens: int) -> Iterator[RowFinding]:
    """What all of them together cost."""
    if not overlong:
        return
    left_out = sum(not each.kept for each in overlong)
    lost = sum(each.tokens - each.kept for each in overlong)
    share_rows = 100 * len(overlong) / rows
    share_tokens = 100 * lost / (kept_tokens + lost)
    message = (
        f"{len(overlong)} of {rows} rows ({share_rows:.1f} %) are too long: {len(overlong) - left_out} cut, "
        f"{left_out} left out, {share_tokens:.1f} % of all tokens lost; the longest has "
        f"{max(each.tokens for each in overlong)} tokens"
    )
    fix = "shorten or split them, or allow longer rows where the base's context does"
    yield RowFinding(0, "", "truncation", message, fix, Severity.WARNING)


def duplicates(rows: Iterable[Row | Pair]) -> Iterator[RowFinding]:
    first: dict[object, int] = {}
    for row in rows:
        earlier = first.setdefault(_content(row), row.line)
        if earlier != row.line:
            fix = "remove it, unless it is meant to count twice"
            yield RowFinding(row.line, "", "duplicate", f"the same as line {earlier}", fix, Severity.WARNING)


def imbalance(rows: Iterable[Row], labels: Sequence[str]) -> Iterator[RowFinding]:
    """Of a classification. A label that no row has is the rarest of all."""
    counts = Counter(dict.fromkeys(labels, 0))
    counts.update(row.answer for row in rows)
    if not counts:
        return
    fix = "add rows of the rare one, or drop some of the common one"
    (common, most), (rare, least) = counts.most_common(1)[0], counts.most_common()[-1]
    if len(counts) == 1:
        message = f"every row has the label {common[:MOST_SHOWN]!r}"
        yield RowFinding(0, "label", "imbalance", message, "add rows of other labels", Severity.WARNING)
    elif most > MOST_UNEQUAL * least:
        message = f"{most} rows are {common[:MOST_SHOWN]!r}, {least} are {rare[:MOST_SHOWN]!r}"
        yield RowFinding(0, "label", "imbalance", message, fix, Severity.WARNING)


def double_starts(rows: Iterable[Row | Pair], start: int | None) -> Iterator[RowFinding]:
    """Rows that begin with two begin-of-text tokens: the file spells one out, the tokenizer adds its own."""
    for row in rows:
        ids = row.prompt if isinstance(row, Pair) else row.input_ids
        if start is not None and ids[:2] == (start, start):
            message = "the row begins with two begin-of-text tokens"
            fix = "remove the one that stands in the text"
            yield RowFinding(row.line, "", "double_bos", message, fix, Severity.WARNING)


def overlap(training: Dataset, held_out: Dataset) -> tuple[RowFinding, ...]:
    """Warnings about rows of `held_out` that are trained on too: they measure memory, not skill."""
    known = {_content(row): row.line for row in training.contents}
    found = []
    for row in held_out.contents:
        line = known.get(_content(row))
        if line is not None:
            message = f"the same as line {line} of {training.name}, which is trained on"
            fix = "keep it in one of the two files"
            found.append(RowFinding(row.line, "", "overlap", message, fix, Severity.WARNING))
    return tuple(found)


def _content(row: Row | Pair) -> object:
    return row.input_ids if isinstance(row, Row) else (row.prompt, row.chosen, row.rejected)
