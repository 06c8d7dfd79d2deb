"""Local folders: what lies below the root and is a regular file is read, nothing else."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.source import (
    CONFIG_FILE,
    MAX_CONFIG_BYTES,
    PICKLE_FILE,
    WEIGHTS_FILE,
    confine,
    open_folder,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one adapter below it, and another adapter outside."""
    for folder in (tmp_path / "root" / "mine", tmp_path / "outside"):
        folder.mkdir(parents=True)
        (folder / CONFIG_FILE).write_bytes(b"{}")
        (folder / WEIGHTS_FILE).write_bytes(b"weights")
    return tmp_path / "root"


def code(folder: Path) -> str:
    with pytest.raises(AdapterRefused) as caught, open_folder(folder):
        pass
    (finding,) = caught.value.findings
    assert str(folder.parent) not in finding.sentence, "no path of the server in a message"
    return finding.code


def confine_code(root: Path, path: str) -> str:
    with pytest.raises(AdapterRefused) as caught:
        confine(root, path)
    (finding,) = caught.value.findings
    assert str(root) not in finding.sentence.replace(repr(path), "")
    return finding.code


@pytest.mark.parametrize("path", ["mine", "./mine", "mine/", "mine/../mine", "nowhere/../mine"])
def test_a_folder_below_the_root(root: Path, path: str) -> None:
    folder = confine(root, path)
    assert folder == root / "mine"
    with open_folder(folder) as files:
        assert isinstance(files.weights, io.BufferedReader)
        assert (files.config, files.weights.read()) == (b"{}", b"weights")
        assert files.origin == {"type": "local", "path": "mine"}
    assert files.weights.closed


def test_an_absolute_path_counts_when_it_is_inside(root: Path) -> None:
    assert confine(root, str(root / "mine")) == root / "mine"


@pytest.mark.safety("security 7")
@pytest.mark.parametrize("path", ["..", "../outside", "mine/../../outside", "/", "/etc", "../root2"])
def test_a_path_that_leads_out(root: Path, path: str) -> None:
    (root.parent / "root2").mkdir()
    assert confine_code(root, path) == "outside_root"


def test_the_absolute_path_of_a_neighbour(root: Path) -> None:
    assert confine_code(root, str(root.parent / "outside")) == "outside_root"


@pytest.mark.safety("security 7")
def test_a_link_that_leads_out(root: Path) -> None:
    (root / "link").symlink_to(root.parent / "outside")
    assert confine_code(root, "link") == "outside_root"
    assert confine_code(root, "link/deeper") == "outside_root"


def test_a_link_that_stays_inside(root: Path) -> None:
    (root / "link").symlink_to(root / "mine")
    assert confine(root, "link") == root / "mine"


def test_a_root_that_is_a_link_itself(root: Path) -> None:
    (root.parent / "alias").symlink_to(root)
    assert confine(root.parent / "alias", "mine") == root / "mine"


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "loop", "loop/x", "x" * 300, "x/" * 3000])
def test_a_path_the_system_cannot_follow(root: Path, path: str) -> None:
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(AdapterRefused) as caught, open_folder(confine(root, path)):
        pass
    (finding,) = caught.value.findings
    assert finding.code == "no_folder"
    finding.sentence.encode()


@pytest.mark.safety("security 7")
@given(
    st.text(max_size=12)
    | st.lists(st.sampled_from(["..", ".", "mine", "x", "", "/"]), max_size=6).map("/".join)
)
def test_any_path_is_confined_or_refused(path: str) -> None:
    root = Path(__file__).resolve().parent
    try:
        folder = confine(root, path)
    except AdapterRefused:
        return
    assert folder == root or root in folder.parents


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file(root: Path, name: str) -> None:
    (root / "mine" / name).unlink()
    assert code(root / "mine") == "missing_file"


@pytest.mark.safety("security 7")
@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_linked_file_is_not_followed(root: Path, name: str) -> None:
    """Neither out of the root nor inside it: a link may change after the folder was confined."""
    (root / "mine" / name).unlink()
    (root / "mine" / name).symlink_to(root.parent / "outside" / name)
    assert code(root / "mine") == "missing_file"


@pytest.mark.safety("security 7")
@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_pipe_does_not_hold_the_reader_up(root: Path, name: str) -> None:
    (root / "mine" / name).unlink()
    os.mkfifo(root / "mine" / name)
    assert code(root / "mine") == "not_a_file"


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_folder_or_socket_in_a_files_place(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "mine" / name).unlink()
    (root / "mine" / name).mkdir()
    assert code(root / "mine") == "not_a_file"
    (root / "mine" / name).rmdir()
    monkeypatch.chdir(root / "mine")  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        assert code(root / "mine") == "missing_file"


def test_no_handle_stays_open_after_a_refusal(root: Path) -> None:
    (root / "mine" / WEIGHTS_FILE).unlink()
    os.mkfifo(root / "mine" / WEIGHTS_FILE)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        code(root / "mine")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.safety("security 4")
def test_a_pickle_is_named_and_not_opened(root: Path) -> None:
    (root / "mine" / WEIGHTS_FILE).rename(root / "mine" / PICKLE_FILE)
    assert code(root / "mine") == "pickle_only"


def test_a_pickle_beside_safetensors_is_ignored(root: Path) -> None:
    (root / "mine" / PICKLE_FILE).write_bytes(b"pickle")
    with open_folder(root / "mine") as files:
        assert files.weights.read() == b"weights"


def test_a_file_where_a_folder_should_be(root: Path) -> None:
    assert code(root / "mine" / CONFIG_FILE) == "no_folder"
    assert code(root / "nowhere") == "no_folder"


def test_a_config_without_end(root: Path) -> None:
    (root / "mine" / CONFIG_FILE).write_bytes(b" " * MAX_CONFIG_BYTES)
    with open_folder(root / "mine"):
        pass
    (root / "mine" / CONFIG_FILE).write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    assert code(root / "mine") == "too_large"
