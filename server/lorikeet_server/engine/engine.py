"""The engine: one thread that owns the model, its slots, its rank rows and the scheduler.

Others send messages through `submit`, `cancel`, `retire` and `stop`; events come back once per step
through `publish`. There are no locks: ownership replaces them.
"""

from __future__ import annotations

import logging
import math
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

import torch

from lorikeet_adapters.base_model import BaseModel
from lorikeet_adapters.mix import BASE_MIX, Mix
from lorikeet_adapters.record import Memory
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_server.engine.batch import Batch, Load, Sampled, StepOutput
from lorikeet_server.engine.capacity import plan_capacity
from lorikeet_server.engine.command import (
    AdapterArrived,
    AdapterMissing,
    Cancel,
    Command,
    Pin,
    Retire,
    Stop,
    Submit,
)
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.failures import DEAD, NON_FINITE, OUT_OF_MEMORY
from lorikeet_server.engine.host_tier import HostTier
from lorikeet_server.engine.lifecycle import FINISH_REASONS, RequestEvent
from lorikeet_server.engine.loader import Fetch, Loader
from lorikeet_server.engine.pace import Pace
from lorikeet_server.engine.prefix_index import PrefixIndex
from lorikeet_server.engine.progress import Ending
from lorikeet_server.engine.request import Event, Failure, FinishReason, Request
from lorikeet_server.engine.residency import Residency
from lorikeet_server.engine.roster import Roster, Vocabulary
from lorikeet_server.engine.runner import Runner
from lorikeet_server.engine.scheduler import Scheduler
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.engine.tally import Tally
from lorikeet_server.engine.watchdog import Pulse, Watchdog

log = logging.getLogger(__name__)


def ignore_events(events: Sequence[Event]) -> None:
    """A publisher for callers that read the events from `step`."""


class Engine:
    """`fetch` reads a generation's tensors; it runs on the loader's thread."""

    def __init__(
        self,
        base: BaseModel,
        config: EngineConfig,
        vocabulary: Vocabulary,
        fetch: Fetch,
        publish: Callable[[Sequence[Event]], None] = ignore_events,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity = plan_capacity(base, config)
        self.max_model_len = capacity.max_model_len
        self.failure: Failure | None = None
        self.stats = EngineStats(
            slots=config.max_slots,
            rows=config.rank_rows,
            cache_limit=capacity.geometry.cells * capacity.column_bytes,
            cache_cells=capacity.geometry.cells,
        )
        self.runner = Runner(base, capacity.geometry, config.rank_rows, config.kernel, vocabulary.eos)
        self.publish = publish
        self._config = config
        self._clock = clock
        self._residency = Residency(config.rank_rows)
        self._host = HostTier(capacity.host_adapter_bytes)
        # A GPU's prompts take no time that anybody notices, nor any that is known when they are handed over.
        self._pace = Pace(
            config.prefill_tokens, config.prefill_ms / 1e3 if base.device.type == "cpu" else 0.0
        )
        self._prefixes = PrefixIndex(capacity.prefix_blocks)
        self._scheduler = Scheduler(config, self._residency, capacity.geometry, self._prefixes)
        self._roster = Roster(
            vocabulary, self.max_model_len, base.model.get_input_embeddings().num_embeddings
        )
        self._pending: list[Event] = []  # events that commands caused, published with the step's
        self._retired: list[tuple[Future[Memory], Memory]] = []
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._loader = Loader(fetch, self._commands.put)
        self._stopping = False
        self._pulse = Pulse()
        self._watchdog = Watchdog(self._pulse, config.step_seconds)
        self._tally = Tally(capacity)

    # Any thread.

    def submit(self, request: Request) -> None:
        """Every submitted request ends in exactly one `Finished`."""
        self._commands.put(Submit(request))

    def cancel(self, request_id: str) -> None:
        """End a request as aborted; unknown or finished ones are ignored."""
        self._commands.put(Cancel(request_id))

    def retire(self, generation: str) -> Future[Memory]:
        """Give an adapter's memory back; the answer, in bytes, comes once that is done."""
        answer: Future[Memory] = Future()
        self._commands.put(Retire(generation, answer))
        return answer

    def pin(self, generation: str, pinned: bool) -> None:
        """Keep an adapter on the device, loading it without any request; or no longer."""
        self._commands.put(Pin(generation, pinned))

    def stop(self) -> None:
        self._commands.put(Stop())

    def read_stats(self) -> EngineStats:
        """The last step's stats, and how long the present one has taken."""
        return replace(self.stats, step_age=self._pulse.age)

    @property
    def hangs(self) -> bool:
        """The present step takes longer than any should; the log has the stacks."""
        return self._watchdog.hangs

    # The engine thread.

    def run(self) -> None:
        """Serve until `stop`. An error inside a step ends every request and is remembered."""
        if self._config.threads:
            torch.set_num_threads(self._config.threads)
        self._watchdog.start()
        while not self._stopping:
            try:
                self.publish(self.step())
            except Exception:
                log.exception("the engine died")
                self._pulse.end()
                self.publish(self._die())
        self._watchdog.stop()
        self.publish(self._abort_all())
        self._loader.close()

    def step(self) -> list[Event]:
        """One round: commands, decision, computation, consequences. Sleeps while there is nothing to do."""
        self._drain()
        self._pulse.begin()
        self._expire()
        batch = self._scheduler.schedule(self._pace.tokens)
        self._begin(batch)
        output = self.runner.execute(batch)
        self._pace.note(sum(len(chunk.tokens) for chunk in output.prefilled), output.prefill_seconds)
        events = [*self._pending, *self._apply(output)]
        self._pending = []
        self._tally.steps += bool(batch.tokens)
        self.stats = self._tally.read(
            self._scheduler, self._residency, self._host, self._prefixes, self.runner
        )
        self._answer_retired()
        self._pulse.end()
        return events

    @property
    def idle(self) -> bool:
        """Nothing to compute and nothing to give back."""
        return self._scheduler.idle

    def logprobs(self, prompt: Sequence[int], completion: Sequence[int], mix: Mix = BASE_MIX) -> list[float]:
        """Teacher-forced log-probabilities of `completion`; every adapter of `mix` must be resident."""
        values: list[float] = self.runner.logprobs(prompt, completion, mix).tolist()
        return values

    def close(self) -> None:
        """For callers that drive `step` themselves."""
        self._loader.close()
        self.runner.detach()

    def _drain(self) -> None:
        if self._scheduler.idle and not self._pending:
            self._sleep()
        while not self._commands.empty():
            self._obey(self._commands.get())

    def _sleep(self) -> None:
        """Until a command comes, or a request that waits for its adapter has waited too long."""
        seconds = self._scheduler.next_deadline - self._clock()
        with suppress(queue.Empty):
            self._obey(self._commands.get(timeout=None if seconds == math.inf else max(seconds, 0.0)))

    def _expire(self) -> None:
        for request_id, failure in self._scheduler.expired(self._clock()):
            self._finish(request_id, Ending(RequestEvent.FAIL), failure)

    def _obey(self, command: Command) -> None:
        match command:
            case Submit(request):
                self._accept(request)
            case Cancel(request_id):
                if request_id in self._scheduler:
                    self._finish(request_id, Ending(RequestEvent.ABORT))
            case AdapterArrived(load, weights):
                self._arrived(load, weights)
            case AdapterMissing(load, failure):
                self._missing(load, failure)
            case Retire(generation, answer):
                self._retired.append((answer, self._give_back(generation)))
            case Pin(generation, pinned):
                self._scheduler.pin(generation, pinned)
                self._fail_unservable()
            case Stop():
                self._stopping = True

    def _accept(self, request: Request) -> None:
        objection = self._roster.enter(request)
        failure = self.failure or objection or self._residency.refusal(request.mix.adapters, self._clock())
        if failure is not None:
            self._pending.append(self._roster.leave(request.id, FinishReason.FAILED, failure=failure))
            return
        self._scheduler.add(request)
        self._fail_unservable()

    def _arrived(self, load: Load, weights: AdapterWeights) -> None:
        if not self._scheduler.expects(load):
            return  # retired or dropped while it was read
        self._tally.loads += 1
        self._host.keep(load.generation, weights)
        self._supplied(load, weights)

    def _supplied(self, load: Load, weights: AdapterWeights) -> None:
        self.runner.hold(load.generation, weights)
        self._scheduler.adapter_loaded(load.generation, weights.rank, blends=not weights.is_dora)
        self._fail_unservable()

    def _missing(self, load: Load, failure: Failure) -> None:
        if self._scheduler.expects(load):
            self._tally.failed_loads += 1
            for request_id in self._scheduler.adapter_failed(load.generation, failure, self._clock()):
                self._finish(request_id, Ending(RequestEvent.FAIL), failure)

    def _give_back(self, generation: str) -> Memory:
        held = self.runner.held(generation)
        held = held if self._scheduler.retire(generation) else Memory()
        # What waits on the host to be inserted is the same that is kept there, not as much again.
        return Memory(held.device, max(held.host, self._host.forget(generation)))

    def _fail_unservable(self) -> None:
        for request_id, failure in self._scheduler.unservable():
            self._finish(request_id, Ending(RequestEvent.FAIL), failure)

    def _begin(self, batch: Batch) -> None:
        absent = []
        for load in batch.load:
            if (weights := self._host.find(load.generation)) is not None:
                self._supplied(load, weights)
            else:
                absent.append(load)
        self._loader.load(absent)
        for chunk in batch.prefill:
            self._roster.began(chunk.request.id)

    def _apply(self, output: StepOutput) -> list[Event]:
        """Fold a step's tokens into the requests: the only loop over the whole batch."""
        for chunk in output.prefilled:
            self._scheduler.prefilled(chunk)
        events: list[Event] = []
        for request_id, sampled in output.sampled.items():
            events.extend(self._advance(request_id, sampled))
        if output.out_of_memory:
            events.extend(self._shed(output.not_inserted))
        return events

    def _advance(self, request_id: str, sampled: Sampled) -> list[Event]:
        if sampled.token is None:
            failure = sampled.failure or NON_FINITE
            return [self._end(request_id, Ending(RequestEvent.FAIL), failure)]
        self._scheduler.append(request_id, sampled.token)
        events, ending = self._roster.push(request_id, sampled)
        return [*events] if ending is None else [*events, self._end(request_id, ending)]

    def _shed(self, not_inserted: tuple[str, ...]) -> list[Event]:
        """Memory ran out: the newest request fails, and the others compute again what they lost."""
        self._host.clear()
        newest = self._scheduler.out_of_memory(not_inserted)
        return [self._end(newest, Ending(RequestEvent.FAIL), OUT_OF_MEMORY)] if newest else []

    def _finish(self, request_id: str, ending: Ending, failure: Failure | None = None) -> None:
        self._pending.append(self._end(request_id, ending, failure))

    def _end(self, request_id: str, ending: Ending, failure: Failure | None = None) -> Event:
        state = self._scheduler.finish(request_id, ending.event)
        self.runner.guides.drop(request_id)
        return self._roster.leave(request_id, FINISH_REASONS[state], ending, failure)

    def _abort_all(self) -> list[Event]:
        """The last events: what was still on its way in is answered too."""
        while not self._commands.empty():
            self._obey(self._commands.get())
        for request_id in self._scheduler.request_ids:
            self._finish(request_id, Ending(RequestEvent.ABORT))
        events, self._pending = self._pending, []
        self._answer_retired()
        return events

    def _die(self) -> list[Event]:
        """After an error inside a step nothing of its state can be trusted: remember it and answer everybody."""
        self.failure = DEAD
        answered, self._pending = self._pending, []
        ended = self._roster.leave_all(DEAD)
        self._residency = Residency(self._config.rank_rows)
        self._prefixes = PrefixIndex(0)
        self._scheduler = Scheduler(self._config, self._residency, self.capacity.geometry, self._prefixes)
        self._answer_retired()
        return [*answered, *ended]

    def _answer_retired(self) -> None:
        """After the step that gave the memory back."""
        for answer, memory in self._retired:
            answer.set_result(memory)
        self._retired = []
