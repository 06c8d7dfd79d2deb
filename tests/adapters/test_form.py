"""multipart/form-data: two files and a few fields, in pieces of any size, or one line of reason."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.form import MAX_PARTS, FormReader
from lorikeet_adapters.upload import Upload
from tests.adapters.uploads import CONFIG, GOOD, WEIGHTS, Taken, feed, intake, reason, take

EDGE = b"edge"
ROOM = 1000


def part(name: str, data: bytes, filename: str | None = None, extra: bytes = b"") -> bytes:
    said = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    return b"--edge\r\nContent-Disposition: %b\r\n%b\r\n%b\r\n" % (said.encode(), extra, data)


FILES = b"".join(part(name, data, name) for name, data in GOOD.items())
END = b"--edge--\r\n"


def read(
    folder: Path, body: bytes, sizes: list[int] | None = None, edge: bytes = EDGE
) -> tuple[Taken, dict[str, bytes]]:
    with intake(folder).file() as weights:
        upload = Upload(weights)
        reader = FormReader(edge, upload, ROOM)
        feed(reader, body, sizes or [])
        return take(folder, upload), reader.fields


def refusal(folder: Path, body: bytes, edge: bytes = EDGE) -> str:
    with pytest.raises(RefusedError) as caught:
        read(folder, body, edge=edge)
    str(caught.value).encode()
    assert len(str(caught.value)) < 500
    assert not list((folder / "incoming").iterdir())
    return reason(caught.value)


def test_what_httpx_sends(tmp_path: Path) -> None:
    request = httpx.Request(
        "POST",
        "http://x",
        data={"name": "support", "metadata": '{"team": "é"}'},
        files={name: (f"{name}", data) for name, data in GOOD.items()},
    )
    edge = request.headers["content-type"].partition("boundary=")[2].encode()
    taken, fields = read(tmp_path, request.read(), edge=edge)
    assert (taken.config, taken.weights, taken.warnings) == (CONFIG, WEIGHTS, ())
    assert fields == {"name": b"support", "metadata": '{"team": "é"}'.encode()}


@given(st.lists(st.integers(0, 300), max_size=40))
def test_pieces_of_any_size(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    body = part("name", b"a") + FILES + part("replace", b"true") + END
    taken, fields = read(tmp_path_factory.getbasetemp(), body, sizes)
    assert (taken.config, taken.weights) == (CONFIG, WEIGHTS)
    assert fields == {"name": b"a", "replace": b"true"}


@given(st.binary(max_size=400), st.lists(st.integers(0, 50), max_size=20))
def test_weights_that_resemble_the_boundary(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, sizes: list[int]
) -> None:
    data = b"\r\n--edg" + noise.replace(b"edge", b"") + b"\r\n--edg\r\n"
    body = part("adapter_config.json", CONFIG) + part("adapter_model.safetensors", data) + END
    taken, _ = read(tmp_path_factory.getbasetemp(), body, sizes)
    assert taken.weights == data


def test_a_file_is_named_by_its_field_or_else_its_filename(tmp_path: Path) -> None:
    body = part("adapter_config.json", CONFIG, "/tmp/whatever") + part(
        "files", WEIGHTS, "adapter_model.safetensors"
    )
    taken, _ = read(tmp_path, body + part("files", b"x", "mine/tokenizer.json") + END)
    assert (taken.config, taken.weights) == (CONFIG, WEIGHTS)
    assert taken.warnings == ("the upload's tokenizer.json was ignored",)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a boundary that is another": (FILES.replace(b"edge", b"else") + b"--else--\r\n", "cannot be read"),
    "no last boundary": (FILES, "ends before its last boundary"),
    "a body that is cut": (FILES[:-100], "ends before its last boundary"),
    "nothing": (b"", "ends before its last boundary"),
    "JSON": (b"{}", "cannot be read"),
    "the config twice": (FILES + part("adapter_config.json", CONFIG) + END, "duplicate_file"),
    "the weights twice": (FILES + part("f", b"x", "adapter_model.safetensors") + END, "duplicate_file"),
    "a field twice": (part("name", b"a") + part("name", b"b") + FILES + END, "'name' is there twice"),
    "a file of another name": (part("f", b"x", "evil.py") + FILES + END, "unexpected_file"),
    "a file of a way up": (part("f", b"x", "../../adapter_config.json") + END, "bad_path"),
    "a file of an absolute path": (part("f", b"x", "/etc/adapter_config.json") + END, "bad_path"),
    "no weights": (part("adapter_config.json", CONFIG) + END, "missing_file"),
    "no file": (part("name", b"a") + END, "missing_file"),
    "weights without a file's name": (part("weights", WEIGHTS) + END, "too long"),
    "a pickle alone": (
        part("adapter_config.json", CONFIG) + part("f", b"\x80\x04.", "adapter_model.bin") + END,
        "pickle_only",
    ),
    "fields without end": (b"".join(part(f"f{n}", b"") for n in range(MAX_PARTS + 1)) + END, "over 64 parts"),
    "a part without a name": (b"--edge\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END, "with a name"),
    "a part without headers": (b"--edge\r\n\r\nx\r\n" + END, "with a name"),
    "an attachment": (b'--edge\r\nContent-Disposition: attachment; name="a"\r\n\r\nx\r\n' + END, "form-data"),
    "a disposition twice": (
        part("name", b"a", extra=b'Content-Disposition: form-data; name="replace"\r\n') + END,
        "twice",
    ),
    "an encoded part": (
        part("name", b"YQ==", extra=b"Content-Transfer-Encoding: base64\r\n") + END,
        "encoded",
    ),
    "a header without end": (
        part("name", b"a", extra=b"X-A: " + b"a" * 9000 + b"\r\n") + END,
        "cannot be read",
    ),
    "headers without end": (
        part("name", b"a", extra=b"".join(b"X-%d: a\r\n" % n for n in range(50))) + END,
        "cannot be read",
    ),
    "a header of no form": (b"--edge\r\nnonsense\r\n\r\nx\r\n" + END, "cannot be read"),
    "a config of 2 MB": (part("adapter_config.json", b" " * (2 << 20)) + END, "too_large"),
}


@pytest.mark.safety("security 7")
@pytest.mark.parametrize("kind", list(HOSTILE))
def test_a_hostile_form_is_refused_with_its_reason(tmp_path: Path, kind: str) -> None:
    body, expected = HOSTILE[kind]
    assert expected in refusal(tmp_path, body)


@pytest.mark.parametrize("edge", [b"", b"x" * 300])
def test_a_boundary_that_cannot_be_one(tmp_path: Path, edge: bytes) -> None:
    assert "boundary" in refusal(tmp_path, FILES + END, edge)


@given(st.integers(0, 600), st.binary(min_size=1, max_size=8))
def test_a_damaged_form_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    body = bytearray(part("name", b"a") + FILES + END)
    body[at : at + len(noise)] = noise
    try:
        read(folder, bytes(body))
    except RefusedError as refused:
        str(refused).encode()
    assert not list((folder / "incoming").iterdir())


def test_a_field_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    named = part("note", b"1").replace(b'"note"', b'"\xff\xfe"')
    assert "not valid UTF-8" in refusal(tmp_path, named + FILES + END)
