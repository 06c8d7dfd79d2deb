"""`lorikeet adapters compose`: a new adapter out of registered ones."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Annotated

import typer

from lorikeet_adapters.errors import MixRefused
from lorikeet_adapters.mix import Term, parse_mix
from lorikeet_adapters.recipe import MajoritySign, Method
from lorikeet_server.desk import Wire
from lorikeet_server.flags import DATA_DIR, DataDir, Json, Url
from lorikeet_server.reception import open_desk

composing = typer.Typer()


@composing.command()
def compose(
    name: Annotated[str, typer.Argument(help="The new adapter's name.")],
    parts: Annotated[
        list[str], typer.Argument(metavar="NAME:WEIGHT...", help="What it is made of, like `formal:0.7`.")
    ],
    method: Annotated[
        Method, typer.Option(help="cat is the exact sum; svd is that at a given rank.")
    ] = Method.CAT,
    density: Annotated[float, typer.Option(help="Share of values that pruning keeps.")] = 0.5,
    majority_sign: Annotated[MajoritySign, typer.Option(help="How ties elects a sign.")] = MajoritySign.TOTAL,
    rank: Annotated[int, typer.Option(help="svd's rank; 0 is the largest of the parts'.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Even if another adapter has NAME now.")] = False,
    data_dir: DataDir = DATA_DIR,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Combine registered adapters into a new one that is served like any other."""
    body: Wire = {
        "name": name,
        "method": method.value,
        "density": density,
        "majority_sign_method": majority_sign.value,
        "rank": rank,
        "replace": replace,
    }
    with open_desk(url, data_dir) as desk:
        known = {each["id"] for each in (*desk.records(), *desk.aliases())}
        body["adapters"] = [{"name": each.adapter, "weight": each.weight} for each in _terms(parts, known)]
        record = desk.compose(body)
    if as_json:
        typer.echo(json.dumps(record))
    else:
        typer.echo(f"{record['id']}  rank {record['rank']}  generation {record['generation'][:12]}")


def _terms(parts: list[str], known: Collection[str]) -> list[Term]:
    terms = [term for part in parts for term in parse_mix(part, known.__contains__)]
    if len(terms) != len(parts):
        raise MixRefused("write each part by itself, like `formal:0.7 friendly:0.3`")
    return terms
