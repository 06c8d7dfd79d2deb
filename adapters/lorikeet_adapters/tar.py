"""A plain tar read as it streams by, member by member; nothing is extracted to a path.

Regular files only, each below the same folder or none. The standard library reads the header blocks;
what its own stream reader would do besides (read a header extension of any size into memory, follow
links) is why the walk from block to block is here.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from lorikeet_adapters.arrival import CHUNK, Arrival
from lorikeet_adapters.source import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles
from lorikeet_adapters.upload import Upload, bare_name, refuse, show

BLOCK = tarfile.BLOCKSIZE
MAX_EXTENSION_BYTES = 1 << 16
MAX_MEMBERS = 1000
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
PLAIN = "pack them with `tar cf`, without compression and without links"
KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.GNUTYPE_LONGLINK: "a link",
}


class TarReader:
    """Feed it the body in pieces of any size, then `close`. Raises AdapterRefused."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._header = bytearray()
        self._left = 0  # bytes of the present member still to come
        self._padding = 0  # bytes to the next block after it
        self._take: Callable[[memoryview], None] = _skip
        self._done: Callable[[], None] = _nothing
        self._extension = bytearray()
        self._path: str | None = None  # what an extension says of the next member
        self._size: int | None = None
        self._folders: set[str] = set()
        self._members = 0
        self._ended = False

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if self._left:
                part, view = view[: self._left], view[self._left :]
                self._left -= len(part)
                self._take(part)
                if not self._left:
                    self._done()
            elif self._padding:
                part, view = view[: self._padding], view[self._padding :]
                self._padding -= len(part)
            else:
                wanted = BLOCK - len(self._header)
                self._header += view[:wanted]
                view = view[wanted:]
                if len(self._header) == BLOCK:
                    block = bytes(self._header)
                    self._header.clear()
                    self._open(block)

    def close(self) -> None:
        if not self._ended or self._left or self._header:
            refuse("truncated", "the tar ends before its end mark", "send the whole file")

    def _open(self, block: bytes) -> None:
        if self._ended or not any(block):
            if any(block):
                refuse("bad_tar", "there are bytes after the tar's end mark", PLAIN)
            self._ended = True
            return
        if not self._members:
            _refuse_compressed(block)
        self._members += 1
        if self._members > MAX_MEMBERS:
            refuse("bad_tar", f"the tar has over {MAX_MEMBERS} members", PLAIN)
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            refuse("bad_tar", f"the upload is no tar, or a damaged one: {error}", PLAIN)
        if member.size < 0:
            refuse("bad_tar", f"{show(member.name)} has a negative size", PLAIN)
        if member.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            self._begin_extension(member, self._read_pax)
        elif member.type == tarfile.XGLTYPE:
            self._begin_extension(member, self._read_global_pax)
        elif member.type == tarfile.GNUTYPE_LONGNAME:
            self._begin_extension(member, self._read_long_name)
        else:
            self._begin_file(member)

    def _begin(self, size: int, take: Callable[[memoryview], None], done: Callable[[], None]) -> None:
        self._left, self._padding = size, -size % BLOCK
        self._take, self._done = take, done
        if not size:
            done()

    def _begin_extension(self, member: tarfile.TarInfo, done: Callable[[], None]) -> None:
        if member.size > MAX_EXTENSION_BYTES:
            refuse("bad_tar", f"a header extension has {member.size} bytes", PLAIN)
        self._extension.clear()
        self._begin(member.size, self._extension.extend, done)

    def _begin_file(self, member: tarfile.TarInfo) -> None:
        path = member.name if self._path is None else self._path
        size = member.size if self._size is None else self._size
        self._path = self._size = None
        if member.type == tarfile.DIRTYPE:
            self._begin_folder(path)
            return
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            kind = KINDS.get(member.type, f"a member of type {show(member.type.decode('latin-1'))}")
            refuse("not_a_file", f"{show(path)} is {kind}, not a regular file", PLAIN, path)
        folder, name = bare_name(path)
        self._folders.add(folder)
        if len(self._folders) > 1:
            refuse("bad_path", "the files are in different folders", "pack one adapter at a time", path)
        self._upload.begin(name)
        self._begin(size, self._upload.write, self._upload.end)

    def _begin_folder(self, path: str) -> None:
        if path.rstrip("/") != "." and bare_name(path)[0]:
            refuse(
                "bad_path", f"{show(path)} is a folder in a folder", "pack the adapter's folder alone", path
            )
        self._begin(0, _skip, _nothing)

    def _read_pax(self) -> None:
        for key, value in _pax_records(bytes(self._extension)):
            if key.startswith("GNU.sparse."):
                refuse("not_a_file", "a member is a sparse file", PLAIN)
            if key == "path":
                self._path = value
            if key == "size":
                if not (value.isascii() and value.isdigit() and len(value) < 20):
                    refuse("bad_tar", f"a member has the size {show(value)}", PLAIN)
                self._size = int(value)

    def _read_global_pax(self) -> None:
        for key, _ in _pax_records(bytes(self._extension)):
            if key in ("path", "size") or key.startswith("GNU.sparse."):
                refuse("bad_tar", f"the tar sets {show(key)} for all members", PLAIN)

    def _read_long_name(self) -> None:
        self._path = self._extension.rstrip(b"\0").decode("utf-8", "surrogateescape")


def pack_files(files: AdapterFiles) -> tuple[int, Iterator[bytes]]:
    """(length, pieces) of a tar of both files, as `TarReader` reads it. The weights must be a file on disk."""
    assert not isinstance(files.weights, Arrival), "what has just arrived is not sent on"
    members = [
        (CONFIG_FILE, len(files.config), io.BytesIO(files.config)),
        (WEIGHTS_FILE, os.fstat(files.weights.fileno()).st_size, files.weights),
    ]
    length = sum(BLOCK + size + -size % BLOCK for _, size, _ in members) + 2 * BLOCK
    return length, _pieces(members)


def _pieces(members: Iterable[tuple[str, int, BinaryIO]]) -> Iterator[bytes]:
    for name, size, file in members:
        member = tarfile.TarInfo(name)
        member.size = size
        yield member.tobuf(tarfile.GNU_FORMAT)
        left = size
        while left and (chunk := file.read(min(left, CHUNK))):
            left -= len(chunk)
            yield chunk
        yield bytes(left + -size % BLOCK)  # a file that shrinks meanwhile is damaged, not a tar out of step
    yield bytes(2 * BLOCK)


def _pax_records(text: bytes) -> Iterator[tuple[str, str]]:
    """`<length> <key>=<value>\\n`, one after another; the length counts the whole record."""
    at = 0
    while at < len(text):
        digits, space, _ = text[at : at + 8].partition(b" ")
        end = at + int(digits) if space and digits.isdigit() else 0
        key, equals, value = text[at + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or not at < end <= len(text) or text[end - 1 : end] != b"\n":
            refuse("bad_tar", "a header extension cannot be read", PLAIN)
        yield key.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")
        at = end


def _refuse_compressed(block: bytes) -> None:
    for marker, name in COMPRESSED.items():
        if block.startswith(marker):
            refuse("compressed", f"the upload is a {name} archive, not a plain tar", PLAIN)


def _skip(data: memoryview) -> None:
    pass


def _nothing() -> None:
    pass
