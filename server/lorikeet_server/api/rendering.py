"""A conversation as the tokens that the model sees."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError

from lorikeet_server.api.chat_body import Message
from lorikeet_server.api.services import Services
from lorikeet_server.errors import RequestRefused


def encode_messages(services: Services, messages: Sequence[Message]) -> tuple[int, ...]:
    """Takes as long as the conversation is long: run it on a thread. Raises RequestRefused."""
    if not services.text.has_template:
        raise RequestRefused(
            "the base model has no chat template; send plain text: /v1/completions takes it",
            param="messages",
            code="no_chat_template",
        )
    try:
        text = services.text.render([message.as_plain() for message in messages])
    except TemplateError as error:
        raise RequestRefused(
            f"the chat template refuses these messages: {error}", param="messages"
        ) from error
    except Exception as error:  # a template is the model's own code: it can raise anything
        raise RequestRefused("the chat template cannot render these messages", param="messages") from error
    return services.text.encode(text)
