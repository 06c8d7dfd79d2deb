"""Results as tables for people. Programs get the same values as JSON."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from lorikeet_trainer.confusion import LabelScores
from lorikeet_trainer.demo_evaluation import DemoReport
from lorikeet_trainer.preference import PreferenceScores
from lorikeet_trainer.scores import Scores

RATES = ("precision", "recall", "f1")


def scores_table(scores: Iterable[Scores], title: str) -> Table:
    table = _titled(title)
    table.add_column("model")
    for heading in ("exact match", "valid JSON", "stopped", "loss", "perplexity"):
        table.add_column(heading, justify="right")
    for each in scores:
        validity = "-" if each.json_validity is None else _percent(each.json_validity)
        table.add_row(
            each.name,
            _percent(each.exact_match),
            validity,
            _percent(each.stop_rate),
            f"{each.loss:.3f}",
            f"{each.perplexity:.2f}",
        )
    return table


def labels_table(scores: Iterable[LabelScores]) -> Table:
    table = _titled("labels, each row taken for the likeliest")
    table.add_column("model")
    headings = ("accuracy", *(f"{kind} {rate}" for kind in ("macro", "micro") for rate in RATES))
    for heading in headings:
        table.add_column(heading, justify="right")
    for each in scores:
        rates = [getattr(kind, rate) for kind in (each.macro, each.micro) for rate in RATES]
        table.add_row(each.name, *map(_percent, (each.accuracy, *rates)))
    return table


def confusion_table(scores: LabelScores) -> Table:
    """Rows are what it is, columns what it was taken for."""
    table = _titled(f"{scores.name}: rows by label, columns by what they were taken for")
    table.add_column("label")
    for each in scores.classes:
        table.add_column(escape(each.label), justify="right")
    for heading in RATES:
        table.add_column(heading, justify="right")
    for each, counts in zip(scores.classes, scores.confusion, strict=True):
        rates = [_percent(getattr(each.rates, rate)) for rate in RATES]
        table.add_row(escape(each.label), *map(str, counts), *rates)
    return table


def preferences_table(scores: Iterable[PreferenceScores], title: str) -> Table:
    table = _titled(title)
    table.add_column("model")
    for heading in ("prefers the chosen", "reward accuracy", "reward margin"):
        table.add_column(heading, justify="right")
    for each in scores:
        accuracy = "-" if each.reward_accuracy is None else _percent(each.reward_accuracy)
        margin = "-" if each.reward_margin is None else f"{each.reward_margin:+.3f}"
        table.add_row(each.name, _percent(each.preferred), accuracy, margin)
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
