"""The engine without a server: requests in, answers out, on the caller's own thread."""

from __future__ import annotations

from collections.abc import Iterable

from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.request import Finished, Request, Token


def complete(engine: Engine, requests: Iterable[Request]) -> dict[str, tuple[list[Token], Finished]]:
    """Run requests to their end, batched as traffic is; for evaluation and benchmarks.

    Afterwards every slot is free. A request whose adapter is not resident joins when it is loaded.
    """
    answers: dict[str, list[Token]] = {}
    endings: dict[str, Finished] = {}
    for request in requests:
        answers[request.id] = []
        engine.submit(request)
    while len(endings) < len(answers):
        for event in engine.step():
            if isinstance(event, Token):
                answers[event.request_id].append(event)
            elif isinstance(event, Finished):
                endings[event.request_id] = event
    while not engine.idle:
        engine.step()
    return {request_id: (tokens, endings[request_id]) for request_id, tokens in answers.items()}
