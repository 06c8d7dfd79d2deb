"""What `--model` can mean, decided without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from lorikeet_adapters.base_source import check_source
from lorikeet_adapters.errors import BaseModelRefused
from tests.adapters.hub import Repo, run_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the hub, offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cache(hub: Path, repo: str) -> None:
    """The hub's own layout: refs/main names a commit, whose snapshot holds the files."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")


@pytest.mark.parametrize("source", ["gpt2", "Qwen/Qwen2.5-0.5B"])
def test_a_hub_id_is_served_from_the_cache_with_or_without_an_owner(hub: Path, source: str) -> None:
    with pytest.raises(BaseModelRefused) as refused:
        check_source(source)
    for part in (f"no folder `{source}` here", f"no model `{source}` in the hub's cache", "HF_HUB_OFFLINE"):
        assert part in str(refused.value)
    cache(hub, source)
    check_source(source)


def test_online_the_hub_is_asked_once_and_shortly(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with run_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        served.repos["owner/name"] = Repo({"config.json": b"{}"})
        served.failing["owner/gated"] = (403, "GatedRepo")
        served.failing["owner/broken"] = (500, "")
        check_source("owner/name")
        for repo, why in (
            ("owner/nobody", "none either"),
            ("owner/gated", "gated"),
            ("owner/broken", "cannot be asked"),
        ):
            with pytest.raises(BaseModelRefused, match=why):
                check_source(repo)
        assert sum("/models/" in each for each in served.asked) == 4, served.asked
    with pytest.raises(BaseModelRefused, match="the hub cannot be asked"):  # nobody listens there any more
        check_source("owner/name")
    cache(hub, "owner/name")
    check_source("owner/name")


@pytest.mark.parametrize("source", ["./x", "/x", "~/x", "a/b/c", "../a/b", "a b", "", "-x", "x\0y"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(hub: Path, source: str) -> None:
    with pytest.raises(BaseModelRefused, match="neither a folder here nor a hub id"):
        check_source(source)


def test_a_folder_must_have_a_config(tmp_path: Path) -> None:
    with pytest.raises(BaseModelRefused, match="has no config"):
        check_source(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    check_source(str(tmp_path))
    with pytest.raises(BaseModelRefused, match="is a file"):
        check_source(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    "words",
    [
        ["--model", "nowhere/at/all"],
        ["--host", "0.0.0.0"],
        ["--data-dir", "file"],
        ["--device", "cuda:x"],
        ["--adapter", "formal"],
    ],
    ids=lambda words: words[0],
)
def test_a_cheap_refusal_comes_before_torch(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "file").write_text("")
    code = (
        "import sys; from lorikeet_server.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert end.code == 1\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--port", "0", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1
