"""Results as tables for people. Programs get the same values as JSON."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from lorikeet_trainer.demo_evaluation import DemoReport
from lorikeet_trainer.scores import Scores


def scores_table(scores: Iterable[Scores], title: str) -> Table:
    table = _titled(title)
    table.add_column("model")
    for heading in ("exact match", "valid JSON", "stopped", "logprob/token", "perplexity"):
        table.add_column(heading, justify="right")
    for each in scores:
        validity = "-" if each.json_validity is None else _percent(each.json_validity)
        table.add_row(
            each.name,
            _percent(each.exact_match),
            validity,
            _percent(each.stop_rate),
            f"{each.logprob:.3f}",
            f"{each.perplexity:.2f}",
        )
    return table


def tasks_table(report: DemoReport) -> Table:
    table = _titled(f"solved of {report.rows} held-out messages")
    for heading in ("task", "base", "adapter"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for each in report.tasks:
        table.add_row(each.task, _percent(each.base), _percent(each.adapter))
    return table


def dial_table(report: DemoReport) -> Table:
    table = _titled("formal against friendly reply, log-probability a token")
    for heading in ("formal", "friendly", "margin"):
        table.add_column(heading, justify="right")
    for point in report.dial:
        table.add_row(f"{point.formal:g}", f"{point.friendly:g}", f"{point.margin:+.3f}")
    return table


def _titled(title: str) -> Table:
    """As wide as its title, which would else be broken over the columns."""
    return Table(title=title, title_justify="left", min_width=len(title))


def _percent(value: float) -> str:
    return f"{value:.1%}"
