"""A folder appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorikeet_trainer.errors import OutputRefused
from lorikeet_trainer.output import whole_folder


def write(out: Path, *, fail: bool = False, appear: bool = False) -> None:
    """Write one file; on the way something fails, or somebody else makes the folder."""
    with whole_folder(out, force=fail) as folder:
        (folder / "new").touch()
        if appear:
            out.mkdir()
        if fail:
            raise ZeroDivisionError


def test_nothing_shows_before_the_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "adapter"
    with whole_folder(out) as folder:
        (folder / "file").write_text("new")
        assert not out.exists()
        assert folder.parent == out.parent  # the same file system, so the rename is one step
    assert (out / "file").read_text() == "new"
    assert list(out.parent.iterdir()) == [out]


def test_others_may_read_it(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "adapter") as folder:
        (folder / "file").touch(mode=0o600)
    assert (tmp_path / "adapter").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "adapter" / "file").stat().st_mode & 0o777 == 0o644


def test_force_replaces_the_whole_folder(tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    out.mkdir()
    (out / "old").touch()
    with whole_folder(out, force=True) as folder:
        (folder / "new").touch()
        assert (out / "old").exists()
    assert [path.name for path in out.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [out]


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(ZeroDivisionError):
        write(out, fail=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["adapter", "old"]


def test_a_folder_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    with pytest.raises(OutputRefused, match="exists"):
        write(out, appear=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["adapter"]


@pytest.mark.parametrize("force", [False, True])
def test_a_file_or_a_link_is_never_replaced(force: bool, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        with pytest.raises(OutputRefused, match="no folder"), whole_folder(tmp_path / name, force=force):
            pass


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputRefused, match="cannot be written"), whole_folder(tmp_path / "file" / "adapter"):
        pass
