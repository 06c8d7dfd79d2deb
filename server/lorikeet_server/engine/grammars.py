"""Compiles constraints beside the traffic and keeps what was compiled."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from lorikeet_server.engine.constraint import Constraint, Grammar, Refusal
from lorikeet_server.engine.guided import Lexicon, TokenizerUnusable, compile_constraint

log = logging.getLogger(__name__)
KEPT = 32  # their lexers may hold some 25 MB each at the very most
WORKERS = 2


class Grammars:
    """`read` makes the vocabulary, once, beside the start. Belongs to one thread; its futures to any."""

    def __init__(self, read: Callable[[], Lexicon]) -> None:
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="grammar")
        self._lexicon = self._pool.submit(read)
        self._made: OrderedDict[Constraint, Future[Grammar | Refusal]] = OrderedDict()

    def compile(self, constraint: Constraint) -> Future[Grammar | Refusal] | None:
        """What becomes of it, the same for everybody who asks; None while as many as are kept are under way."""
        found = self._made.get(constraint)
        if found is None:
            if not self._make_room():
                return None
            found = self._made[constraint] = self._pool.submit(self._compile, constraint)
        self._made.move_to_end(constraint)
        return found

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make_room(self) -> bool:
        if len(self._made) >= KEPT:
            done = next((key for key, each in self._made.items() if each.done()), None)
            if done is None:
                return False
            del self._made[done]
        return True

    def _compile(self, constraint: Constraint) -> Grammar | Refusal:
        try:
            return compile_constraint(constraint, self._lexicon.result())
        except TokenizerUnusable as error:
            return Refusal(f"this base cannot be held to a form, because of its tokenizer: {error}")
        except Exception:
            log.exception("compiling a constraint failed")
            return Refusal("it could not be compiled; the log has the reason")
