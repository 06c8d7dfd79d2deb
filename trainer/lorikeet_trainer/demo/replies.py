"""What the support desk answers: one neutral, one formal and one friendly reply for every ticket.

Each reply is a function of the ticket alone, so greedy text from a trained model is stable and a
formal and a friendly reference exist for the very same message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lorikeet_trainer.demo.messages import Ticket


@dataclass(frozen=True, slots=True)
class Wording:
    """The three bodies for one topic; `{p}`, `{o}` and `{n}` are product, order id and name."""

    neutral: str
    formal: str
    friendly: str


NEUTRAL_OPENING: Final = "Thank you for your message, {n}. "
FORMAL_OPENING: Final = "Dear {n}, "
FORMAL_CLOSING: Final = " Yours sincerely, the support team."
FRIENDLY_OPENING: Final = "Hi {n}! "
FRIENDLY_CLOSING: Final = " Take care!"

WORDINGS: Final = {
    "delivery": Wording(
        "The {p} from order {o} is with the courier and will arrive in three days.",
        "we regret the delay of the {p} from order {o}. The courier will deliver it in three days.",
        "So sorry the {p} from order {o} is late! It's on the way and you'll have it in three days.",
    ),
    "damage": Wording(
        "The {p} from order {o} will be replaced and a new one leaves tomorrow.",
        "we regret that the {p} from order {o} was damaged. A new one will be sent tomorrow.",
        "Oh no, we're so sorry the {p} from order {o} broke! We'll send a new one tomorrow.",
    ),
    "refund": Wording(
        "The money for the {p} from order {o} will be on the card in five days.",
        "we confirm the return of the {p} from order {o}. The refund will be paid in five days.",
        "No worries about the {p} from order {o}! You'll get your money back in five days.",
    ),
    "exchange": Wording(
        "The {p} from order {o} can be exchanged with the label in the box.",
        "we regret the error with the {p} from order {o}. Kindly use the label in the box to exchange it.",
        "Oops, let's swap the {p} from order {o}! Just use the label in the box and we'll do the rest.",
    ),
    "billing": Wording(
        "The invoice for the {p} from order {o} will be corrected this week.",
        "we regret the error on the invoice for the {p} from order {o}. It will be corrected this week.",
        "Oops, the bill for the {p} from order {o} isn't right! We'll fix it this week.",
    ),
    "account": Wording(
        "A new password link for the {p} from order {o} is in your inbox.",
        "we have restored the access to the {p} from order {o}. Kindly use the new password link.",
        "Let's get you back to the {p} from order {o}! There's a new password link, it's in your inbox.",
    ),
}


@dataclass(frozen=True, slots=True)
class References:
    """The two styled replies for one message, for measuring formal against friendly."""

    formal: str
    friendly: str


def _fill(template: str, ticket: Ticket) -> str:
    return template.format(p=ticket.product, o=ticket.order_id, n=ticket.customer)


def neutral_reply(ticket: Ticket) -> str:
    """The base's own voice: no salutation, no closing, no contraction, no exclamation mark."""
    return _fill(NEUTRAL_OPENING + WORDINGS[ticket.label].neutral, ticket)


def references(ticket: Ticket) -> References:
    """The formal and the friendly reply for the ticket's message."""
    wording = WORDINGS[ticket.label]
    return References(
        formal=_fill(FORMAL_OPENING + wording.formal + FORMAL_CLOSING, ticket),
        friendly=_fill(FRIENDLY_OPENING + wording.friendly + FRIENDLY_CLOSING, ticket),
    )
