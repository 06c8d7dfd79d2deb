"""Adapters from a hub: the two files of one commit, through huggingface_hub, from a stand-in on this machine."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.hub import Fetch, is_repo, open_place, open_repo
from tests.adapters.hub import COMMIT, TOKEN, Hub, Repo, run_hub
from tests.adapters.uploads import CONFIG, GOOD, WEIGHTS, intake

REPO = "acme/support"
LIMIT = 1 << 20


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with run_hub() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield made


def fetch(
    folder: Path, repo: str = REPO, revision: str = "main", limit: int = LIMIT
) -> tuple[bytes, bytes, dict[str, str]]:
    """(config, weights, origin) of what came; and nothing of it stays."""
    with open_repo(repo, revision, intake(folder), limit) as files:
        assert isinstance(files.weights, io.BufferedReader)
        read = files.config, files.weights.read(), dict(files.origin)
    assert not list((folder / "incoming").iterdir())
    return read


def code(folder: Path, repo: str = REPO, revision: str = "main", limit: int = LIMIT) -> str:
    with pytest.raises(AdapterRefused) as caught:
        fetch(folder, repo, revision, limit)
    (finding,) = caught.value.findings
    assert finding.fix
    for secret in (TOKEN, str(folder), "Traceback", "127.0.0.1"):
        assert secret not in finding.sentence
    assert not list((folder / "incoming").iterdir())
    return finding.code


@pytest.mark.parametrize("large", [frozenset(), frozenset({"adapter_model.safetensors"})])
def test_a_revision_becomes_a_commit_and_two_files(tmp_path: Path, hub: Hub, large: frozenset[str]) -> None:
    extras = {"README.md": b"#", "optimizer.pt": b"\x80\x04."}
    hub.repos[REPO] = Repo({**extras, **GOOD}, large)
    origin = {"type": "hub", "repo": REPO, "revision": "main", "commit": COMMIT}
    assert fetch(tmp_path) == (CONFIG, WEIGHTS, origin)
    files = {each.rpartition("/")[2] for each in hub.asked if "/resolve/" in each}
    assert files == set(GOOD), "nothing else is fetched"
    assert all(COMMIT in each for each in hub.asked if "/resolve/" in each), "a branch may move meanwhile"
    assert fetch(tmp_path, revision=COMMIT)[2]["revision"] == COMMIT


@pytest.mark.safety("security 13")
def test_the_token_goes_to_the_hub_and_no_further(tmp_path: Path, hub: Hub) -> None:
    hub.repos[REPO] = Repo(GOOD, frozenset({"adapter_model.safetensors"}))
    fetch(tmp_path)
    assert hub.tokens == {"hub": {f"Bearer {TOKEN}"}, "cdn": {None}}


def test_without_a_token_none_is_sent(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    hub.repos[REPO] = Repo(GOOD)
    fetch(tmp_path)
    assert hub.tokens == {"hub": {None}}


def test_what_the_hub_does_not_have(tmp_path: Path, hub: Hub) -> None:
    hub.repos[REPO] = Repo(GOOD)
    hub.repos["acme/config-only"] = Repo({"adapter_config.json": CONFIG})
    hub.repos["acme/pickle"] = Repo({"adapter_config.json": CONFIG, "adapter_model.bin": b"\x80\x04."})
    hub.repos["acme/below"] = Repo({f"deep/{name}": content for name, content in GOOD.items()})
    assert code(tmp_path, "acme/nothing") == "hub_not_found"
    assert code(tmp_path, revision="v9") == "hub_not_found"
    assert code(tmp_path, "acme/config-only") == "missing_file"
    assert code(tmp_path, "acme/below") == "missing_file"
    assert code(tmp_path, "acme/pickle") == "pickle_only"
    assert not any("/resolve/" in each for each in hub.asked), "known before anything is fetched"


@pytest.mark.parametrize(
    ("status", "header", "expected"),
    [
        (403, "GatedRepo", "hub_forbidden"),
        (401, "GatedRepo", "hub_forbidden"),
        (403, "", "hub_forbidden"),
        (500, "", "hub_failed"),
        (418, "", "hub_failed"),
    ],
)
def test_what_the_hub_refuses(tmp_path: Path, hub: Hub, status: int, header: str, expected: str) -> None:
    hub.failing[REPO] = (status, header)
    assert code(tmp_path) == expected


def test_offline_or_unreachable(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert code(tmp_path) == "hub_unreachable"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert code(tmp_path) == "hub_offline"


def test_a_size_is_known_before_the_download(tmp_path: Path, hub: Hub) -> None:
    hub.repos[REPO] = Repo(GOOD, sizes={"adapter_model.safetensors": 10 << 40})
    assert code(tmp_path) == "too_large"
    assert not any("/resolve/" in each for each in hub.asked)


def test_a_size_that_the_hub_understates_is_bounded_all_the_same(tmp_path: Path, hub: Hub) -> None:
    name = "adapter_model.safetensors"
    hub.repos[REPO] = Repo({**GOOD, name: bytes(3 << 20)}, sizes={name: 100})
    assert code(tmp_path) == "too_large"


@pytest.mark.safety("security 8")
def test_other_bytes_than_the_listing_names_are_refused(tmp_path: Path, hub: Hub) -> None:
    name = "adapter_model.safetensors"
    hub.repos[REPO] = Repo(GOOD, frozenset({name}), digests={name: "0" * 64})
    assert code(tmp_path) == "hub_failed"


def test_a_hub_that_names_no_commit_is_refused(tmp_path: Path, hub: Hub) -> None:
    hub.repos[REPO] = Repo(GOOD, sha="../../etc")
    assert code(tmp_path) == "hub_failed"


@pytest.mark.safety("security 3")
@pytest.mark.parametrize("repo", ["http://169.254.169.254/x", "file:///etc", "org/a@http://h", "org/../..", "../x",
                                  "/etc", "org", "a/b/c", "org/", "org/na me", "org/a--b", "org/a.git", "", "a/\x00", "é/b", "org/x?y", "org/x#y"])  # fmt: skip
def test_a_name_that_is_none_is_refused_before_any_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo: str
) -> None:
    monkeypatch.setattr("lorikeet_adapters.hub.Child", None)
    assert code(tmp_path, repo) == "bad_repo"
    assert not is_repo(repo)


@pytest.mark.parametrize("revision", ["", "../../x", "a..b", "-x", "a b", "a?b", "a\n", "x" * 300])
def test_a_revision_that_is_none_is_refused_before_any_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    monkeypatch.setattr("lorikeet_adapters.hub.Child", None)
    assert code(tmp_path, revision=revision) == "bad_repo"


def test_a_hub_that_never_ends_is_left_at_the_deadline(tmp_path: Path, hub: Hub) -> None:
    release = threading.Event()
    hub.hold = lambda path: bool(release.wait(60)) and None
    hub.repos[REPO] = Repo(GOOD)
    with intake(tmp_path).scratch() as folder, Fetch(REPO, "main", folder, LIMIT) as running:
        with pytest.raises(AdapterRefused) as caught:
            running.wait(timeout=4)
        release.set()
    assert caught.value.findings[0].code == "hub_timeout"


def test_leaving_the_fetch_ends_its_process(tmp_path: Path, hub: Hub) -> None:
    reached, release = threading.Event(), threading.Event()

    def hold(path: str) -> None:
        reached.set()
        release.wait(60)

    hub.hold = hold
    hub.repos[REPO] = Repo(GOOD)
    with intake(tmp_path).scratch() as folder, Fetch(REPO, "main", folder, LIMIT):
        assert reached.wait(60)
    release.set()
    assert not list((tmp_path / "incoming").iterdir())


def test_a_place_is_a_folder_where_there_is_one(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.repos[REPO] = Repo(GOOD)
    with open_place(REPO, "main", intake(tmp_path), LIMIT) as files:
        assert files.origin["type"] == "hub"
    folder = tmp_path / "acme" / "support"
    folder.mkdir(parents=True)
    for name, content in GOOD.items():
        (folder / name).write_bytes(content)
    with open_place(REPO, "main", intake(tmp_path), LIMIT) as files:
        assert files.origin == {"type": "local", "path": "support"}
