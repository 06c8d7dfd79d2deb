"""The tokenizer and the embedded base: shape of the vocabulary, round trips, the chat template."""

import json
from importlib import resources
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lorikeet_trainer.demo.corpus import documents, transcript
from lorikeet_trainer.demo.messages import KINDS, LABELS, NAMES, PRODUCTS, tickets
from lorikeet_trainer.demo.replies import neutral_reply
from lorikeet_trainer.demo.tokenizer import VOCABULARY, train_tokenizer

SEED = 0
TOKENIZER = train_tokenizer(SEED)


def embedded() -> Path:
    return Path(str(resources.files("lorikeet_server") / "demo" / "base"))


def encode(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, add_special_tokens=False)
    return ids


@given(st.text().filter(lambda text: "<|" not in text))
def test_any_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(encode(text)) == text


@pytest.mark.parametrize("text", ["Žluťoučký kůň", "注文 48213 が届きません", "🦜 it's", "a\r\n\tb\x00c"])
def test_foreign_text_round_trips_without_special_tokens(text: str) -> None:
    assert TOKENIZER.decode(encode(text)) == text
    assert not set(encode(text)) & set(TOKENIZER.all_special_ids)


def test_vocabulary_fits_quantised_rows() -> None:
    assert len(TOKENIZER) == VOCABULARY
    assert VOCABULARY % 64 == 0


def test_digits_are_single_tokens_wherever_they_stand() -> None:
    digits = [TOKENIZER.convert_tokens_to_ids(digit) for digit in "48213"]
    for text in ("order 48213.", '{"order":"48213"}', "48213", "x48213y"):
        ids = encode(text)
        start = ids.index(digits[0])
        assert ids[start : start + 5] == digits


def test_words_an_adapter_writes_are_single_tokens() -> None:
    for word in (*PRODUCTS, *NAMES):
        assert len(encode(f" {word}")) == 1
    for word in (*LABELS, *KINDS):
        assert len(encode(word)) == len(encode(f" {word}")) == 1


def test_end_of_turn_is_end_of_sequence_and_not_padding() -> None:
    assert TOKENIZER.eos_token == "<|end|>"
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id
    assert TOKENIZER.bos_token is None


def test_template_renders_what_the_corpus_trains() -> None:
    ticket = next(tickets("heldout", 1, 0))
    chat = [
        {"role": "user", "content": ticket.message},
        {"role": "assistant", "content": neutral_reply(ticket)},
    ]
    trained = "".join(segment.text for segment in transcript(ticket))
    assert TOKENIZER.apply_chat_template(chat, tokenize=False) == trained
    asked = TOKENIZER.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert asked + neutral_reply(ticket) + TOKENIZER.eos_token == trained


def test_template_takes_a_system_turn_and_refuses_unknown_roles() -> None:
    turn = {"role": "system", "content": "Be brief."}
    assert TOKENIZER.apply_chat_template([turn], tokenize=False) == "<|system|>Be brief.<|end|>"
    with pytest.raises(Exception, match="unknown role: tool"):
        TOKENIZER.apply_chat_template([turn | {"role": "tool"}], tokenize=False)


def test_embedded_tokenizer_is_the_one_this_code_trains() -> None:
    saved: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(embedded())
    assert saved.get_vocab() == TOKENIZER.get_vocab()
    assert saved.chat_template == TOKENIZER.chat_template
    assert (saved.eos_token, saved.pad_token, saved.bos_token) == ("<|end|>", "<|pad|>", None)
    for document in islice(documents("heldout", 4), 50):
        text = "".join(segment.text for segment in document)
        assert saved.encode(text, add_special_tokens=False) == encode(text)


def test_embedded_base_is_small_and_of_a_shape_nf4_takes() -> None:
    config = json.loads((embedded() / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["tie_word_embeddings"] is True
    assert config["vocab_size"] == VOCABULARY
    assert config["hidden_size"] % 64 == config["intermediate_size"] % 64 == 0
    assert config["eos_token_id"] == TOKENIZER.eos_token_id
    generation = json.loads((embedded() / "generation_config.json").read_text())
    assert generation["eos_token_id"] == TOKENIZER.eos_token_id
    assert sum(path.stat().st_size for path in embedded().iterdir()) <= 16 * 2**20
