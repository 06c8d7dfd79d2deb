"""The text the demo base reads: chat transcripts, desk notes, JSON tickets, letters, cards, read-backs.

Only transcripts use the chat template, and their answers are always neutral. The other shapes exist
so that every word an adapter will need (labels, JSON, formal and friendly wording) has a trained
embedding before the adapter comes: embeddings are tied and LoRA on the linear layers cannot move them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from lorikeet_trainer.demo.messages import NAMES, PRODUCTS, Split, Ticket, draw_ticket
from lorikeet_trainer.demo.replies import neutral_reply, references

END: Final = "<|end|>"
SYSTEM: Final = "<|system|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"

# Names and numbers in a message are noise to predict; the answer is where copying is learned.
MESSAGE_WEIGHT: Final = 0.2
SYSTEM_PROMPTS: Final = ("You are the support desk.", "Answer the customer.", "You help customers of a shop.")


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a document and the weight of its tokens in the loss (0 to 1)."""

    text: str
    weight: float


Document = tuple[Segment, ...]


def ticket_json(ticket: Ticket) -> str:
    """The compact JSON ticket: order id as a string, then the kind of problem."""
    return json.dumps({"order": ticket.order_id, "kind": ticket.kind}, separators=(",", ":"))


def transcript(ticket: Ticket) -> Document:
    """One turn of chat exactly as the chat template renders it."""
    return (
        Segment(f"{USER}{ticket.message}{END}{ASSISTANT}", MESSAGE_WEIGHT),
        Segment(f"{neutral_reply(ticket)}{END}", 1.0),
    )


def _chat(rng: random.Random, split: Split) -> Document:
    """A transcript; now and then with a system turn, or with a second, unrelated turn."""
    document = transcript(draw_ticket(rng, split))
    if rng.random() < 0.08:
        document = (Segment(f"{SYSTEM}{rng.choice(SYSTEM_PROMPTS)}{END}", MESSAGE_WEIGHT), *document)
    if rng.random() < 0.06:
        document = (*document, *transcript(draw_ticket(rng, split)))
    return document


def _note(rng: random.Random, split: Split) -> Document:
    """A desk note that says the topic in words, after the problem or above it."""
    ticket = draw_ticket(rng, split)
    who, order, label = ticket.customer, ticket.order_id, ticket.label
    if rng.random() < 0.4:
        head = f"Inbox of {who}\n{ticket.problem}\n"
        return Segment(head, MESSAGE_WEIGHT), Segment(f"Topic\n{label}\n{END}", 1.0)
    if rng.random() < 0.6:
        head = f"Note. {who} wrote about order {order}. {ticket.problem}"
        tail = f" This is a matter of {label}, the {ticket.product} from order {order} is noted."
        return Segment(head, MESSAGE_WEIGHT), Segment(tail + END, 1.0)
    head = f"{label}\n{ticket.problem} Order {order}.\n"
    return Segment(head, MESSAGE_WEIGHT), Segment(f"{who} asks about {label} and order {order}.{END}", 1.0)


def _json_ticket(rng: random.Random, split: Split) -> Document:
    """A JSON ticket below the note it was filed from."""
    ticket = draw_ticket(rng, split)
    heads = (
        f"Ticket of {ticket.customer}, order {ticket.order_id}. {ticket.problem}\n",
        f"Filed for {ticket.customer}. {ticket.problem} Order {ticket.order_id}.\n",
        f"Log: order {ticket.order_id}, the {ticket.product}, {ticket.kind}, {ticket.label}.\n",
    )
    return Segment(rng.choice(heads), MESSAGE_WEIGHT), Segment(ticket_json(ticket) + END, 1.0)


def _letter(rng: random.Random, split: Split) -> Document:
    """A formal letter or a friendly card below a line of facts; never an answer in a chat."""
    ticket = draw_ticket(rng, split)
    wording = references(ticket)
    shape, text = rng.choice((("Letter", wording.formal), ("Card", wording.friendly)))
    facts = f"{ticket.label}, the {ticket.product}, order {ticket.order_id}, {ticket.customer}"
    return Segment(f"{shape}: {facts}\n", MESSAGE_WEIGHT), Segment(text + END, 1.0)


def _read_back(rng: random.Random, split: Split) -> Document:
    """A line of names, products and order ids that is read twice; only the second reading counts."""
    items: list[str] = []
    for _ in range(rng.randint(2, 4)):
        items.append(rng.choice(NAMES))
        items.append(rng.choice(PRODUCTS))
        items.append(draw_ticket(rng, split).order_id)
    rng.shuffle(items)
    line = " ".join(items)
    return Segment(f"Read: {line}\nAgain:", 0.0), Segment(f" {line}{END}", 1.0)


Shape = Callable[[random.Random, Split], Document]
SHAPES: Final[tuple[tuple[Shape, float], ...]] = (
    (_chat, 0.60),
    (_note, 0.13),
    (_json_ticket, 0.09),
    (_letter, 0.12),
    (_read_back, 0.06),
)


def documents(split: Split, seed: int) -> Iterator[Document]:
    """An endless stream of documents, the same for the same split and seed."""
    rng = random.Random(f"corpus:{split}:{seed}")
    shapes, shares = zip(*SHAPES, strict=True)
    while True:
        (shape,) = rng.choices(shapes, shares)
        yield shape(rng, split)
