"""Which desk does the work of `lorikeet adapters`, and what it refuses in the words of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from lorikeet_adapters.errors import LorikeetError, RefusedError
from lorikeet_adapters.lock import holder_url
from lorikeet_adapters.store import CATALOGUE, open_store
from lorikeet_server.desk import Desk
from lorikeet_server.errors import http_error
from lorikeet_server.folder_desk import FolderDesk
from lorikeet_server.server_desk import ServerDesk, ServerRefused

# By the code of an error: where the command line says more about it.
ADVICE = {
    "model_not_found": "`lorikeet adapters list` shows adapters and aliases",
    "adapter_exists": "with --replace it becomes this adapter's",
    "adapter_incompatible": "`lorikeet adapters show` prints it",
    "generation_not_found": "`lorikeet adapters history` prints it",
}


@contextmanager
def open_desk(url: str, data_dir: Path, *, may_make: bool = False) -> Iterator[Desk]:
    """The server named, or the one that holds the data folder, or else the folder itself.

    With `may_make` a folder that is missing or empty becomes a data folder, and standard error says
    so: a server that runs elsewhere never sees what is put there. Raises RefusedError for any other
    that is none.
    """
    found = url or holder_url(data_dir)
    if found:
        with _in_our_words():
            yield ServerDesk(found)
        return
    fresh = may_make and (not data_dir.exists() or (data_dir.is_dir() and not any(data_dir.iterdir())))
    if not fresh and not (data_dir / CATALOGUE).is_file():
        why = "it has no catalogue" if data_dir.exists() else "it does not exist"
        raise RefusedError(
            f"{data_dir} is no data folder: {why}; name the server's with --data-dir, "
            "or a running server with --url"
        )
    with open_store(data_dir) as store, _in_our_words():
        if fresh:
            made = f"made the data folder {data_dir.resolve()}, which no server holds"
            typer.echo(f"{made}; a running one is named with --url, or its folder with --data-dir", err=True)
        yield FolderDesk(store)


@contextmanager
def open_trial_desk(model: str, url: str, data_dir: Path) -> Iterator[Desk]:
    """For `check` alone. Against a model that was named, or where there is no data folder, none is touched."""
    if model or not (url or data_dir.exists()):
        with TemporaryDirectory() as folder, open_store(Path(folder)) as store, _in_our_words():
            yield FolderDesk(store, model)
        return
    with open_desk(url, data_dir) as desk:
        yield desk


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Refusals are the same everywhere and name no route; here the command that helps is added."""
    try:
        yield
    except LorikeetError as error:
        code = error.code if isinstance(error, ServerRefused) else http_error(error).code
        if code not in ADVICE:
            raise
        raise RefusedError(f"{error} ({ADVICE[code]})") from error
