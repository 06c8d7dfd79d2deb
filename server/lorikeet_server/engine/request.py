"""What goes into the engine and what comes out: frozen values, no torch, no HTTP."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from lorikeet_adapters.mix import BASE_MIX, Mix
from lorikeet_server.engine.constraint import Grammar

Top = tuple[tuple[int, float], ...]  # (token, log-probability), the most likely first


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request's tokens are chosen, when it ends and what is told about them.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1, `min_p` 0 and `typical_p` 1 leave everything in;
    sampler.py says in which order they come. A token's random number depends on `seed` and the token's
    index alone, never on what else is in the batch.

    `max_tokens` 0 ends with the prompt. Before `min_tokens` no token and no stop string ends it.
    `logprobs` is how many of the most likely tokens are told with each token, `prompt_logprobs` the same
    for the prompt's own tokens; None tells nothing.
    """

    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    min_tokens: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    @property
    def looks_back(self) -> bool:
        """Whether the choice of a token depends on those before it."""
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1.0, 0.0, 0.0)

    def ends(self, eos: frozenset[int]) -> frozenset[int]:
        """The tokens that end it, of a base whose answers end with `eos`."""
        return self.stop_token_ids | (frozenset() if self.ignore_eos else eos)


@dataclass(frozen=True, slots=True)
class Request:
    """`mix` names generations; whoever submits holds a lease on them until the terminal event.

    Tenants share the engine evenly; among the requests of one, a lower `priority` comes first. The
    deadlines are moments of time.monotonic(): the one for the start of its prefill, the other for its end.
    A `grammar` says what form the answer has; when that is complete, only an end-of-turn token can follow.
    """

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling
    mix: Mix = BASE_MIX
    tenant: str = ""
    priority: int = 0
    start_by: float = math.inf
    end_by: float = math.inf
    grammar: Grammar | None = None


class FinishReason(StrEnum):
    STOP = "stop"  # an end-of-turn token, a stop token or a stop string
    LENGTH = "length"  # max_tokens or the end of the context
    ABORTED = "aborted"  # the client left or the server is going down
    FAILED = "failed"  # see the failure beside it


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one request failed. `code` is for programs; `message` is safe to show to the client."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds since the request was submitted; None for what never happened."""

    queued: float | None = None
    first_token: float | None = None
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Score:
    """How likely the model held one prompt token to be: its rank, 1 for the most likely, and who came first."""

    token_id: int
    logprob: float
    rank: int
    top: Top = ()


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Once, before the first token, where it is asked for: every prompt token but the first."""

    request_id: str
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. `text` is what became sayable with it, which may be nothing yet.

    `logprob` and `top` are of the model's own distribution, before anything `Sampling` does to it.
    """

    request_id: str
    index: int
    token_id: int
    logprob: float
    text: str
    top: Top = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The one terminal event of a request. `text` is what was still held back."""

    request_id: str
    reason: FinishReason
    completion_tokens: int
    text: str = ""
    stopped_by: str | int | None = None
    failure: Failure | None = None
    timing: Timing = field(default_factory=Timing)


Event = PromptScores | Token | Finished
