"""Result files as pictures a person can read without the code. Needs matplotlib: `lorikeet[bench]`.

Each picture says in its title what is better, and in its footer what was measured where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lorikeet_bench.circumstances import CLIENT, machine_facts, server_facts
from lorikeet_bench.label import ADAPTER, BASE, BLEND, MERGED, MERGED_16, MIXED, PEFT, TRANSFORMERS, Label

mpl.use("Agg")
Document = Mapping[str, Any]
Paint = Callable[[Axes, Document], bool]
SIZE = (8.0, 4.8)  # inches
DPI = 130
# Okabe and Ito's colours, told apart by the colour-blind too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def draw(name: str, document: Document, folder: Path) -> tuple[Path, ...]:
    """Write every picture this result has into `folder`, as `name`-what.png."""
    written = []
    for what, paint in pictures(document):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        if not paint(axes, document):
            continue
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        figure.supxlabel(footer(document), fontsize=7, color="#555555")
        path = folder / f"{name}-{what}.png"
        figure.savefig(path, dpi=DPI)
        written.append(path)
    return tuple(written)


def footer(document: Document) -> str:
    """Model, machine, date; what a number means nothing without."""
    get, side = document.get, CLIENT if "url" in document else ""
    parts = [
        str(get("model_id") or get("url")),
        f"held as {get('quantization')}" if get("quantization") else "",
        server_facts(document) if side else "",
        machine_facts(document),
        f"torch {get(f'{side}torch_version')}",
        str(get("date"))[:10],
        f"commit {(get(f'{side}commit') or 'unknown')[:12]}",
    ]
    return " | ".join(part for part in parts if part)


def pictures(document: Document) -> Iterator[tuple[str, Paint]]:
    """What can be drawn of a result, by name."""
    yield from PICTURES.get(document["benchmark"], {}).items()
    if document["benchmark"] == "latency":
        for batch in sorted({row["batch"] for row in document["results"]}):
            yield f"batch-{batch}", partial(time_per_token, batch=batch)


def time_per_token(axes: Axes, document: Document, batch: int) -> bool:
    """One bar an arm, each round a dot; the base and the merged weights first."""
    rows = [row for row in document["results"] if row["batch"] == batch]
    base = next(row["median_tpot_ms"] for row in rows if row["arm"] == "base")
    for place, row in enumerate(rows):
        colour = COLOURS[ARMS.index(row["arm"])]
        axes.barh(place, row["median_tpot_ms"], 0.7, color=colour, alpha=0.75)
        axes.plot(row["samples_tpot_ms"], [place] * len(row["samples_tpot_ms"]), ".", color="#333333", ms=3)
    axes.axvline(base, color="#555555", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [_arm(row) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("time per token, ms; bars are medians, dots are rounds, the dotted line is the base")
    axes.set_title(f"Time per token at batch {batch}: shorter is better")
    return True


def overhead_by_rank(axes: Axes, document: Document) -> bool:
    """What one unmerged adapter adds, over ranks and batch sizes."""
    rows = [row for row in document["results"] if row["arm"] == "adapter"]
    if len({row["rank"] for row in rows}) < 2:
        return False
    for place, batch in enumerate(sorted({row["batch"] for row in rows})):
        mine = sorted((row for row in rows if row["batch"] == batch), key=lambda row: row["rank"])
        xs, key = [row["rank"] for row in mine], "tpot_ratio_to_merged"
        axes.plot(xs, [row[key] for row in mine], marker="o", color=COLOURS[place], label=f"batch {batch}")
        lows, highs = ([row[f"{key}_{end}"] for row in mine] for end in ("low", "high"))
        axes.fill_between(xs, lows, highs, color=COLOURS[place], alpha=0.15)
    axes.axhline(1.0, color="#555555", linewidth=0.8)
    axes.set_xscale("log", base=2)
    ranks = sorted({row["rank"] for row in rows})
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.set_xlabel("rank of the adapter")
    axes.set_ylabel("time per token, adapter / merged")
    axes.set_title("What not merging costs: 1.0 is free, lower is better")
    _legend(axes)
    return True


def throughput_by_adapters(axes: Axes, document: Document) -> bool:
    """Tokens a second of a batch over the number of distinct adapters in it."""
    drawn = False
    # Every arm of a set has its first adapter; adapters of one set may differ in rank.
    for place, first in enumerate(sorted({row["ranks"][0] for row in document["results"] if row["ranks"]})):
        for batch in sorted({row["batch"] for row in document["results"]}):
            rows = [
                row
                for row in document["results"]
                if row["batch"] == batch
                and (
                    row["arm"] == "base" or (row["arm"] in ("adapter", "mixed") and row["ranks"][0] == first)
                )
            ]
            if len(rows) < 3:
                continue
            rows.sort(key=lambda row: row["adapters"])
            counts = [row["adapters"] for row in rows]
            values = [row["output_throughput"] for row in rows]
            axes.plot(
                counts, values, marker="o", color=COLOURS[place], label=f"rank {_ranks(rows)}, batch {batch}"
            )
            drawn = True
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("distinct adapters in the batch; 0 is the base")
    axes.set_ylabel("tokens per second")
    axes.set_ylim(bottom=0)
    axes.set_title("Many adapters in one batch: higher is better")
    _legend(axes)
    return drawn


def percentiles(axes: Axes, document: Document) -> bool:
    """How the latencies of a serving run are distributed."""
    for place, (key, label) in enumerate(
        (("ttft", "first token"), ("tpot", "per token"), ("e2el", "whole answer"))
    ):
        values = sorted(document[f"samples_{key}_ms"])
        shares = [100 * (index + 1) / len(values) for index in range(len(values))]
        axes.plot(values, shares, color=COLOURS[place], label=label)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("percent of answers at most this slow")
    loop = (
        f"{document['max_concurrency']} at once"
        if document["request_rate"] == "inf"
        else f"{document['request_rate']:g} requests a second"
    )
    axes.set_title(f"Latency over HTTP, {loop}: further left is better")
    _legend(axes)
    return True


def scale(axes: Axes, document: Document) -> bool:
    """Throughput over the number of adapters that requests may name, with and without eviction."""
    for place, (arm, label) in enumerate(
        (("all", "rows for all"), ("few", "rows for a few, the rest evicted"))
    ):
        rows = sorted((row for row in document["results"] if row["arm"] == arm), key=lambda row: row["names"])
        if rows:
            names = [row["names"] for row in rows]
            values = [row["output_throughput"] for row in rows]
            axes.plot(names, values, marker="o", color=COLOURS[place], label=label)
    axes.set_xscale("log")
    counts = sorted({row["names"] for row in document["results"]})
    axes.set_xticks(counts, [str(count) for count in counts], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("adapters that requests may name")
    axes.set_ylabel("tokens per second")
    axes.set_title("Zipf traffic over ever more adapters: higher is better, flat is free")
    _legend(axes)
    return True


def swap(axes: Axes, document: Document) -> bool:
    """Every round as a dot, the medians as bars."""
    names = [row["figure"] for row in document["results"]]
    for place, row in enumerate(document["results"]):
        axes.bar(place, row["median_ms"], 0.6, color=COLOURS[place], alpha=0.6)
        axes.plot(
            [place] * len(row["samples_ms"]), row["samples_ms"], "o", color=COLOURS[place], markersize=3
        )
    axes.set_xticks(range(len(names)), [SWAP_NAMES[name] for name in names], fontsize=8)
    axes.set_ylabel("milliseconds")
    axes.set_title("An adapter comes: what it waits for, and whom it delays; lower is better")
    return True


def fidelity(axes: Axes, document: Document) -> bool:
    """Mean KL by arm and form, on a logarithmic axis."""
    forms = list(dict.fromkeys(row["quantization"] for row in document["results"]))
    arms = list(dict.fromkeys(row["arm"] for row in document["results"]))
    found = {(row["arm"], row["quantization"]): row["mean_kl"] for row in document["results"]}
    width = 0.8 / len(arms)
    for place, arm in enumerate(arms):
        lefts = [group - 0.4 + (place + 0.5) * width for group in range(len(forms))]
        axes.bar(lefts, [found[arm, form] for form in forms], width * 0.92, color=COLOURS[place], label=arm)
    axes.set_yscale("log")
    axes.set_xticks(range(len(forms)), forms)
    axes.set_ylabel("mean KL from the exact adapter, nats")
    axes.set_title("How far the outputs move: lower is better")
    _legend(axes)
    return True


SWAP_NAMES = {
    "read": "file to\nhost tensors",
    "cold": "first token,\non disk",
    "warm": "first token,\non device",
    "gap": "others' gap,\nusual",
    "beside": "longest,\nnewcomer\non device",
    "stall": "longest,\nnewcomer\non disk",
}
ARMS = (BASE, MERGED, ADAPTER, BLEND, MIXED, MERGED_16, PEFT, TRANSFORMERS)  # in the order of the colours
PICTURES: Mapping[str, Mapping[str, Paint]] = {
    "latency": {
        "overhead-by-rank": overhead_by_rank,
        "throughput-by-adapters": throughput_by_adapters,
    },
    "serving": {"latency": percentiles},
    "scale": {"names": scale},
    "swap": {"swap": swap},
    "fidelity": {"kl": fidelity},
}


def _arm(row: Mapping[str, Any]) -> str:
    return str(Label(row["arm"], tuple(row["ranks"])))


def _ranks(rows: Sequence[Mapping[str, Any]]) -> str:
    ranks = [rank for row in rows for rank in row["ranks"]]
    return str(ranks[0]) if min(ranks) == max(ranks) else f"{min(ranks)} to {max(ranks)}"


def _legend(axes: Axes) -> None:
    axes.grid(axis="y", alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, fontsize=8, frameon=False)
