"""What one OpenAI body asks for, and its answer: whole, or as a stream's chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from lorikeet_server.api import sse
from lorikeet_server.api.choice import Choice, Names, Prompt
from lorikeet_server.api.mixes import mix_field
from lorikeet_server.api.run import Answer, checked, interleaved
from lorikeet_server.api.services import Events
from lorikeet_server.api.wire import GenerationBody
from lorikeet_server.engine.request import Finished, PromptScores, Request, Sampling, Timing, Token


@dataclass(frozen=True, slots=True)
class Job:
    """A body with its prompts and the most tokens to generate for each; `make` spells the choice of an index."""

    body: GenerationBody
    prompts: Sequence[Prompt]
    limits: Sequence[int]
    names: Names
    make: Callable[[int, Prompt], Choice]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def samplings(self) -> list[tuple[Prompt, Sampling]]:
        """For each prompt as many requests as it is to have answers. Raises RequestRefused."""
        pairs = zip(self.prompts, self.limits, strict=True)
        return [(prompt, each) for prompt, limit in pairs for each in self.body.samplings(limit)]

    def choice(self, index: int) -> Choice:
        """The choice that is told in this place."""
        return self.make(index, self.prompts[index // self.body.n])

    def head(self, kind: str) -> dict[str, Any]:
        named = f"{self.names.prefix}-{self.id}"
        return {"id": named, "object": kind, "created": self.created, "model": self.body.model}


def whole(job: Job, requests: Sequence[Request], answers: Sequence[Answer]) -> dict[str, Any]:
    """The answers in the order of their requests, as one object."""
    each = job.body.answers
    told = [
        answer
        for first in range(0, len(answers), each)
        for answer in best(answers[first : first + each], job.body.n)
    ]
    choices = [job.choice(index) for index in range(len(told))]
    return {
        **job.head(job.names.whole),
        "choices": [choice.whole(answer) for choice, answer in zip(choices, told, strict=True)],
        "usage": _usage(job, sum(answer.end.completion_tokens for answer in answers)),
        **choices[0].beside(told[0].prompt),
        "lorikeet": _details(requests[0], [answer.end.timing for answer in answers]),
    }


def best(answers: Sequence[Answer], count: int) -> Sequence[Answer]:
    """Those whose tokens are the most likely on average, the best first; all of them stay in their order."""
    if count == len(answers):
        return answers
    return sorted(answers, key=lambda answer: -answer.mean_logprob)[:count]


async def chunks(job: Job, requests: Sequence[Request], streams: Sequence[Events]) -> AsyncIterator[str]:
    """The answers as they come, each chunk of one choice."""
    body, field_of_mix, completion_tokens = job.body, mix_field(job.body), 0

    def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
        usage: dict[str, Any] = {"usage": None} if body.wants_usage else {}
        return sse.data({**job.head(job.names.chunk), "choices": choices, **usage, **more})

    choices = [job.choice(index) for index in range(len(requests))]
    async with aclosing(interleaved(streams)) as events:
        for choice in choices:
            if choice.opens_at_once:
                yield chunk([choice.opening()], **choice.beside())
        async for place, event in events:
            choice = choices[place]
            match event:
                case PromptScores(scores=scores):
                    yield chunk([choice.opening(scores)])
                case Token():
                    if event.text or body.tells_tokens:
                        yield chunk([choice.piece(event.text, [event])])
                case Finished():
                    end = checked(event, field_of_mix)
                    completion_tokens += end.completion_tokens
                    if end.text:
                        yield chunk([choice.piece(end.text, [])])
                    details = _details(requests[place], [end.timing])
                    yield chunk([choice.piece("", [], end.reason)], lorikeet=details)
    if body.wants_usage:
        yield chunk([], usage=_usage(job, completion_tokens))
    yield sse.DONE


def _usage(job: Job, completion: int) -> dict[str, int]:
    """A prompt counts once, whatever it has answers; of those every one counts, told or not."""
    prompt = sum(len(each.ids) for each in job.prompts)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _details(request: Request, timings: Sequence[Timing]) -> dict[str, Any]:
    """Ours: what the mix was and how long it took, in seconds, to the first start, first token and last end."""
    mix = [{"generation": term.adapter, "weight": term.weight} for term in request.mix.terms]

    def first(moments: Sequence[float | None]) -> float | None:
        return min((each for each in moments if each is not None), default=None)

    return {
        "mix": mix,
        "queue_s": first([each.queued for each in timings]),
        "first_token_s": first([each.first_token for each in timings]),
        "total_s": max(each.total for each in timings),
    }
