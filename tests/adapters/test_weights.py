"""adapter_model.safetensors: every tensor is half of a pair that fits the base, or the file is refused."""

from __future__ import annotations

import gzip
import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.outline import LinearShape, Outline
from lorikeet_adapters.spec import parse_spec
from lorikeet_adapters.tensors import MAX_TENSORS
from lorikeet_adapters.weights import AdapterWeights, load_weights

LINEARS = {"model.layers.0.q_proj": LinearShape(6, 10), "lm_head": LinearShape(4, 8)}
OUTLINE = Outline(
    LINEARS,
    embeddings={"model.embed_tokens": LinearShape(8, 4)},
    biases={"model.layers.0.q_proj": 10, "model.norm": 4},
    vocabulary=frozenset({"lm_head", "model.embed_tokens"}),
)
Q, HEAD = LINEARS
RANK = 3


def key(module: str, half: str) -> str:
    return f"base_model.model.{module}.lora_{half}.weight"


def pair(module: str, rank: int = RANK, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    shape = LINEARS[module]
    torch.manual_seed(0)
    return {
        key(module, "A"): torch.randn(rank, shape.in_features).to(dtype),
        key(module, "B"): torch.randn(shape.out_features, rank).to(dtype),
    }


def load(path: Path, dtype: torch.dtype = torch.float32, **options: Any) -> AdapterWeights:
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, **options}
    return load_weights(path, parse_spec(json.dumps(config).encode()), OUTLINE, dtype)


def refusal(path: Path, **options: Any) -> AdapterRefused:
    with pytest.raises(AdapterRefused) as caught:
        load(path, **options)
    assert str(path.parent) not in str(caught.value), "no path of the server in a message"
    return caught.value


def codes(folder: Path, tensors: dict[str, torch.Tensor], **options: Any) -> list[tuple[str, str]]:
    """(code, tensor or module) of every finding about a file of these tensors."""
    path = folder / "adapter_model.safetensors"
    save_file(tensors, path)
    return [(each.code, each.field or each.module) for each in refusal(path, **options).findings]


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alpha_over_r_is_folded_into_b(tmp_path: Path, stored: torch.dtype, dtype: torch.dtype) -> None:
    tensors = pair(Q, dtype=stored) | pair(HEAD, rank=2, dtype=stored)
    save_file(tensors, tmp_path / "w")
    loaded = load(tmp_path / "w", dtype, rank_pattern={"lm_head": 2}, alpha_pattern={"lm_head": 5})
    assert set(loaded.modules) == {Q, HEAD}
    for module, scaling in ((Q, 6 / RANK), (HEAD, 5 / 2)):
        a, b = tensors[key(module, "A")], tensors[key(module, "B")]
        rows = loaded.modules[module]
        assert torch.equal(rows.a, a.to(dtype))
        assert torch.equal(rows.b, (b.float() * scaling).T.to(dtype))
        assert rows.a.is_contiguous()
        assert rows.b.is_contiguous()
        assert rows.rank == a.shape[0]
    assert loaded.rank == RANK
    assert loaded.bytes == sum(tensor.numel() for tensor in tensors.values()) * dtype.itemsize


def test_rslora_is_folded_with_the_root(tmp_path: Path) -> None:
    tensors = pair(Q)
    save_file(tensors, tmp_path / "w")
    rows = load(tmp_path / "w", use_rslora=True).modules[Q]
    torch.testing.assert_close(rows.b, tensors[key(Q, "B")].T * 6 / math.sqrt(RANK))


@pytest.mark.safety("security 6")
@pytest.mark.parametrize("half", ["A", "B"])
def test_half_a_pair(tmp_path: Path, half: str) -> None:
    tensors = pair(Q) | pair(HEAD)
    del tensors[key(Q, half)]
    assert codes(tmp_path, tensors) == [("half_a_module", Q)]


@pytest.mark.parametrize(
    ("half", "shape"),
    [
        ("A", (RANK, 5)),
        ("A", (2, 6)),
        ("A", (6, RANK)),
        ("A", (0, 6)),
        ("A", ()),
        ("A", (1, RANK, 6)),
        ("B", (9, RANK)),
        ("B", (10, 4)),
        ("B", (RANK, 10)),
        ("B", (10,)),
    ],
)
def test_a_shape_that_does_not_fit(tmp_path: Path, half: str, shape: tuple[int, ...]) -> None:
    tensors = pair(Q) | {key(Q, half): torch.zeros(shape)}
    assert codes(tmp_path, tensors) == [("shape_mismatch", Q)]
    message = str(refusal(tmp_path / "adapter_model.safetensors"))
    assert str(list(shape)) in message
    assert f"{Q}.lora_{half}" in message


def test_a_rank_that_is_not_the_configs(tmp_path: Path) -> None:
    assert codes(tmp_path, pair(Q, rank=4)) == [("shape_mismatch", Q)] * 2


@pytest.mark.safety("security 6")
def test_a_module_that_is_not_in_the_base(tmp_path: Path) -> None:
    tensors = pair(Q) | {key("model.layers.7.q_proj", half): torch.zeros(RANK, 6) for half in "AB"}
    assert codes(tmp_path, tensors) == [("module_not_in_base", "model.layers.7.q_proj")]


@pytest.mark.safety("security 6")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("half", ["A", "B"])
def test_a_value_that_is_not_finite(tmp_path: Path, half: str, value: float) -> None:
    tensors = pair(Q)
    tensors[key(Q, half)][1, 2] = value
    assert codes(tmp_path, tensors) == [("not_finite", Q)]


@pytest.mark.parametrize(("half", "largest"), [("A", 10001.0), ("B", 5001.0), ("A", 3e38), ("B", -3e38)])
def test_an_implausible_magnitude_after_scaling(tmp_path: Path, half: str, largest: float) -> None:
    tensors = pair(Q)
    tensors[key(Q, half)][0, 0] = largest  # the scaling, on B, is 2
    assert codes(tmp_path, tensors) == [("implausible_magnitude", Q)]


def test_the_largest_plausible_magnitude_is_read(tmp_path: Path) -> None:
    tensors = pair(Q)
    tensors[key(Q, "A")][0, 0] = -9999.0
    tensors[key(Q, "B")][0, 0] = 4999.0
    save_file(tensors, tmp_path / "w")
    assert load(tmp_path / "w").modules[Q].b[0, 0] == 9998.0


@pytest.mark.parametrize("b", [0.0, 1.0])
def test_a_scaling_beyond_fp32_is_refused_even_where_it_makes_nan(tmp_path: Path, b: float) -> None:
    """Infinity times a zero of B is NaN: it must not pass as a number that is not too large."""
    tensors = pair(Q) | {key(Q, "B"): torch.full((10, RANK), b)}
    assert codes(tmp_path, tensors, lora_alpha=1e300) == [("implausible_magnitude", Q)]


@pytest.mark.safety("security 6")
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float64, torch.float8_e4m3fn])
def test_a_dtype_that_is_no_adapters(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = pair(Q) | {key(Q, "A"): torch.zeros(RANK, 6).to(dtype)}
    assert ("unsupported_dtype", key(Q, "A")) in codes(tmp_path, tensors)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("base_model.model.model.embed_positions.lora_embedding_A", "module_not_in_base"),
        ("base_model.model.lm_head.modules_to_save.weight", "module_not_in_base"),
        ("base_model.model.lm_head.weight", "resized_or_trained_embedding"),
        ("base_model.model.lm_head.base_layer.weight", "resized_or_trained_embedding"),
        (f"base_model.model.{Q}.weight", "unexpected_tensor"),
        (f"base_model.model.{Q}.bias", "unexpected_tensor"),
        (f"base_model.model.{Q}.base_layer.bias", "unexpected_tensor"),
        ("base_model.model.model.norm.weight", "module_not_in_base"),
        (f"base_model.model.{Q}.lora_magnitude_vector", "unexpected_tensor"),
        (f"base_model.model.{Q}.lora_magnitude_vector.weight", "unexpected_tensor"),
        (f"base_model.model.{Q}.lora_B.bias", "unexpected_tensor"),
        (f"base_model.model.{Q}.lora_A.default.weight", "module_not_in_base"),
        (f"base_model.model.{Q}.lora_C.weight", "module_not_in_base"),
        (f"base_model.model.{Q}.token_adapter.trainable_tokens_delta", "unsupported_tensor"),
        (f"{Q}.lora_A.weight", "unsupported_tensor"),
        (f"base_model.model.{Q}.lora_A.weight ", "unsupported_tensor"),
        ("base_model.model..lora_A.weight\n", "unsupported_tensor"),
        ("base_model.model..lora_A.weight", "unsupported_tensor"),
        ("base_model.model.lora_A.weight", "unsupported_tensor"),
        ("", "unsupported_tensor"),
    ],
)
def test_a_tensor_that_has_no_place_is_refused_and_never_dropped(
    tmp_path: Path, name: str, code: str
) -> None:
    tensors = pair(Q) | {name: torch.zeros(RANK, 6)}
    ((found, where),) = codes(tmp_path, tensors)
    assert found == code
    assert where in name


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    head = pair(HEAD)
    head[key(HEAD, "A")] = torch.full((RANK, 5), math.nan)
    nowhere = "model.layers.1.q_proj"
    tensors = {
        **head,
        key(Q, "A"): torch.zeros(RANK, 6),
        key(nowhere, "A"): torch.zeros(RANK, 6),
        key(nowhere, "B"): torch.zeros(10, RANK),
        key("model.layers.2.q_proj", "A"): torch.zeros(RANK, 6, dtype=torch.int8),
        "stray": torch.zeros(1),
    }
    assert sorted(codes(tmp_path, tensors)) == [
        ("half_a_module", Q),
        ("module_not_in_base", nowhere),
        ("not_finite", HEAD),
        ("shape_mismatch", HEAD),
        ("unsupported_dtype", key("model.layers.2.q_proj", "A")),
        ("unsupported_tensor", "stray"),
    ]


def broken(folder: Path, content: bytes) -> str:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(content)
    (finding,) = refusal(path).findings
    return finding.code


def whole(folder: Path) -> bytes:
    save_file(pair(Q), folder / "whole")
    return (folder / "whole").read_bytes()


def header(entries: dict[str, Any], size: int = 0) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def test_a_truncated_file(tmp_path: Path) -> None:
    content = whole(tmp_path)
    assert broken(tmp_path, b"") == "empty_file"
    for length in (1, 4, 8, 20, len(content) // 2, len(content) - 1):
        assert broken(tmp_path, content[:length]) == "bad_safetensors"
    assert broken(tmp_path, content + b"\0") == "bad_safetensors"


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    """Each says what it is, because "invalid header length" helps nobody."""
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save(pair(Q), tmp_path / "pickle", **options)
        assert broken(tmp_path, (tmp_path / "pickle").read_bytes()) == "pickle_renamed"
    assert broken(tmp_path, b"version https://git-lfs.github.com/spec/v1\n") == "lfs_pointer"
    assert broken(tmp_path, gzip.compress(whole(tmp_path))) == "compressed"
    assert broken(tmp_path, b"GGUF" + bytes(60)) == "wrong_format"
    assert broken(tmp_path, b"<!DOCTYPE html>") == "wrong_format"
    assert broken(tmp_path, struct.pack("<Q", 2**63) + b"{}") == "bad_safetensors"
    assert broken(tmp_path, struct.pack("<Q", 100_000) + b"[" * 100_000) == "bad_safetensors"
    assert broken(tmp_path, header({})) == "no_tensors"


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def raw_header(text: bytes, size: int = 16) -> bytes:
    return struct.pack("<Q", len(text)) + text + bytes(size)


MALFORMED: dict[str, tuple[bytes, str, str]] = {
    "shorter than a length": (b"\x08\0\0", "bad_safetensors", "header too small"),
    "a length past the end": (struct.pack("<Q", 10**6) + b"{}", "bad_safetensors", "invalid header length"),
    "a length that cuts the header": (raw_header(b'{"a": {"dty'), "bad_safetensors", "invalid JSON"),
    "a length past every file": (struct.pack("<Q", 2**62) + b"{}", "bad_safetensors", "header too large"),
    "a header of 17 MB": (raw_header(b"{" + b" " * (17 << 20) + b"}"), "header_too_large", "16777216"),
    "JSON nested without end": (raw_header(b'{"a":' * 50_000), "bad_safetensors", "invalid JSON"),
    "no UTF-8": (raw_header(b'{"\xff": 1}'), "bad_safetensors", "invalid UTF-8"),
    "a list": (raw_header(b"[]"), "bad_safetensors", "invalid"),
    "overlapping offsets": (header({"a": ENTRY, "b": ENTRY}, 16), "bad_safetensors", "invalid offset"),
    "a gap": (
        header({"a": ENTRY, "b": {**ENTRY, "data_offsets": [20, 36]}}, 36),
        "bad_safetensors",
        "invalid offset",
    ),
    "offsets backwards": (header({"a": {**ENTRY, "data_offsets": [16, 0]}}, 16), "bad_safetensors", "offset"),
    "offsets past the end": (
        header({"a": {**ENTRY, "shape": [2, 4], "data_offsets": [0, 32]}}, 16),
        "bad_safetensors",
        "not fully covered",
    ),
    "no offsets": (header({"a": {"dtype": "F32", "shape": [2, 2]}}), "bad_safetensors", "data_offsets"),
    "a negative shape": (header({"a": {**ENTRY, "shape": [-2, 2]}}, 16), "bad_safetensors", "`-2`"),
    "a shape of fractions": (header({"a": {**ENTRY, "shape": [2.5, 2]}}, 16), "bad_safetensors", "2.5"),
    "a shape of other bytes": (header({"a": {**ENTRY, "shape": [2, 3]}}, 16), "bad_safetensors", "shape"),
    "a shape that overflows": (
        header({"a": {**ENTRY, "shape": [2**62, 2**62]}}, 16),
        "bad_safetensors",
        "overflow",
    ),
    "an unknown dtype": (header({"a": {**ENTRY, "dtype": "F7"}}, 16), "bad_safetensors", "`F7`"),
    "metadata of text": (header({"__metadata__": "x", "a": ENTRY}, 16), "bad_safetensors", "expected a map"),
    "metadata of numbers": (
        header({"__metadata__": {"x": 1}, "a": ENTRY}, 16),
        "bad_safetensors",
        "a string",
    ),
    "bytes after the last tensor": (header({"a": ENTRY}, 17), "bad_safetensors", "not fully covered"),
    "a tensor twice": (
        raw_header(b'{"a": %b, "a": %b}' % ((json.dumps(ENTRY).encode(),) * 2)),
        "duplicate_tensor",
        "twice: a",
    ),
    "a dtype twice": (
        raw_header(b'{"a": {"dtype": "F32", "dtype": "F16", "shape": [2, 2], "data_offsets": [0, 16]}}'),
        "duplicate_tensor",
        "twice: dtype",
    ),
    "a name of control characters twice": (
        raw_header(b'{"\\u001b\\ud800": 1, "\\u001b\\ud800": 1}'),
        "duplicate_tensor",
        "twice",
    ),
}


@pytest.mark.safety("security 6")
@pytest.mark.parametrize("kind", list(MALFORMED))
def test_a_malformed_file_is_refused_with_its_reason(tmp_path: Path, kind: str) -> None:
    content, code, reason = MALFORMED[kind]
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(content)
    (finding,) = refusal(path).findings
    assert finding.code == code
    assert reason in finding.message
    finding.sentence.encode()
    assert len(finding.sentence) < 2000


@pytest.mark.safety("security 6")
def test_tensors_that_overlap_or_overflow(tmp_path: Path) -> None:
    a, b = key(Q, "A"), key(Q, "B")
    entry = {"dtype": "F32", "shape": [RANK, 6], "data_offsets": [0, 72]}
    assert broken(tmp_path, header({a: entry, b: entry}, 72)) == "bad_safetensors"
    vast = {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 72]}
    assert broken(tmp_path, header({a: vast}, 72)) == "bad_safetensors"


def test_a_file_that_is_gone_or_no_file_says_no_path(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        (finding,) = refusal(path).findings
        assert finding.code == "bad_safetensors"


@pytest.mark.safety("security 6")
def test_countless_tensors_are_not_walked(tmp_path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    entries = {f"t{each}": empty for each in range(MAX_TENSORS + 1)}
    assert broken(tmp_path, header(entries)) == "too_many_tensors"


def test_a_name_without_end_does_not_fill_the_message(tmp_path: Path) -> None:
    name = key("q" * 100_000, "A")
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: torch.zeros(1)}, path)
    (finding,) = refusal(path).findings
    assert finding.code == "unsupported_tensor"
    assert len(finding.sentence + finding.field) < 2000


@pytest.mark.safety("security 6")
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(whole(folder))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged"
    path.write_bytes(content)
    try:
        loaded = load(path)
    except AdapterRefused as refused:
        str(refused).encode()
    else:
        for rows in loaded.modules.values():
            assert rows.a.abs().max() <= 1e4
            assert rows.b.abs().max() <= 1e4
