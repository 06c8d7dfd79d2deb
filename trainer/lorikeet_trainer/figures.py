"""From log-probabilities, trained and served, to the numbers that a gate decides by. No model in here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from lorikeet_trainer.parity import Trace

RESOLVED = 5.0


@dataclass(frozen=True, slots=True)
class Served:
    """What the serving engine says of one trace: log-probabilities in the same places, in nats.

    `parent` is None where the trained adapter goes on from none.
    """

    trace: Trace
    adapted: tuple[float, ...]
    base: tuple[float, ...]
    parent: tuple[float, ...] | None = None

    def answer(self, logprobs: Sequence[float]) -> Sequence[float]:
        """Those of the answer's tokens."""
        return logprobs[len(self.trace.held.prompt) - 1 :]


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured over `rows` sequences of `tokens` tokens; all probabilities through the engine.

    A difference is the mean, or the largest, of |served - trained| in nats, over the size of the
    trained log-probability where that is above one nat: what is improbable is also imprecise.
    `decode_difference` is between tokens generated in a mixed batch and the same tokens scored as a
    prompt. `effect` is the mean change that the adapter makes to a token's log-probability, and
    `strength` how much of the change seen in training is served: 1 is all, 0 none, 2 twice as much, and
    None where rounding hides it.
    `end_probability` is the median at the end of the turn, `end_gain` and `answer_gain` what the
    adapter adds on average to the log-probability there and on the answer's other tokens. `loss` is
    nats a token of the answers; where there are pairs it is DPO's.
    """

    rows: int
    tokens: int
    difference: float
    largest_difference: float
    base_difference: float
    decode_difference: float
    effect: float
    strength: float | None
    end_probability: float
    end_gain: float
    answer_gain: float
    loss: float
    parent_loss: float


def figures(served: Sequence[Served], decode_difference: float, beta: float) -> Figures:
    """`beta` is DPO's. Without a parent adapter the base stands in its place: it is the empty mix."""
    told = [each.trace for each in served]
    errors = list(chain.from_iterable(_errors(each.adapted, each.trace.adapted) for each in served))
    base_errors = chain.from_iterable(_errors(each.base, each.trace.base) for each in served)
    wanted = [each for each in served if not each.trace.held.is_rejected]
    answers = [(each.answer(each.adapted), each.answer(each.base)) for each in wanted]
    return Figures(
        rows=len(served),
        tokens=sum(len(each.adapted) for each in told),
        difference=fmean(errors),
        largest_difference=max(errors),
        base_difference=fmean(base_errors),
        decode_difference=decode_difference,
        effect=fmean(abs(each) for row in served for each in _less(row.adapted, row.base)),
        strength=_strength(served),
        end_probability=math.exp(sorted(own[-1] for own, _ in answers)[len(answers) // 2]),
        end_gain=fmean(own[-1] - base[-1] for own, base in answers),
        answer_gain=_mean(each for own, base in answers for each in _less(own[:-1], base[:-1])),
        loss=_loss([(each, each.adapted) for each in served], beta),
        parent_loss=_loss([(each, each.parent or each.base) for each in served], beta),
    )


def difference(served: Iterable[float], trained: Iterable[float]) -> float:
    """The mean; 0 of nothing."""
    return _mean(_errors(served, trained))


def _errors(served: Iterable[float], trained: Iterable[float]) -> Iterable[float]:
    return (abs(ours - theirs) / max(1.0, -theirs) for ours, theirs in zip(served, trained, strict=True))


def _strength(served: Sequence[Served]) -> float | None:
    """The slope of the served change over the trained one through the origin.

    Rounding is spread over all tokens alike and cancels out, a wrong scale is the same on each: this
    finds it in an adapter whose whole effect is smaller than one token's tolerance. None where the change
    is not `RESOLVED` times what rounding alone does to the base: the slope of noise is near 0.
    """
    pairs = [
        pair
        for each in served
        for pair in zip(
            _less(each.adapted, each.base), _less(each.trace.adapted, each.trace.base), strict=True
        )
    ]
    trained = sum(theirs * theirs for _, theirs in pairs)
    rounding = sum(each * each for row in served for each in _less(row.base, row.trace.base))
    if trained <= RESOLVED * RESOLVED * rounding:
        return None
    return sum(ours * theirs for ours, theirs in pairs) / trained


def _loss(rows: Sequence[tuple[Served, Sequence[float]]], beta: float) -> float:
    """Nats a token of the answers, or where there are pairs a pair: -log sigmoid(beta * margin)."""
    if not any(row.trace.held.is_rejected for row, _ in rows):
        return -fmean(each for row, logprobs in rows for each in row.answer(logprobs))
    gains = [sum(row.answer(logprobs)) - sum(row.answer(row.base)) for row, logprobs in rows]
    margins = [beta * (chosen - rejected) for chosen, rejected in zip(gains[::2], gains[1::2], strict=True)]
    return fmean(_softplus(-each) for each in margins)


def _softplus(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


def _less(left: Iterable[float], right: Iterable[float]) -> list[float]:
    return [ours - theirs for ours, theirs in zip(left, right, strict=True)]


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return fmean(listed) if listed else 0.0
