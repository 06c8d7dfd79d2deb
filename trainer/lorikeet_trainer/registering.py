"""A trained adapter's way to the name that requests use: through the running server, or its data folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.lock import holder_url
from lorikeet_server.desk import Place
from lorikeet_server.reception import open_desk


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the adapter goes. `url` empty is whoever holds the data folder, or else the folder itself."""

    name: str
    data_dir: Path
    url: str = ""
    replace: bool = False

    def refuse_taken(self) -> None:
        """Before any work is spent on it. Raises RefusedError when another adapter has the name."""
        if self.replace or not (self.url or self.data_dir.exists()):
            return
        with open_desk(self.url, self.data_dir, may_make=True) as desk:
            if any(record["id"] == self.name for record in desk.records()):
                raise RefusedError(
                    f"an adapter named {self.name} is registered; train its next generation with --replace, "
                    "or choose another name"
                )

    def register(self, folder: Path) -> str:
        """Returns the server's address, empty where none runs. Usable at once by its name. Raises RefusedError."""
        with open_desk(self.url, self.data_dir, may_make=True) as desk:
            desk.add(Place(str(folder)), self.name, self.replace, ())
        return self.url or holder_url(self.data_dir) or ""
