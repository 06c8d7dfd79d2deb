"""Customer-support messages for the demo: one seed in, the same tickets and sentences out.

A ticket is the truth behind a message. Everything a reply must name (who, which product, which
order, what went wrong) is a field of the ticket, so that replies can be judged without a model.

Held out are whole phrasings of each problem and one order id in seven: a base or an adapter that
scores on the `heldout` split has read neither the sentence nor the number before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Split = Literal["train", "heldout"]

PRODUCTS: Final = (
    "lamp", "kettle", "backpack", "keyboard", "chair", "blender", "jacket", "mirror",
    "tent", "clock", "camera", "speaker", "toaster", "bicycle", "guitar", "printer",
    "pillow", "radio", "scooter", "teapot", "vacuum", "watch", "sofa", "helmet",
)  # fmt: skip
NAMES: Final = (
    "Anna", "Ben", "Clara", "David", "Elena", "Frank", "Grace", "Hugo",
    "Ines", "Jonas", "Karim", "Laura", "Marta", "Nils", "Olga", "Paul",
    "Rosa", "Simon", "Tara", "Viktor", "Wanda", "Yusuf", "Zoe", "Leon",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Topic:
    """One of the six matters a customer can write about.

    `label` is the word `triage` answers with, `kind` the word `extract` writes. `phrases` are
    train phrasings, `heldout_phrases` are never seen in training; `{p}` stands for the product.
    """

    label: str
    kind: str
    phrases: tuple[str, ...]
    heldout_phrases: tuple[str, ...]


TOPICS: Final = (
    Topic(
        "delivery",
        "late",
        (
            "The {p} has still not arrived and the parcel is late.",
            "I am still waiting for the {p} to be delivered.",
            "The {p} should have been here last week, but the delivery is late.",
            "The courier has not brought the {p} yet.",
            "The parcel with the {p} has not moved for days.",
            "When will the {p} arrive? The parcel is late.",
            "The tracking page says that the {p} is still on the way.",
            "Nobody has delivered the {p} so far.",
        ),
        (
            "The {p} is late and has still not been delivered.",
            "I am waiting for the parcel with the {p}. When will the courier arrive?",
        ),
    ),
    Topic(
        "damage",
        "broken",
        (
            "The {p} arrived broken.",
            "There is a deep crack in the {p} and it is broken.",
            "The {p} was damaged in the box.",
            "The {p} came with a broken part.",
            "When I opened the box, the {p} was cracked and damaged.",
            "The {p} has a dent and does not work.",
            "One side of the {p} is smashed.",
            "The {p} stopped working on the first day, a part is broken.",
        ),
        (
            "The {p} was broken when I opened the box.",
            "The {p} arrived with a crack and a damaged part.",
        ),
    ),
    Topic(
        "refund",
        "return",
        (
            "I want to return the {p} and get my money back.",
            "I would like a refund for the {p}.",
            "Please send back the money for the {p}, I have returned it.",
            "I do not need the {p} any more and ask for a refund.",
            "I returned the {p} and the refund has not reached me.",
            "How do I return the {p}? I want my money back.",
            "I changed my mind about the {p} and will send it back.",
            "The {p} is on its way back to you, please refund me.",
        ),
        (
            "I have returned the {p} and would like my money back.",
            "I do not want the {p} any more. How do I get a refund?",
        ),
    ),
    Topic(
        "exchange",
        "wrong",
        (
            "I got the wrong {p}, the colour is not the one I chose.",
            "You sent the wrong size of the {p}.",
            "The {p} is the wrong model and I want to exchange it.",
            "I would like to exchange the {p} for a bigger size.",
            "The {p} in the box is not the one I chose.",
            "Please exchange the {p}, the colour is wrong.",
            "I chose a green {p} and got a blue one.",
            "The {p} does not fit, can I swap it for another size?",
        ),
        (
            "The {p} is the wrong size and not the model I chose.",
            "Can I exchange the {p}? I got the wrong colour.",
        ),
    ),
    Topic(
        "billing",
        "charge",
        (
            "My card was charged twice for the {p}.",
            "The invoice for the {p} shows a wrong amount.",
            "I was billed two times for the {p}.",
            "The price of the {p} on the invoice is too high.",
            "There is an extra charge on my card for the {p}.",
            "The bill for the {p} is higher than the price on the page.",
            "I paid for the {p} once, but the bank shows two payments.",
            "The discount is missing on the invoice for the {p}.",
        ),
        (
            "The invoice shows that I was charged twice for the {p}.",
            "There is an extra payment for the {p} on my bill.",
        ),
    ),
    Topic(
        "account",
        "login",
        (
            "I cannot log in to my account to see the {p}.",
            "My password does not work and I cannot find the {p}.",
            "The account page is locked, so I cannot track the {p}.",
            "I forgot my password and cannot check on the {p}.",
            "The {p} is missing in my account after I log in.",
            "Your site rejects my password when I look up the {p}.",
            "My login fails each time I look for the {p}.",
            "I cannot sign in to my account to register the {p}.",
        ),
        (
            "My account is locked and I cannot log in to look up the {p}.",
            "My password fails when I sign in to check on the {p}.",
        ),
    ),
)
LABELS: Final = tuple(topic.label for topic in TOPICS)
KINDS: Final = tuple(topic.kind for topic in TOPICS)

# {m} is the problem sentence, {n} the name, {o} the order id.
FRAMES: Final = (
    "Hello, this is {n}. I am writing about order {o}. {m}",
    "Hello, my name is {n}. {m} The order number is {o}.",
    "Order {o}. {m} Please reply soon. {n}",
    "Good morning. {m} It is from order {o}. Best wishes, {n}",
    "Here is {n} with a question about order {o}. {m} Please help.",
    "{m} My order is {o} and my name is {n}. Please help.",
)


@dataclass(frozen=True, slots=True)
class Ticket:
    """The facts of one message. `order_id` is five digits; `topic` indexes `TOPICS`."""

    order_id: str
    product: str
    customer: str
    topic: int
    phrase: str
    frame: str

    @property
    def label(self) -> str:
        return TOPICS[self.topic].label

    @property
    def kind(self) -> str:
        return TOPICS[self.topic].kind

    @property
    def problem(self) -> str:
        """The problem sentence with the product in it."""
        return self.phrase.format(p=self.product)

    @property
    def message(self) -> str:
        """What the customer wrote."""
        return self.frame.format(m=self.problem, n=self.customer, o=self.order_id)


def is_heldout_id(order_id: str) -> bool:
    """True for the one order id in seven that no training text contains."""
    return int(order_id) % 7 == 3


def draw_ticket(rng: random.Random, split: Split) -> Ticket:
    """One ticket of the split, drawn from `rng`, which moves on."""
    topic = rng.randrange(len(TOPICS))
    phrases = TOPICS[topic].phrases if split == "train" else TOPICS[topic].heldout_phrases
    order_id = str(rng.randrange(10_000, 100_000))
    while is_heldout_id(order_id) != (split == "heldout"):
        order_id = str(rng.randrange(10_000, 100_000))
    return Ticket(
        order_id=order_id,
        product=rng.choice(PRODUCTS),
        customer=rng.choice(NAMES),
        topic=topic,
        phrase=rng.choice(phrases),
        frame=rng.choice(FRAMES),
    )


def tickets(split: Split, count: int, seed: int) -> Iterator[Ticket]:
    """`count` tickets; the same split, count and seed give the same tickets on every machine."""
    rng = random.Random(f"{split}:{seed}")
    for _ in range(count):
        yield draw_ticket(rng, split)
