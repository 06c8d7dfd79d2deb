"""A report on a data file for people. Programs get the same values as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lorikeet_trainer.estimate import Estimate
from lorikeet_trainer.report import Report
from lorikeet_trainer.sample import Sample

BAR = 40  # characters of the longest one


def shown(report: Report) -> Iterator[RenderableType]:
    yield _numbers(report)
    if report.lengths:
        yield _lengths(report)
    if report.labels:
        yield _labels(report)
    if report.sample is not None:
        yield sample_table(report.sample)


def sample_table(sample: Sample) -> Table:
    same = "the same tokens" if sample.same_prompt else "OTHER tokens"
    title = f"line {sample.line}: what is learned, beside what the server renders"
    table = Table("", "tokens", "text", title=title, title_justify="left", show_lines=True)
    for span in sample.spans:
        style = "bold green" if span.learned else ""
        table.add_row("learned" if span.learned else "read", str(span.tokens), Text(span.text, style))
    if sample.served is not None:
        table.add_row("server's prompt", same, Text(sample.served))
    return table


def _numbers(report: Report) -> Table:
    table = Table(show_header=False, title=report.name, title_justify="left")
    table.add_row("format", report.format or "unknown")
    table.add_row("rows", f"{report.rows:,}, {report.usable:,} of them usable")
    table.add_row("tokens", f"{report.tokens:,}, {report.learned_tokens:,} of them learned")
    table.add_row("longest", f"{report.longest:,} tokens; the limit is {report.limit:,}")
    if report.estimate is not None:
        table.add_row("training", _cost(report.estimate))
    return table


def _cost(cost: Estimate) -> str:
    steps = f"{cost.steps:,} steps of {cost.batch_size}, {cost.epochs:.1f} epochs"
    return f"{steps}; about {duration(cost.seconds)} and {_size(cost.bytes)} here"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _lengths(report: Report) -> Table:
    table = Table("tokens", "rows", "", title="lengths", title_justify="left")
    most = max(each.rows for each in report.lengths)
    for each in report.lengths:
        bar = "█" * -(-BAR * each.rows // most)
        table.add_row(f"up to {each.tokens:,}", f"{each.rows:,}", bar)
    return table


def _labels(report: Report) -> Table:
    table = Table("label", "rows", title="labels", title_justify="left")
    for label, rows in sorted(report.labels.items(), key=lambda each: (-each[1], each[0])):
        table.add_row(Text(label), f"{rows:,}")
    return table
