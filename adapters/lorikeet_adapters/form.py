"""multipart/form-data as it streams by: files go to the upload, short text fields are kept.

python-multipart parses; its callbacks hand the bytes on at once, so nothing is spooled elsewhere.
"""

from __future__ import annotations

from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.upload import show

MAX_PARTS = 64
ENCODINGS = frozenset({b"", b"7bit", b"8bit", b"binary"})


class Files(Protocol):
    """Where the form's files go: the bytes of one at a time, between `takes` and `end`."""

    def takes(self, field: str, filename: str) -> bool:
        """Whether this part is a file, which has then begun; `filename` is empty where none is given."""
        ...

    def write(self, data: bytes | memoryview) -> None: ...
    def end(self) -> None: ...


class FormReader:
    """Feed it the body in pieces of any size, then `close`; `fields` has the text fields, undecoded.

    Raises RefusedError for a form that cannot be read, and what `upload` raises of a file.
    """

    def __init__(self, boundary: bytes, upload: Files, max_field_bytes: int) -> None:
        self.fields: dict[str, bytes] = {}
        self._upload = upload
        self._room = max_field_bytes
        self._parts = 0
        self._whole = False
        self._headers: dict[bytes, bytes] = {}
        self._key = bytearray()
        self._value = bytearray()
        self._field: str | None = None  # None within a file
        if not boundary:
            raise RefusedError("the multipart content type names no boundary")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part,
                    "on_header_field": lambda data, start, end: self._key.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._on_header,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise RefusedError(f"the multipart boundary cannot be used: {error}") from None

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise RefusedError(f"the multipart body cannot be read: {error}") from None

    def close(self) -> None:
        if not self._whole:
            raise RefusedError("the multipart body ends before its last boundary; send the whole body")

    def _on_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise RefusedError(f"the form has over {MAX_PARTS} parts")
        self._headers.clear()

    def _on_header(self) -> None:
        key = bytes(self._key).strip().lower()
        if key in self._headers:
            raise RefusedError(f"a part has the header {show(key.decode('latin-1'))} twice")
        self._headers[key] = bytes(self._value).strip()
        self._key.clear()
        self._value.clear()

    def _on_headers(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition"))
        if kind != b"form-data" or b"name" not in options:
            raise RefusedError("every part needs a header content-disposition: form-data with a name")
        if self._headers.get(b"content-transfer-encoding", b"").lower() not in ENCODINGS:
            raise RefusedError("a part is encoded; send the bytes as they are")
        name = options[b"name"].decode("utf-8", "surrogateescape")
        file = options.get(b"filename", b"").decode("utf-8", "surrogateescape")
        if self._upload.takes(name, file):
            self._field = None
            return
        if not _is_text(options[b"name"]):
            raise RefusedError(f"the field name {show(name)} is not valid UTF-8 text")
        if name in self.fields:
            raise RefusedError(f"the field {show(name)} is there twice")
        self._field = name
        self.fields[name] = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        part = memoryview(data)[start:end]
        if self._field is None:
            self._upload.write(part)
            return
        self._room -= len(part)
        if self._room < 0:
            raise RefusedError("the form's text fields are too long; send a file with a filename")
        self.fields[self._field] += part

    def _on_part_end(self) -> None:
        if self._field is None:
            self._upload.end()

    def _on_end(self) -> None:
        self._whole = True


def _is_text(name: bytes) -> bool:
    """A lone surrogate could not stand in an answer that names the field."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
