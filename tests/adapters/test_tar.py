"""A tar is read member by member: two regular files below one folder, and whatever else is refused by name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.source import open_folder
from lorikeet_adapters.tar import MAX_EXTENSION_BYTES, MAX_MEMBERS, TarReader, pack_files
from lorikeet_adapters.upload import Upload
from tests.adapters.uploads import CONFIG, GOOD, WEIGHTS, Taken, feed, intake, member, take, tar_of

END = bytes(1024)
CONFIG_MEMBER = member("adapter_config.json", CONFIG)
WEIGHTS_MEMBER = member("adapter_model.safetensors", WEIGHTS)


def read(folder: Path, body: bytes, sizes: list[int] | None = None) -> Taken:
    with intake(folder).file() as weights:
        upload = Upload(weights)
        feed(TarReader(upload), body, sizes or [])
        return take(folder, upload)


def code(folder: Path, body: bytes) -> str:
    with pytest.raises(AdapterRefused) as caught:
        read(folder, body)
    finding = caught.value.findings[0]
    finding.sentence.encode()
    assert finding.fix
    assert len(finding.sentence) < 500
    assert not list((folder / "incoming").iterdir())
    return finding.code


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["", ".", "support", "a" * 200])
def test_what_tarfile_packs(tmp_path: Path, form: int, folder: str) -> None:
    if len(folder) > 99 and form == tarfile.USTAR_FORMAT:
        folder = folder[:99]
    taken = read(tmp_path, tar_of(GOOD, folder, form))
    assert (taken.config, taken.weights, taken.warnings) == (CONFIG, WEIGHTS, ())


@pytest.mark.parametrize("options", [[], ["--format=pax"], ["--format=ustar"], ["--format=v7"]])
@pytest.mark.parametrize("what", [["mine"], ["-C", "mine", "."], ["-C", "mine", *GOOD]])
def test_what_the_tar_command_packs(tmp_path: Path, options: list[str], what: list[str]) -> None:
    (tmp_path / "mine").mkdir()
    for name, data in GOOD.items():
        (tmp_path / "mine" / name).write_bytes(data)
    body = subprocess.run(["tar", "c", *options, *what], cwd=tmp_path, capture_output=True, check=True).stdout
    taken = read(tmp_path, body)
    assert (taken.config, taken.weights) == (CONFIG, WEIGHTS)


@given(st.lists(st.integers(0, 700), max_size=40))
def test_pieces_of_any_size(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    taken = read(tmp_path_factory.getbasetemp(), tar_of(GOOD, "x"), sizes)
    assert (taken.config, taken.weights) == (CONFIG, WEIGHTS)


def test_what_a_client_packs_is_what_tarfile_reads(tmp_path: Path) -> None:
    for name, data in GOOD.items():
        (tmp_path / name).write_bytes(data)
    with open_folder(tmp_path) as files:
        length, pieces = pack_files(files)
        body = b"".join(pieces)
    assert len(body) == length
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        assert {each.name: tar.extractfile(each).read() for each in tar} == GOOD  # type: ignore[union-attr]


def test_extras_are_ignored_by_name(tmp_path: Path) -> None:
    extras = {
        "tokenizer.json": b"x" * 2000,
        "adapter_model.bin": b"\x80\x04.",
        "._adapter_config.json": b"apple",
    }
    taken = read(tmp_path, tar_of({**extras, **GOOD}))
    assert (taken.config, taken.weights) == (CONFIG, WEIGHTS)
    assert [each.split("'s ")[1] for each in taken.warnings] == [
        "._adapter_config.json was ignored",
        "adapter_model.bin was ignored",
        "tokenizer.json was ignored",
    ]


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("adapter_model.safetensors", bytes(1 << 20))
    return out.getvalue()


def pax(**records: str) -> bytes:
    text = b""
    for key, value in records.items():
        record = f" {key.replace('__', '.')}={value}\n".encode("utf-8", "surrogateescape")
        length = len(record) + 2 if len(record) < 98 else len(record) + 3
        text += str(length).encode() + record
    return member("pax", text, tarfile.XHDTYPE)


def broken_sum(header: bytes) -> bytes:
    return b"A" + header[1:]


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "gzip": (lambda: gzip.compress(tar_of(GOOD)), "compressed"),
    "a gzip bomb": (lambda: gzip.compress(bytes(50 << 20)), "compressed"),
    "bzip2": (lambda: bz2.compress(tar_of(GOOD)), "compressed"),
    "xz": (lambda: lzma.compress(tar_of(GOOD) * 9), "compressed"),
    "zstd": (lambda: b"\x28\xb5\x2f\xfd" + bytes(600), "compressed"),
    "zip": (lambda: zipped(), "compressed"),
    "a symbolic link": (
        lambda: member("adapter_config.json", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        "not_a_file",
    ),
    "a hard link": (lambda: member("adapter_config.json", kind=tarfile.LNKTYPE, link="x"), "not_a_file"),
    "a pipe": (lambda: member("adapter_config.json", kind=tarfile.FIFOTYPE), "not_a_file"),
    "a device": (lambda: member("adapter_config.json", kind=tarfile.CHRTYPE), "not_a_file"),
    "a block device": (lambda: member("adapter_config.json", kind=tarfile.BLKTYPE), "not_a_file"),
    "a contiguous file": (lambda: member("adapter_config.json", CONFIG, tarfile.CONTTYPE), "not_a_file"),
    "a sparse file": (lambda: member("adapter_config.json", kind=tarfile.GNUTYPE_SPARSE), "not_a_file"),
    "a sparse file of pax": (
        lambda: pax(GNU__sparse__major="1", GNU__sparse__realsize="9999999999") + CONFIG_MEMBER,
        "not_a_file",
    ),
    "an unknown type": (lambda: member("adapter_config.json", kind=b"Z"), "not_a_file"),
    "a long link name": (lambda: member("x", b"y" * 200, tarfile.GNUTYPE_LONGLINK), "not_a_file"),
    "a way up": (lambda: member("../adapter_config.json", CONFIG), "bad_path"),
    "a way up inside": (lambda: member("a/../adapter_config.json", CONFIG), "bad_path"),
    "an absolute path": (lambda: member("/adapter_config.json", CONFIG), "bad_path"),
    "a path of pax that leads up": (
        lambda: pax(path="../../adapter_config.json") + CONFIG_MEMBER,
        "bad_path",
    ),
    "a long name that leads up": (
        lambda: member("x", b"../" * 50 + b"adapter_config.json\0", tarfile.GNUTYPE_LONGNAME) + CONFIG_MEMBER,
        "bad_path",
    ),
    "a folder in a folder": (lambda: member("a/b/adapter_config.json", CONFIG), "bad_path"),
    "an empty folder in a folder": (lambda: member("a/b/", kind=tarfile.DIRTYPE), "bad_path"),
    "a folder that leads up": (lambda: member("../", kind=tarfile.DIRTYPE), "bad_path"),
    "two folders": (lambda: member("a/adapter_config.json", CONFIG) + WEIGHTS_MEMBER, "bad_path"),
    "backslashes": (lambda: member("a\\adapter_config.json", CONFIG), "bad_path"),
    "a name that is no text": (lambda: member("\udcff", CONFIG), "unexpected_file"),
    "no name": (lambda: member("", CONFIG), "bad_path"),
    "another case": (lambda: member("Adapter_Config.json", CONFIG), "unexpected_file"),
    "a dot behind": (lambda: member("adapter_config.json.", CONFIG), "unexpected_file"),
    "a script": (lambda: member("evil.py", b"import os"), "unexpected_file"),
    "a sharded index": (lambda: member("adapter_model.safetensors.index.json", b"{}"), "unexpected_file"),
    "the config twice": (lambda: CONFIG_MEMBER + WEIGHTS_MEMBER + CONFIG_MEMBER, "duplicate_file"),
    "the weights twice": (lambda: WEIGHTS_MEMBER + WEIGHTS_MEMBER, "duplicate_file"),
    "an extra twice": (lambda: member("README.md") * 2, "duplicate_file"),
    "members without end": (lambda: member("a/", kind=tarfile.DIRTYPE) * (MAX_MEMBERS + 1), "bad_tar"),
    "a config of 2 MB": (lambda: member("adapter_config.json", b" " * (2 << 20)), "too_large"),
    "an extension of any size": (
        lambda: member("x", bytes(MAX_EXTENSION_BYTES + 1), tarfile.XHDTYPE)[:512],
        "bad_tar",
    ),
    "an extension that is none": (lambda: member("x", b"nonsense", tarfile.XHDTYPE), "bad_tar"),
    "an extension of length 0": (lambda: member("x", b"0 path=x\n", tarfile.XHDTYPE), "bad_tar"),
    "an extension past its end": (lambda: member("x", b"99 path=x\n", tarfile.XHDTYPE), "bad_tar"),
    "a size of pax that is none": (lambda: pax(size="-1") + CONFIG_MEMBER, "bad_tar"),
    "a size of pax without end": (lambda: pax(size="9" * 60) + CONFIG_MEMBER, "bad_tar"),
    "a name for all members": (
        lambda: member("x", b"12 path=abc\n", tarfile.XGLTYPE),
        "bad_tar",
    ),
    "a wrong checksum": (lambda: broken_sum(CONFIG_MEMBER), "bad_tar"),
    "noise": (lambda: random.Random(0).randbytes(4096), "bad_tar"),
    "bytes after the end": (lambda: CONFIG_MEMBER + WEIGHTS_MEMBER + END + CONFIG_MEMBER, "bad_tar"),
    "nothing": (lambda: b"", "truncated"),
    "an end that is cut": (lambda: CONFIG_MEMBER + WEIGHTS_MEMBER, "truncated"),
    "a member that is cut": (lambda: CONFIG_MEMBER + WEIGHTS_MEMBER[:-600], "truncated"),
    "a header that is cut": (lambda: CONFIG_MEMBER + WEIGHTS_MEMBER[:100], "truncated"),
    "no weights": (lambda: CONFIG_MEMBER + END, "missing_file"),
    "no files": (lambda: END, "missing_file"),
    "a pickle alone": (
        lambda: CONFIG_MEMBER + member("adapter_model.bin", b"\x80\x04.") + END,
        "pickle_only",
    ),
}


@pytest.mark.safety("security 7")
@pytest.mark.parametrize("kind", list(HOSTILE))
def test_a_hostile_tar_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    body, expected = HOSTILE[kind]
    outside = set(tmp_path.parent.iterdir())
    assert code(tmp_path, body()) == expected
    assert set(tmp_path.parent.iterdir()) == outside
    assert [each.name for each in tmp_path.iterdir()] == ["incoming"]


def test_a_size_that_is_negative(tmp_path: Path) -> None:
    header = bytearray(CONFIG_MEMBER[:512])
    header[124:136] = b"\xff" * 12  # base 256, two's complement
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert code(tmp_path, bytes(header)) == "bad_tar"


@pytest.mark.safety("security 7")
@given(st.integers(0, 3000), st.binary(min_size=1, max_size=8))
def test_a_damaged_tar_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    body = bytearray(tar_of(GOOD, "x", tarfile.GNU_FORMAT))
    body[at : at + len(noise)] = noise
    try:
        read(folder, bytes(body))
    except AdapterRefused as refused:
        str(refused).encode()
    assert not list((folder / "incoming").iterdir())
