"""Which adapters are where: the states of lifecycle.py, the row budget and who is evicted next.

Pure bookkeeping without tensors: decisions come out as names, the runner carries them out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from lorikeet_adapters.lifecycle import AdapterEvent, AdapterState, advance
from lorikeet_adapters.mix import Mix
from lorikeet_server.engine.failures import NOT_BLENDABLE, too_many_rows
from lorikeet_server.engine.request import Failure

ON_HOST = (AdapterState.LOADING, AdapterState.HOST)
# Seconds for which a failed load is answered without another one: the first time, and the most.
RETRY_S, RETRY_MOST_S = 5.0, 60.0
LOADABLE = (AdapterState.REGISTERED, AdapterState.FAILED)


@dataclass(slots=True)
class _Resident:
    state: AdapterState = AdapterState.REGISTERED
    rank: int = 0
    blends: bool = True
    last_used: int = 0
    ticket: int = 0  # of the load under way
    failure: Failure | None = None  # of the last load
    retry_at: float = 0.0
    retry_s: float = RETRY_S


class Residency:
    """`row_budget` bounds the sum of ranks on the device."""

    def __init__(self, row_budget: int) -> None:
        self.row_budget = row_budget
        self.evictions = 0  # adapters that made room for others
        self.rows_used = 0
        self.on_host = 0  # adapters whose tensors are in host memory or on their way there
        self.changes = 0  # of any state
        self._adapters: dict[str, _Resident] = {}
        self._users: Counter[str] = Counter()
        self.pinned: set[str] = set()  # on the device or wanted there, and never evicted
        self.given_up: set[str] = set()  # pinned, but the last load failed or found no memory
        self._clock = 0
        self._tickets = 0

    def state(self, generation: str) -> AdapterState:
        known = self._adapters.get(generation)
        return known.state if known else AdapterState.REGISTERED

    def states(self) -> dict[str, AdapterState]:
        return {generation: each.state for generation, each in self._adapters.items()}

    def is_near(self, generation: str) -> bool:
        """On the host or the device: a request for it need not wait for the disk."""
        return self.state(generation) in (AdapterState.HOST, AdapterState.DEVICE)

    def absent(self, generations: Iterable[str]) -> tuple[str, ...]:
        """Those whose files must be read before a request that names them can go on."""
        return tuple(each for each in generations if self.state(each) in LOADABLE)

    def absent_pins(self) -> tuple[str, ...]:
        """Pinned ones to be read without a request; one that failed waits for a request, or to be pinned again."""
        return self.absent(sorted(self.pinned - self.given_up))

    def is_loading(self, generation: str) -> bool:
        return self.state(generation) is AdapterState.LOADING

    def is_kept(self, generation: str) -> bool:
        """Whether it is pinned, and was not given up."""
        return generation in self.pinned and generation not in self.given_up

    def loading_pins(self) -> tuple[str, ...]:
        """Pinned ones that are being read, whether or not a request waits for them."""
        return tuple(each for each in sorted(self.pinned) if self.is_loading(each))

    def load(self, generation: str) -> int:
        """Its files are to be read, if they are not already; returns the ticket that the outcome will carry."""
        known = self._adapters.setdefault(generation, _Resident())
        if known.state is not AdapterState.LOADING:
            self._move(generation, AdapterEvent.LOAD)
            self._tickets += 1
            known.ticket = self._tickets
        return known.ticket

    def expects(self, generation: str, ticket: int) -> bool:
        """False for the outcome of a load that was retired or dropped while its files were read."""
        known = self._adapters.get(generation)
        return known is not None and known.state is AdapterState.LOADING and known.ticket == ticket

    def loaded(self, generation: str, rank: int, blends: bool = True) -> None:
        self._move(generation, AdapterEvent.LOADED)
        known = self._adapters[generation]
        known.rank, known.blends = rank, blends  # of no account before it is on the device
        known.failure, known.retry_s = None, RETRY_S
        self.given_up.discard(generation)

    def failed(self, generation: str, failure: Failure, now: float) -> None:
        """The load came to nothing, for longer the more often it did so without a success between."""
        self._move(generation, AdapterEvent.LOAD_FAILED)
        known = self._adapters[generation]
        known.failure, known.retry_at = failure, now + known.retry_s
        known.retry_s = min(2 * known.retry_s, RETRY_MOST_S)
        self.given_up.add(generation)

    def refusal(self, generations: Iterable[str], now: float) -> Failure | None:
        """Why one of them failed to load, until it is time to try again."""
        for generation in generations:
            known = self._adapters.get(generation)
            if known and known.state is AdapterState.FAILED and now < known.retry_at:
                return known.failure
        return None

    def pinned_rows(self, beside: Iterable[str]) -> int:
        """Rows that pinned adapters take from a request for those `beside` them."""
        held = self.pinned.difference(beside)
        return sum(self._adapters[each].rank for each in held if self.is_near(each))

    def settle_pinned(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Bring pinned adapters from the host to the device where rows are free or can be: (evict, insert)."""
        evict: list[str] = []
        insert: list[str] = []
        ready = (each for each in self.pinned if self.is_kept(each) and self.state(each) is AdapterState.HOST)
        for generation in sorted(ready):
            moves = self.admit((generation,))
            if moves is not None:
                self.release((generation,))
                evict.extend(moves[0])
                insert.extend(moves[1])
        return tuple(evict), tuple(insert)

    def rank_sum(self, generations: Iterable[str]) -> int:
        return sum(self._adapters[generation].rank for generation in generations)

    def rows_to_insert(self, generations: Iterable[str]) -> int:
        """Rows that adapters would take which are on the host and not yet on the device."""
        return self.rank_sum(each for each in generations if self.state(each) is AdapterState.HOST)

    def objection(self, mix: Mix) -> Failure | None:
        """Why a mix can never run here, once all its adapters are near."""
        wanted, pinned = self.rank_sum(mix.adapters), self.pinned_rows(beside=mix.adapters)
        if wanted + pinned > self.row_budget:
            return too_many_rows(wanted, self.row_budget, pinned)
        if not mix.is_single and not all(self._adapters[each].blends for each in mix.adapters):
            return NOT_BLENDABLE
        return None

    def admit(self, generations: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Bring all of them to the device for one request: (evict, insert), or None when rows are short now.

        Evicts the least recently used adapters that no admitted request uses. Nothing changes on None.
        """
        self._clock += 1
        insert = tuple(each for each in generations if self.state(each) is AdapterState.HOST)
        victims = self._victims_for(generations)
        if victims is None:
            return None
        self.evictions += len(victims)
        for generation in victims:
            self._move(generation, AdapterEvent.EVICT)
            self._move(generation, AdapterEvent.DROP)
        for generation in insert:
            self._move(generation, AdapterEvent.INSERT)
        for generation in generations:
            self._users[generation] += 1
            self._adapters[generation].last_used = self._clock
        return victims, insert

    def could_admit(self, generations: tuple[str, ...]) -> bool:
        """Whether `admit` would succeed now."""
        return self._victims_for(generations) is not None

    def release(self, generations: Iterable[str]) -> None:
        """The counterpart of `admit`, once per admitted request."""
        for generation in generations:
            self._users[generation] -= 1
            if not self._users[generation]:
                del self._users[generation]

    def put_back(self, generations: Iterable[str]) -> None:
        """There was no memory for their rows: they are on the host as before, and nobody runs with them.

        A pin among them is given up, so that it does not take memory from requests again and again.
        """
        for generation in generations:
            assert not self._users[generation], generation
            self._move(generation, AdapterEvent.EVICT)
            if generation in self.pinned:
                self.given_up.add(generation)

    def retire(self, generation: str) -> bool:
        """Forget an adapter nobody uses; True when it held rows or tensors that must be given back."""
        assert not self._users[generation], generation
        held = self.is_near(generation)
        self._leave(generation)
        self._adapters.pop(generation, None)
        self.pinned.discard(generation)
        self.given_up.discard(generation)
        return held

    def drop(self, generation: str) -> None:
        """Give up host tensors, or the load of them, that no request waits for any more."""
        self._move(generation, AdapterEvent.DROP)

    def check(self) -> None:
        """Invariants: the budget holds, and what is used is on the device."""
        assert self.rows_used <= self.row_budget, (self.rows_used, self.row_budget)
        for generation, users in self._users.items():
            assert users > 0, generation
            assert self.state(generation) is AdapterState.DEVICE, generation

    def recount(self) -> None:
        """That what is counted as it changes is what there is: too long for every step."""
        held = self._adapters.values()
        assert self.rows_used == sum(each.rank for each in held if each.state is AdapterState.DEVICE)
        assert self.on_host == sum(each.state in ON_HOST for each in held)

    def _victims_for(self, generations: tuple[str, ...]) -> tuple[str, ...] | None:
        excess = self.rows_used + self.rows_to_insert(generations) - self.row_budget
        if excess <= 0:
            return ()
        spare = set(generations)
        idle = [
            generation
            for generation, each in self._adapters.items()
            if each.state is AdapterState.DEVICE
            and not self._users[generation]
            and generation not in spare
            and generation not in self.pinned
        ]
        victims: list[str] = []
        for generation in sorted(idle, key=lambda each: self._adapters[each].last_used):
            if excess <= 0:
                break
            victims.append(generation)
            excess -= self._adapters[generation].rank
        return tuple(victims) if excess <= 0 else None

    def _move(self, generation: str, event: AdapterEvent) -> None:
        known = self._adapters[generation]
        after = advance(known.state, event)
        self._leave(generation)
        known.state = after
        self.rows_used += known.rank if after is AdapterState.DEVICE else 0
        self.on_host += after in ON_HOST

    def _leave(self, generation: str) -> None:
        """It is no longer counted in its present state."""
        self.changes += 1
        if (known := self._adapters.get(generation)) is not None:
            self.rows_used -= known.rank if known.state is AdapterState.DEVICE else 0
            self.on_host -= known.state in ON_HOST
