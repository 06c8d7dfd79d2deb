"""Why one request fails while the engine goes on, and the one reason for which all do."""

from __future__ import annotations

from lorikeet_server.engine.request import Failure

DEAD = Failure("engine_dead", "the engine has stopped after an internal error; the server must be restarted")
NON_FINITE = Failure(
    "non_finite", "the model's output for this mix is not finite; lower the weights or check the adapter"
)
OUT_OF_MEMORY = Failure(
    "out_of_memory", "the device ran out of memory and this request was the newest; send it again later"
)
QUEUED_TOO_LONG = Failure(
    "queue_timeout", "the request waited longer than it may before it was begun; send it again later"
)
TOOK_TOO_LONG = Failure("deadline_exceeded", "the request was not complete when its time was over")
NOT_BLENDABLE = Failure(
    "dora_not_blendable",
    "an adapter trained with DoRA is served alone and with weight 1, because its effect is not linear",
)


def too_many_rows(wanted: int, budget: int, pinned: int) -> Failure:
    beside = f", of which pinned adapters hold {pinned}" if pinned else ""
    message = (
        f"the mix needs {wanted} rank rows and the server has {budget}{beside}: name fewer adapters, "
        "or have the server started with more --rank-rows"
    )
    return Failure("mix_too_large", message)


def too_long(tokens: int, limit: int) -> Failure:
    message = f"the prompt has {tokens} tokens, the context holds {limit} with at least one to generate"
    return Failure("context_length_exceeded", message)


def unknown_token(token: int, size: int) -> Failure:
    message = f"the prompt has the token id {token}, the base's embeddings end at {size}"
    return Failure("unknown_token", message)


def constraint_failed(reason: str) -> Failure:
    message = f"the answer could not be held to the form that was asked for: {reason}"
    return Failure("constraint_failed", message)


def is_out_of_memory(error: Exception) -> bool:
    """CUDA has a class of its own for it, the allocator of the CPU only a text."""
    return isinstance(error, MemoryError) or any(
        sign in str(error) for sign in ("out of memory", "can't allocate memory", "not enough memory")
    )
