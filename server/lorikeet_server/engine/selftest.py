"""Before anything is served: does our path compute what the model's own generate() computes?

Two prompts go through generate(); its tokens are then fed through our path (prompts in chunks,
several padded to one length, slots, a foreign row in the batch, rank rows that hold zeros) and the
logits of every step are compared. In fp32 they agree to rounding; in the other forms low bits move
with the batch, so a stated share of the logits' spread is allowed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from lorikeet_adapters.base_model import BaseModel
from lorikeet_adapters.errors import BaseModelRefused
from lorikeet_adapters.families import PROVEN
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.rank_rows.kernels import AUTO
from lorikeet_adapters.weights import AdapterWeights, ModuleRows
from lorikeet_server.engine.batch import Batch, DecodeRow, PrefillChunk
from lorikeet_server.engine.geometry import Geometry, columns_for
from lorikeet_server.engine.request import Request, Sampling
from lorikeet_server.engine.runner import Runner

log = logging.getLogger(__name__)
STEPS = 8
CHUNK = 5
PROMPT_LENGTHS = (11, 4)
# Shares of the standard deviation of the logits: the largest difference in fp32, the 99th percentile elsewhere.
FP32_BOUND = 1e-3
LOW_PRECISION_BOUND = 0.15
ZERO_ADAPTER = "self-test"
ZERO_RANK = 2


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The worst step's difference and its bound, both as shares of the logits' standard deviation."""

    difference: float
    bound: float
    step: int


def self_test(base: BaseModel, kernel: str = AUTO) -> SelfTest:
    """Compare; raises BaseModelRefused naming step and number when our path is not the model's."""
    prompts = _prompts(base)
    expected = [_generate(base, prompt) for prompt in prompts]
    try:
        ours = _teacher_forced(base, kernel, prompts, [tokens for tokens, _ in expected])
    except Exception as error:
        raise BaseModelRefused(
            f"`{base.name}` is not served: its {base.model.config.model_type} layers do not take "
            f"batched slots and rank rows: {str(error) or type(error).__name__}"
        ) from error
    exact = base.quantization is Quantization.FP32
    bound = FP32_BOUND if exact else LOW_PRECISION_BOUND
    worst = SelfTest(0.0, bound, 0)
    for step in range(STEPS):
        theirs = torch.stack([logits[step] for _, logits in expected]).float()
        gap = (ours[step].float() - theirs).abs() / theirs.std()
        difference = float(gap.max() if exact else torch.quantile(gap.flatten(), 0.99))
        if not difference <= worst.difference:  # a NaN is worse than anything
            worst = SelfTest(difference, bound, step)
    if not worst.difference <= bound:
        raise BaseModelRefused(
            f"`{base.name}` is not served: at step {worst.step} the batched path differs from generate() by "
            f"{worst.difference:.3g} standard deviations of the logits, the bound is {bound:g}"
        )
    _warn_of_unproven(base)
    return worst


def _warn_of_unproven(base: BaseModel) -> None:
    """The comparison is short: what a family does only in longer sequences is proven by our tests or by nobody."""
    family = base.model.config.model_type
    if family not in PROVEN:
        log.warning(
            "`%s`: %s models are not among those proven token for token; the self-test has compared %d tokens",
            *(base.name, family, max(PROMPT_LENGTHS) + STEPS),
        )


def _prompts(base: BaseModel) -> list[tuple[int, ...]]:
    vocabulary = base.model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randint(vocabulary, (length,), generator=generator) for length in PROMPT_LENGTHS]
    return [tuple(ids.tolist()) for ids in draw]


@torch.no_grad()
def _generate(base: BaseModel, prompt: tuple[int, ...]) -> tuple[list[int], torch.Tensor]:
    """generate()'s own greedy tokens and the logits[STEPS, V] they came from."""
    ids = torch.tensor([prompt], device=base.device)
    config = GenerationConfig(
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    out = base.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return out.sequences[0, len(prompt) :].tolist(), torch.cat(out.logits)


def _teacher_forced(
    base: BaseModel, kernel: str, prompts: list[tuple[int, ...]], tokens: list[list[int]]
) -> list[torch.Tensor]:
    """Our logits[2, V] for each step, a foreign row beside them, one of the two through rank rows of zeros."""
    longest, slots = max(PROMPT_LENGTHS) + STEPS, len(prompts) + 1
    geometry = Geometry(slots, longest, slots * columns_for(longest), slots * longest)
    runner = Runner(base, geometry, rows=ZERO_RANK, kernel=kernel)
    runner.hold(ZERO_ADAPTER, _zero_adapter(base))
    runner.move(Batch(insert=(ZERO_ADAPTER,)))
    zeros = Mix((Term(ZERO_ADAPTER, 1.0),))
    sampling = Sampling(max_tokens=STEPS)
    foreign = Request("self-test-foreign", prompts[0][:3], sampling, zeros)
    requests = [
        Request("self-test-base", prompts[0], sampling),
        Request("self-test-zeros", prompts[1], sampling, zeros),
    ]
    steps = [_prefill(runner, [*requests, foreign])[: len(requests)]]
    for index in range(STEPS - 1):
        rows = [DecodeRow(request, own[index], index) for request, own in zip(requests, tokens, strict=True)]
        logits = runner.decode([*rows, DecodeRow(foreign, tokens[0][index], index)])
        steps.append(logits[: len(requests)])
    runner.detach()
    return steps


def _prefill(runner: Runner, requests: list[Request]) -> torch.Tensor:
    """Every prompt's first chunk in one forward, what follows of each alone; the logits[requests, V] after them."""
    logits = list(runner.prefill(*(_chunk(request, 0) for request in requests)))
    for row, request in enumerate(requests):
        for start in range(CHUNK, len(request.prompt), CHUNK):
            (logits[row],) = runner.prefill(_chunk(request, start))
    return torch.stack(logits)


def _chunk(request: Request, start: int) -> PrefillChunk:
    stop = start + CHUNK
    return PrefillChunk(request, start, request.prompt[start:stop], is_last=stop >= len(request.prompt))


def _zero_adapter(base: BaseModel) -> AdapterWeights:
    def rows(inside: int, outside: int) -> ModuleRows:
        ones = torch.ones(ZERO_RANK, inside, dtype=base.compute_dtype)
        return ModuleRows(ones, torch.zeros(ZERO_RANK, outside, dtype=base.compute_dtype))

    shapes = base.linears.items()
    return AdapterWeights({name: rows(shape.in_features, shape.out_features) for name, shape in shapes})
