"""Result files as one Markdown page: each table with its circumstances, pictures beside it if there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorikeet_bench.circumstances import CLIENT, machine_facts, server_facts
from lorikeet_bench.target import Standing

Document = Mapping[str, Any]
COLUMNS: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "latency": (
        ("batch", "batch", "{}"),
        ("arm", "arm", "{}"),
        ("ranks", "ranks", "{}"),
        ("adapters", "adapters", "{}"),
        ("TPOT ms", "median_tpot_ms", "{:.2f}"),
        ("tok/s", "output_throughput", "{:.1f}"),
        ("TTFT ms", "median_ttft_ms", "{:.1f}"),
        ("TPOT / base", "tpot_ratio_to_base", "{:.3f}"),
        ("TPOT / merged", "tpot_ratio_to_merged", "{:.3f}"),
        ("copy GB/s beside it", "median_bandwidth_gb_s", "{:.1f}"),
    ),
    "prefix": (
        ("mix", "mix", "{}"),
        ("TTFT fresh ms", "median_fresh_ttft_ms", "{:.2f}"),
        ("TTFT kept ms", "median_kept_ttft_ms", "{:.2f}"),
        ("fresh / kept", "ttft_ratio_fresh_to_kept", "{:.2f}"),
    ),
    "scale": (
        ("names", "names", "{}"),
        ("rows for", "arm", "{}"),
        ("tok/s", "output_throughput", "{:.1f}"),
        ("TTFT p50 ms", "p50_ttft_ms", "{:.1f}"),
        ("p99", "p99_ttft_ms", "{:.1f}"),
        ("asked for in a pass", "touched_a_pass", "{:.0f}"),
        ("back from memory in a pass", "returns_a_pass", "{:.0f}"),
        ("read in a pass", "loads_a_pass", "{:.0f}"),
        ("on the device after it", "resident_after", "{:.0f}"),
        ("tok/s over the first", "throughput_ratio", "{:.2f}"),
    ),
    "swap": (
        ("what", "figure", "{}"),
        ("median ms", "median_ms", "{:.1f}"),
        ("longest ms", "max_ms", "{:.1f}"),
    ),
    "fidelity": (
        ("arm", "arm", "{}"),
        ("held as", "quantization", "{}"),
        ("mean KL", "mean_kl", "{:.1e}"),
        ("p99 KL", "p99_kl", "{:.1e}"),
        ("top-1 the same", "top1_agreement", "{:.2%}"),
    ),
    "versus": (
        ("server", "url", "{}"),
        ("model", "model_id", "{}"),
        ("asked for", "models", "{}"),
        ("tok/s", "output_throughput", "{:.1f}"),
        ("TPOT ms", "median_tpot_ms", "{:.1f}"),
        ("TTFT ms", "median_ttft_ms", "{:.1f}"),
        ("failed", "failed", "{}"),
    ),
    "serving": (
        ("", "figure", "{}"),
        ("mean", "mean", "{:.1f}"),
        ("p50", "p50", "{:.1f}"),
        ("p90", "p90", "{:.1f}"),
        ("p95", "p95", "{:.1f}"),
        ("p99", "p99", "{:.1f}"),
    ),
}


def render(results: Mapping[str, Document], pictures: Mapping[str, Sequence[Path]]) -> str:
    """`results` and `pictures` by the file's name without its ending; pictures are named as they lie beside the page."""
    parts = ["# Benchmark results", ""]
    for name, document in results.items():
        parts += [
            f"## {name}: {document['benchmark']}",
            "",
            _circumstances(document),
            "",
            *_table(document),
            "",
        ]
        parts += [f"{each}.\n" for each in document.get("left_out", ())]
        if targets := document.get("targets"):
            parts += [*_targets(targets), ""]
        for picture in pictures.get(name, ()):
            parts += [f"![{picture.stem}]({picture.name})", ""]
    return "\n".join(parts)


def _table(document: Document) -> list[str]:
    columns = COLUMNS[document["benchmark"]]
    lines = [
        f"| {' | '.join(heading for heading, _, _ in columns)} |",
        f"|{'|'.join('---' if form == '{}' else '---:' for _, _, form in columns)}|",
    ]
    for row in _rows(document):
        cells = (_cell(row, key, form) for _, key, form in columns)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _rows(document: Document) -> Sequence[Mapping[str, Any]]:
    if document["benchmark"] != "serving":
        results: Sequence[Mapping[str, Any]] = document["results"]
        return results
    kinds = ("mean", "p50", "p90", "p95", "p99")
    return [
        {"figure": f"{name.upper()} ms", **{kind: document[f"{kind}_{name}_ms"] for kind in kinds}}
        for name in ("ttft", "tpot", "itl", "e2el")
    ]


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    """A ratio brings its interval."""
    if row.get(key) is None:
        return ""
    if isinstance(row[key], list):
        return "+".join(map(str, row[key]))
    text = form.format(row[key])
    if f"{key}_low" in row:
        text += f" [{form.format(row[f'{key}_low'])}, {form.format(row[f'{key}_high'])}]"
    return text


def _targets(targets: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| target | wanted | measured | |", "|---|---:|---:|---|"]
    for each in targets:
        measured = f"{each['value']:.3f} [{each['low']:.3f}, {each['high']:.3f}]"
        standing = f"**{each['standing']}**" if each["standing"] == Standing.MISSED else each["standing"]
        lines.append(f"| {each['name']} | {each['wanted']} | {measured} | {standing} |")
    return lines


def _circumstances(document: Document) -> str:
    get = document.get
    facts = []
    if get("model_id"):
        facts.append(f"`{get('model_id')}`" + (f" as {get('quantization')}" if get("quantization") else ""))
    if get("url"):
        facts.append(
            f"{get('url')}, {get('completed')} answers, {get('failed')} failed, "
            f"{get('request_throughput'):.2f} requests/s, {get('output_throughput'):.1f} tokens/s generated"
        )
        facts.append(server_facts(document))
    facts.append(machine_facts(document))
    side = CLIENT if get("url") else ""
    if get(f"{side}load_average") is not None:
        facts.append(f"load average {get(f'{side}load_average'):.1f} at the start")
    facts.append(f"torch {get(f'{side}torch_version')}, transformers {get(f'{side}transformers_version')}")
    facts.append(f"commit {(get(f'{side}commit') or 'unknown')[:18]}, {str(get('date'))[:10]}")
    return "; ".join(facts) + "."
