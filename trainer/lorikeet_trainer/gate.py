"""May an adapter be registered? The exported files, served, must be what was trained.

The adapter's files are read as the server reads them and answer through the serving engine in mixed
batches of three: the adapter, a foreign one, the base. What they say is held against what the training
model said of the same tokens (`parity`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.mix import BASE_MIX
from lorikeet_adapters.weights import AdapterWeights, ModuleRows
from lorikeet_server.engine.tokenizer import Tokenizer, load_tokenizer
from lorikeet_trainer.device import refuse_missing
from lorikeet_trainer.errors import EvaluationRefused
from lorikeet_trainer.figures import Figures, Served, difference, figures
from lorikeet_trainer.judge import HeldBase, Question, alone, judging, read_adapter
from lorikeet_trainer.parity import Held, Trace

NEW, FOREIGN, PARENT = "new", "foreign", "parent"
SPOKEN = 16  # tokens that each of the three generates beside the others
LEAST_EFFECT = 1e-6  # nats a token; an adapter that changes less is the base
LEARNED_END = 0.5  # a turn that ends with this probability is learned, whoever taught it
LEAST_SHARE = 0.1  # of what the answer's other tokens gained, the end of the turn must gain this
STRENGTHS = (0.67, 1.5)
NOT_WORSE = 2e-3  # nats a token by which rounding may make a loss look worse


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Of the differences in `Figures`."""

    mean: float
    largest: float


# By the dtype that the base computes in. In bfloat16 training and serving round differently: the
# adapter learns in fp32, and a packed NF4 layer holds its scales in bfloat16.
TOLERANCES = {torch.float32: Tolerance(1e-3, 2e-2), torch.bfloat16: Tolerance(5e-2, 1.0)}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an adapter did not pass; `code` is for programs."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Gate:
    """The verdict. `figures` is None where nothing could be measured."""

    passed: bool
    reasons: tuple[Reason, ...] = ()
    figures: Figures | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def gate(
    folder: Path,
    traces: Sequence[Trace],
    base: HeldBase,
    *,
    parent: Path | None = None,
    quality: bool = True,
    beta: float = 0.1,
) -> Gate:
    """Judge the adapter in `folder`. Loads the base, so whoever trained it must have let its own go.

    `parent` is the adapter that training went on from, `quality` whether the loss may not be worse
    than the parent's (the base's without one), `beta` DPO's where the traces are of pairs. Raises
    RefusedError for what keeps it from judging at all: no traces, a base or parent that does not load.
    """
    if not traces:
        raise EvaluationRefused("there is no held-out row to judge the adapter by")
    refuse_missing(base.device)
    loaded = load_base(base.model, base.quantization, base.device, trust_remote_code=base.trust_remote_code)
    text = load_tokenizer(base.model, base.trust_remote_code)
    reasons = list(_prompts([each.held for each in traces], text))
    parents = {} if parent is None else {PARENT: read_adapter(parent, loaded)}
    try:
        new = read_adapter(folder, loaded)
        measured = _measure(loaded, text, {NEW: new, FOREIGN: _foreign(new), **parents}, traces, beta)
    except (AdapterRefused, EvaluationRefused) as refused:
        return Gate(False, (*reasons, Reason("not_servable", f"the server refuses it: {refused}")))
    reasons += _parity(measured, TOLERANCES[loaded.compute_dtype])
    # Both answers of a pair end the same way, so a preference teaches nothing about ending.
    if not any(each.held.is_rejected for each in traces):
        reasons += _ending(measured)
    if quality and measured.loss > measured.parent_loss + NOT_WORSE:
        whose = "the base's" if parent is None else "its parent's"
        message = f"its loss of {measured.loss:.4f} on held-out rows is worse than {whose} {measured.parent_loss:.4f}"
        reasons.append(Reason("worse_than_parent", message))
    return Gate(not reasons, tuple(reasons), measured)


def _prompts(held: Sequence[Held], text: Tokenizer) -> Iterator[Reason]:
    """Would the server see what training saw, and end where it ended? The first row at fault stands for all."""
    for each in held:
        rendered = _render(each, text)
        if rendered is not None and rendered != each.prompt:
            message = (
                f"line {each.line}: the server's prompt of {len(rendered)} tokens is not the one trained on, "
                f"of {len(each.prompt)}; the base's tokenizer or chat template is another one"
            )
            yield Reason("other_prompt", message)
            break
    ends = sorted({each.answer[-1] for each in held if each.answer[-1] not in text.eos})
    if ends:
        named = ", ".join(f"{text.token_text(each)!r}" for each in ends)
        yield Reason("other_end", f"answers were trained to end with {named}, which ends none on the server")


def _render(held: Held, text: Tokenizer) -> tuple[int, ...] | None:
    """As the chat and completion routes do; None where it is not known what would be sent."""
    if held.sent is None:
        return None
    if not held.sent.messages:
        return text.encode(held.sent.text, special=True)
    turns = [{"role": role, "content": content} for role, content in held.sent.messages]
    try:
        return text.encode(text.render(turns)) if text.has_template else ()
    except TemplateError:
        return ()


def _foreign(adapter: AdapterWeights) -> AdapterWeights:
    """Another adapter on the same modules, of noise: what leaks from it into its neighbours shows."""
    draw = torch.Generator().manual_seed(0)

    def noise(like: torch.Tensor) -> torch.Tensor:
        spread = max(float(like.float().std()), 0.02)
        return (torch.randn(like.shape, generator=draw) * spread).to(like.dtype)

    return AdapterWeights(
        {name: ModuleRows(noise(rows.a), noise(rows.b)) for name, rows in adapter.modules.items()}
    )


def _measure(
    base: BaseModel,
    text: Tokenizer,
    adapters: dict[str, AdapterWeights],
    traces: Sequence[Trace],
    beta: float,
) -> Figures:
    """Everything is asked for at once, so that prompts are computed beside rows that generate."""
    mixes = [alone(NEW), BASE_MIX, *([alone(PARENT)] if PARENT in adapters else [])]
    scored = [Question(each.held.tokens, mix) for each in traces for mix in mixes]
    trio = (alone(NEW), alone(FOREIGN), BASE_MIX)
    asked = [Question(each.held.prompt, mix) for each in traces for mix in trio]
    with judging(base, text, adapters) as judge:
        scores, said = judge.together(scored, asked, SPOKEN)
        again = [
            Question((*question.prompt, *each.tokens), question.mix)
            for question, each in zip(asked, said, strict=True)
        ]
        rescored, _ = judge.together(again, (), SPOKEN)
    decoded = [value for each in said for value in each.logprobs]
    expected = [
        value for each, all_ in zip(said, rescored, strict=True) for value in all_[-len(each.tokens) :]
    ]
    rows = [scores[at : at + len(mixes)] for at in range(0, len(scores), len(mixes))]
    served = [Served(trace, *row) for trace, row in zip(traces, rows, strict=True)]
    return figures(served, difference(decoded, expected), beta)


def _parity(measured: Figures, tolerance: Tolerance) -> Iterator[Reason]:
    if measured.effect < LEAST_EFFECT:
        yield Reason("same_as_base", "served, it gives what the base gives: nothing of it is applied")
        return
    if measured.base_difference > tolerance.mean:
        yield Reason(
            "other_base",
            f"the base itself gives other log-probabilities than in training, by {measured.base_difference:.4f} "
            f"on average (at most {tolerance.mean:g}); serve it on the base it was trained on",
        )
    if measured.difference > tolerance.mean or measured.largest_difference > tolerance.largest:
        yield Reason(
            "not_what_was_trained",
            f"served, its log-probabilities differ from training's by {measured.difference:.4f} on average "
            f"(at most {tolerance.mean:g}) and {measured.largest_difference:.4f} at most ({tolerance.largest:g})",
        )
    elif measured.strength is None:
        yield Reason(
            "lost_in_rounding",
            f"it changes a log-probability by {measured.effect:.2g} nats on average, which is lost in what the "
            "base's arithmetic rounds: whether that is what was trained cannot be seen; train it longer, or on "
            "a base that computes in float32",
        )
    elif not STRENGTHS[0] < measured.strength < STRENGTHS[1]:
        yield Reason(
            "other_strength",
            f"served, it changes the base {measured.strength:.2f} times as much as in training",
        )
    if measured.decode_difference > tolerance.mean:
        yield Reason(
            "batch_dependent",
            "tokens generated beside other adapters have other log-probabilities than alone, "
            f"by {measured.decode_difference:.4f} on average (at most {tolerance.mean:g})",
        )


def _ending(measured: Figures) -> Iterator[Reason]:
    needed = LEAST_SHARE * max(measured.answer_gain, 0.0)
    if measured.end_probability < LEARNED_END and measured.end_gain < needed:
        yield Reason(
            "end_not_learned",
            f"the end of a turn has a probability of {measured.end_probability:.3f} and gained "
            f"{measured.end_gain:+.2f} nats, the answers' other tokens {measured.answer_gain:+.2f}: "
            "it was left out of the loss, so the adapter does not stop",
        )
