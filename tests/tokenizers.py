"""Tokenizers of the three kinds there are, small: byte-level BPE, sentencepiece's with byte fallback, WordPiece."""

from __future__ import annotations

from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lorikeet_server.engine.tokenizer import Tokenizer

EMOJI = "\N{PARROT}".encode()
# Pieces that begin or end within a character, as merges over bytes make them.
PIECES = [
    b"ab",
    b" a",
    b" the",
    b"\n\n",
    "é".encode(),
    b"\xa9a",
    b"a\xc3",
    "日".encode(),
    b"\xe6\x97",
    b"\xa5\xe6",
]
PIECES += [
    EMOJI,
    EMOJI[:3],
    EMOJI[1:],
    EMOJI[2:] + EMOJI[:2],
    b"\x82\xac\xe2",
    "\ufffd".encode(),
    "e\u0301".encode(),
]


def byte_level() -> Tokenizer:
    """Ids 0 to 255 are the bytes; any sequence of them has a text."""
    shown = _shown_bytes()
    vocabulary = {shown[byte]: byte for byte in range(256)}
    vocabulary |= {"".join(shown[byte] for byte in piece): 256 + n for n, piece in enumerate(PIECES)}
    inner = Inner(models.BPE(vocabulary, []))
    inner.decoder = decoders.ByteLevel()
    return _wrapped(inner)


def sentencepiece() -> Tokenizer:
    """Words begin with a visible space, what has no piece is written as bytes; a leading space is dropped."""
    words = ["<unk>", "▁", "▁▁▁▁", "▁the", "▁a", "a", "b", ".", "é", "日", "🦜", "\ufffd", "\n"]
    vocabulary = [(piece, -1.0) for piece in [*words, *(f"<0x{byte:02X}>" for byte in range(256))]]
    inner = Inner(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrapped(inner)


def word_piece() -> Tokenizer:
    """Words are joined by spaces, but not before `##` and punctuation."""
    words = ["[UNK]", "hello", "do", "##ing", "##s", ".", ",", "n't", "'s", "'m", "é", "日", "🦜"]
    inner = Inner(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece("##", cleanup=True)
    return _wrapped(inner)


def _wrapped(inner: Inner) -> Tokenizer:
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, additional_special_tokens=["<|a|>", "<|b|>"])
    return Tokenizer(fast, frozenset())


def size(tokenizer: Tokenizer) -> int:
    return len(tokenizer._tokenizer)


def special_id(tokenizer: Tokenizer) -> int:
    return size(tokenizer) - 1


def byte_id(byte: int) -> int:
    """Of sentencepiece's vocabulary."""
    return 13 + byte


def _shown_bytes() -> list[str]:
    """The printable character by which byte-level vocabularies write each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    shown = [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]
    assert set(shown) == set(pre_tokenizers.ByteLevel.alphabet())
    return shown
