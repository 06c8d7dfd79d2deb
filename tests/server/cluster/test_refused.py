"""What `--ray` cannot do is refused before anything is loaded, with a way to mend it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lorikeet_adapters.errors import RefusedError
from lorikeet_server.checks import check_cluster
from lorikeet_server.config import ClusterConfig, HttpConfig, RequestLogConfig, ServerConfig

WITHOUT_RAY = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "ray" else found(name, *rest)
from lorikeet_server.cli import main
main()
"""


def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-c",
        WITHOUT_RAY,
        "serve",
        "--ray",
        "--port",
        "0",
        "--data-dir",
        str(tmp_path / "data"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "lorikeet: --ray needs Ray, which is not installed: pip install 'lorikeet[ray]'\n"
    assert not (tmp_path / "data").exists()


def test_the_routes_and_the_command_line_do_not_import_ray() -> None:
    code = "import lorikeet_server.cli, lorikeet_server.api.app, lorikeet_server.cluster.door, sys; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (ServerConfig(cluster=ClusterConfig(ray_address="auto")), "--ray-address"),
        (ServerConfig(cluster=ClusterConfig(max_replicas=3)), "--max-replicas"),
        (
            ServerConfig(cluster=ClusterConfig(ray=True), log=RequestLogConfig(request_log=True)),
            "--request-log",
        ),
        (
            ServerConfig(cluster=ClusterConfig(ray=True, ray_address="auto"), http=HttpConfig(port=0)),
            "--port 0",
        ),
    ],
)
def test_flags_that_contradict_each_other(config: ServerConfig, word: str) -> None:
    with pytest.raises(RefusedError, match=word):
        check_cluster(config)
