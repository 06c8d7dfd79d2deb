"""The offline converter: a flat dict of tensors comes through bit for bit, anything else runs nothing and writes nothing."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lorikeet_adapters.child import Child, ChildDied, ChildTimeout
from lorikeet_adapters.convert import convert
from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.source import CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE, open_folder

TENSORS = {
    "base_model.model.q.lora_A.weight": torch.arange(6.0).reshape(2, 3),
    "base_model.model.q.lora_B.weight": torch.tensor([[-0.0, 1e-38], [3.5, 7.0]], dtype=torch.bfloat16),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    made.mkdir()
    (made / CONFIG_FILE).write_bytes(b'{"peft_type": "LORA"}')
    return made


def listing(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


LEGACY = {"_use_new_zipfile_serialization": False}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(OrderedDict, {}, id="OrderedDict-zip"),
        pytest.param(dict, LEGACY, id="dict-legacy"),
        pytest.param(dict, {}, id="dict-zip", marks=pytest.mark.soak),
        pytest.param(OrderedDict, LEGACY, id="OrderedDict-legacy", marks=pytest.mark.soak),
    ],
)
def test_tensors_come_through_bit_for_bit(
    folder: Path, kind: type[dict[str, Any]], options: dict[str, Any]
) -> None:
    torch.save(kind(TENSORS), folder / PICKLE_FILE, **options)
    done = convert(folder)
    assert done.path == folder / WEIGHTS_FILE
    assert (done.tensors, done.bytes) == (2, done.path.stat().st_size)
    loaded = load_file(done.path)
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype is tensor.dtype
        assert torch.equal(loaded[name].view(torch.uint8), tensor.view(torch.uint8))
    with safe_open(done.path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert listing(folder) == [CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE]
    with open_folder(folder):
        pass


def test_views_and_parameters_are_written_out(folder: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    given = {"a": whole, "b": whole.t(), "c": whole[1:2], "d": torch.nn.Parameter(torch.ones(2))}
    torch.save(given, folder / PICKLE_FILE)
    convert(folder)
    loaded = load_file(folder / WEIGHTS_FILE)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in given.items())


def test_a_folder_of_its_own_gets_the_config_too(folder: Path, tmp_path: Path) -> None:
    torch.save(TENSORS, folder / PICKLE_FILE)
    convert(folder, tmp_path / "deep" / "new")
    assert listing(tmp_path / "deep" / "new") == [CONFIG_FILE, WEIGHTS_FILE]
    assert listing(folder) == [CONFIG_FILE, PICKLE_FILE]
    with pytest.raises(RefusedError, match="there already"):
        convert(folder, tmp_path / "deep" / "new")


class Runs:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.system, (f"touch {self.canary}",)


def bomb(path: Path) -> None:
    """A zip whose tensor has 1.5 GB, all zeros, in some MB of file: more than the reading process may take."""
    torch.save({"a": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as source:
        members = {each: source.read(each) for each in source.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            with archive.open(name, "w", force_zip64=True) as out:
                for _ in range(1536 if name.endswith("data/0") else 0):
                    out.write(bytes(1 << 20))
                if not name.endswith("data/0"):
                    out.write(content)


def legacy_code(path: Path) -> None:
    path.write_bytes(pickle.dumps(Runs(path.parent / "canary")))


def zipped_code(path: Path) -> None:
    torch.save({"a": torch.ones(1), "b": Runs(path.parent / "canary")}, path)


def saved(value: object) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


def written(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def cut(path: Path) -> None:
    torch.save(TENSORS, path)
    os.truncate(path, 300)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "code": legacy_code,
    "code in a zip": zipped_code,
    "a module": saved(torch.nn.Linear(2, 2)),
    "a dict in a dict": saved({"state": dict(TENSORS)}),
    "a number": saved({"a": torch.ones(1), "step": 3}),
    "keys that are no text": saved({1: torch.ones(1)}),
    "a bare tensor": saved(torch.ones(1)),
    "nothing": saved({}),
    "a sparse tensor": saved({"a": torch.eye(3).to_sparse()}),
    "a tensor without bytes": saved({"a": torch.empty(3, device="meta")}),
    "one number shown a billion times": saved({"a": torch.ones(1).expand(10**9)}),
    "noise": written(bytes(range(256)) * 8),
    "an empty file": written(b""),
    "a cut zip": cut,
}


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_anything_else_is_refused_and_writes_nothing(folder: Path, kind: str) -> None:
    HOSTILE[kind](folder / PICKLE_FILE)
    with pytest.raises(RefusedError, match="cannot be converted") as caught:
        convert(folder)
    assert "\n" not in str(caught.value)
    assert listing(folder) == [CONFIG_FILE, PICKLE_FILE]
    assert listing(folder.parent) == ["adapter"]


def test_the_memory_to_read_it_is_bounded(folder: Path) -> None:
    bomb(folder / PICKLE_FILE)
    with pytest.raises(RefusedError, match="more memory than its size"):
        convert(folder)


def test_a_refusal_leaves_no_new_folder(folder: Path) -> None:
    torch.save([torch.ones(1)], folder / PICKLE_FILE)
    with pytest.raises(RefusedError, match=r"cannot be converted.*it holds a list") as caught:
        convert(folder, folder.parent / "new")
    assert "\n" not in str(caught.value)
    assert listing(folder) == [CONFIG_FILE, PICKLE_FILE]
    assert listing(folder.parent) == ["adapter"]


@pytest.mark.parametrize("missing", [CONFIG_FILE, PICKLE_FILE])
def test_a_missing_file_is_named(folder: Path, missing: str) -> None:
    torch.save(TENSORS, folder / PICKLE_FILE)
    (folder / missing).unlink()
    with pytest.raises(RefusedError, match=missing):
        convert(folder)


def test_a_folder_that_cannot_be_made_is_one_line(folder: Path) -> None:
    torch.save(TENSORS, folder / PICKLE_FILE)
    (folder.parent / "file").write_bytes(b"")
    for output in (folder.parent / "file", folder.parent / "file" / "new"):
        with pytest.raises(RefusedError, match="cannot make the folder"):
            convert(folder, output)
    assert (folder.parent / "file").read_bytes() == b""


@pytest.mark.safety("security 13")
def test_the_reading_process_knows_no_secret(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    class Watched(Child):
        def __init__(self, script: str, request: Any, environment: Any, stdin: Any = None) -> None:
            seen.append(dict(environment))
            super().__init__(script, request, environment, stdin)

    monkeypatch.setattr("lorikeet_adapters.convert.Child", Watched)
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("LORIKEET_API_KEY", "secret")
    torch.save(TENSORS, folder / PICKLE_FILE)
    convert(folder)
    assert "secret" not in seen[0].values()
    assert "PATH" in seen[0]


def test_a_child_ends_at_its_deadline_and_a_dead_one_is_known(folder: Path) -> None:
    torch.save(TENSORS, folder / PICKLE_FILE)
    request = {"output": str(folder / "x")}
    with (folder / PICKLE_FILE).open("rb") as file:
        with Child("unpickle.py", request, {}, file) as child, pytest.raises(ChildTimeout):
            child.wait(0.01)  # it imports torch first
        with Child("unpickle.py", request, {}, file) as child:
            child.kill()
            with pytest.raises(ChildDied):
                child.wait(60)
    assert listing(folder) == [CONFIG_FILE, PICKLE_FILE]
