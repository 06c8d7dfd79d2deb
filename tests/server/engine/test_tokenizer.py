"""A token's own bytes, in both of the alphabets in which tokenizers write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer as TokenizersTokenizer
from tokenizers import decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from lorikeet_server.engine.tokenizer import BYTES, Tokenizer, load_tokenizer
from tests.tiny import END, make_tokenizer

TEXTS = ["Where is my parcel?", "  two  spaces\n\ttab", "caf\u00e9 \u20ac 5 \U0001f99c", "\u0000\u00ad\u2028"]


def sentencepiece(folder: Path) -> Tokenizer:
    """As Llama 2's: a space is U+2581, and what has no piece of its own is bytes."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", "H", "e", "l", "o", "\u2581H", "el", "lo"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("\u2581", "H"), ("e", "l"), ("l", "o")]
    inner = TokenizersTokenizer(
        models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>").save_pretrained(
        folder
    )
    return load_tokenizer(str(folder))


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_a_texts_tokens_are_its_bytes(text: str) -> None:
    for tokenizer in (load_tokenizer("demo"), Tokenizer(make_tokenizer(), frozenset())):
        assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()


def test_pieces_of_sentencepiece_keep_their_space_and_their_bytes(tmp_path: Path) -> None:
    tokenizer = sentencepiece(tmp_path)
    tokens = tokenizer.encode("Hello Hello \u20ac")
    assert b"".join(map(tokenizer.token_bytes, tokens)) == " Hello Hello \u20ac".encode()
    assert tokenizer.decode(tokens) == "Hello Hello \u20ac"
    assert tokenizer.token_text(tokens[0]) == " H"
    assert tokenizer.token_bytes(tokens[-1]) == "\u20ac".encode()[-1:]


def test_special_tokens_are_spelled_out_and_unknown_ids_are_nothing(tmp_path: Path) -> None:
    tiny = make_tokenizer()
    tokenizer = Tokenizer(tiny, frozenset())
    assert tokenizer.token_text(tiny.convert_tokens_to_ids(END)) == END
    assert tokenizer.token_bytes(10_000) == b""
    assert sentencepiece(tmp_path).token_text(1) == "</s>"


def test_a_part_of_a_character_is_replaced_in_its_text() -> None:
    tokenizer = Tokenizer(make_tokenizer(), frozenset())
    first, second = tokenizer.encode("\u00e9")
    assert (tokenizer.token_bytes(first), tokenizer.token_bytes(second)) == (b"\xc3", b"\xa9")
    assert tokenizer.token_text(first) == "\ufffd"


def test_every_byte_has_one_character() -> None:
    assert sorted(BYTES.values()) == list(range(256))
