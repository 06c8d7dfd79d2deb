"""The arguments of a Serve configuration mean what flags mean, and are refused as flags are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lorikeet_adapters.errors import RefusedError
from lorikeet_server.cluster.arguments import read_arguments, rooted
from lorikeet_server.config import Console, HttpConfig, ModelConfig, ServerConfig
from lorikeet_server.keyring import Scope, add_key

FILE = Path(__file__).parents[3] / "deploy/ray/lorikeet.yml"
HERE = {"data-dir": "/srv/lorikeet"}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _has_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here needs it."""
    monkeypatch.setattr("lorikeet_server.checks.find_spec", lambda name: object())


def test_the_file_that_ships(tmp_path: Path) -> None:
    (application,) = yaml.safe_load(FILE.read_text())["applications"]
    keys = tmp_path / "keys.toml"
    add_key(keys, "first", [Scope.ADMIN], None)
    config = read_arguments({**application["args"], "api-keys": str(keys)})
    assert config.cluster.ray
    assert (config.cluster.replicas, config.cluster.most_replicas) == (2, 4)
    assert config.http.open_metrics
    assert config.adapters_root == config.data_dir / "adapters"


@pytest.mark.safety("security 16")
def test_the_console_is_off_unless_it_is_asked_for() -> None:
    assert not read_arguments(HERE).http.shows_console
    assert read_arguments({**HERE, "console": "on"}).http.console is Console.ON


@pytest.mark.safety("security 14")
def test_without_keys_the_door_is_for_the_machine_itself() -> None:
    assert read_arguments(HERE).http.is_open
    assert not read_arguments({**HERE, "insecure": True}).http.is_open


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ({"replica": 3}, "replica"),
        ({"insecure": "false"}, "insecure"),
        ({"cors-origin": "https://a.example"}, "cors-origin"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": "2"}, "replicas"),
        ({"api-keys": None}, "api-keys"),
        ({"console": True}, "console"),
        ({"host": "0.0.0.0"}, "http_options"),
        ({"adapter": ["a=b"]}, "over HTTP"),
        ({"request-log": True}, "request-log"),
        ({"api-keys": "/srv/keys.toml", "insecure": True}, "--insecure"),
        ({"data-dir": "lorikeet-data"}, "data-dir"),
        ({"adapters-root": "adapters"}, "adapters-root"),
        ({"device": "tpu"}, "tpu"),
        ({"model": "/no/such/folder"}, "/no/such/folder"),
        ({"cors-origin": ["nonsense"]}, "nonsense"),
    ],
)
def test_what_is_wrong_is_named(args: dict[str, Any], word: str) -> None:
    with pytest.raises(RefusedError, match=word):
        read_arguments({**HERE, **args})


def test_paths_of_a_command_are_those_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    config = ServerConfig(
        model=ModelConfig("base"), http=HttpConfig(api_keys="keys.toml"), data_dir=Path("data")
    )
    found = rooted(config, tmp_path)
    assert found.model.source == str(tmp_path / "base")
    assert found.http.api_keys == str(tmp_path / "keys.toml")
    assert (found.data_dir, found.adapters_root) == (tmp_path / "data", tmp_path)
    assert rooted(ServerConfig(), tmp_path).model.source == "demo"
