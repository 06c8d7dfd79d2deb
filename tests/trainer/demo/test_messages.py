"""The generator: same seed same text, and nothing held out leaks into training."""

import dataclasses
import random
import re
from itertools import islice

import pytest

from lorikeet_trainer.demo.corpus import documents
from lorikeet_trainer.demo.messages import (
    KINDS,
    LABELS,
    PRODUCTS,
    TOPICS,
    draw_ticket,
    is_heldout_id,
    tickets,
)
from lorikeet_trainer.demo.replies import neutral_reply, references
from lorikeet_trainer.demo.style import is_formal, is_friendly


def test_same_seed_gives_same_tickets_and_another_seed_others() -> None:
    assert list(tickets("train", 50, 3)) == list(tickets("train", 50, 3))
    assert list(tickets("train", 50, 3)) != list(tickets("train", 50, 4))


def test_a_shorter_draw_is_the_beginning_of_a_longer_one() -> None:
    assert list(tickets("heldout", 5, 0)) == list(tickets("heldout", 20, 0))[:5]


def test_ticket_is_a_frozen_value() -> None:
    ticket = draw_ticket(random.Random(0), "train")
    with pytest.raises(dataclasses.FrozenInstanceError):
        ticket.order_id = "00000"  # type: ignore[misc]


def test_message_names_every_fact_of_its_ticket() -> None:
    for ticket in tickets("train", 300, 0):
        assert ticket.message.count(ticket.order_id) == 1
        assert re.search(rf"\b{ticket.product}\b", ticket.message)
        assert re.search(rf"\b{ticket.customer}\b", ticket.message)
        assert "{" not in ticket.message


def test_message_names_no_second_product_or_number() -> None:
    for split in ("train", "heldout"):
        for ticket in tickets(split, 300, 1):
            assert re.findall(r"\d+", ticket.message) == [ticket.order_id]
            assert set(re.findall(r"[a-z]+", ticket.message)) & set(PRODUCTS) == {ticket.product}


def test_splits_share_neither_phrases_nor_order_ids() -> None:
    train, held_out = list(tickets("train", 500, 0)), list(tickets("heldout", 500, 0))
    assert not {t.phrase for t in train} & {t.phrase for t in held_out}
    assert not any(is_heldout_id(t.order_id) for t in train)
    assert all(is_heldout_id(t.order_id) for t in held_out)


def test_held_out_phrases_never_occur_in_the_corpus() -> None:
    text = "".join(segment.text for document in islice(documents("train", 0), 3000) for segment in document)
    for topic in TOPICS:
        for phrase in topic.heldout_phrases:
            before, after = phrase.split("{p}")
            assert not re.search(re.escape(before) + r"\w+" + re.escape(after), text)
    assert not [number for number in re.findall(r"\d{5}", text) if is_heldout_id(number)]


def test_corpus_holds_every_label_and_kind_in_the_shapes_adapters_write() -> None:
    text = "".join(segment.text for document in islice(documents("train", 0), 2000) for segment in document)
    for label, kind in zip(LABELS, KINDS, strict=True):
        assert f"Topic\n{label}\n<|end|>" in text
        assert f'"kind":"{kind}"}}' in text


def test_every_topic_is_drawn_and_labels_are_distinct() -> None:
    assert len(set(LABELS)) == len(set(KINDS)) == 6
    assert {ticket.label for ticket in tickets("heldout", 200, 0)} == set(LABELS)


def test_replies_name_the_ticket_and_keep_to_their_style() -> None:
    for ticket in tickets("train", 200, 2):
        wording, neutral = references(ticket), neutral_reply(ticket)
        for reply in (wording.formal, wording.friendly, neutral):
            assert ticket.order_id in reply
            assert f" {ticket.product} " in reply
            assert ticket.customer in reply
        assert (is_formal(wording.formal), is_friendly(wording.formal)) == (True, False)
        assert (is_formal(wording.friendly), is_friendly(wording.friendly)) == (False, True)
        assert (is_formal(neutral), is_friendly(neutral)) == (False, False)
