"""The same work by PEFT and by transformers: `generate()` on their own copies of the base.

PEFT's arm is `adapter_names`, the way it serves several adapters at once; with one adapter every row
names the same. The other is plain transformers on merged weights. Both hold the weights as the base is held.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import StoppingCriteria, StoppingCriteriaList

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_bench.adapter import AdapterSet, BenchAdapter
from lorikeet_bench.label import PEFT, TRANSFORMERS, Label
from lorikeet_bench.merged import hold_merged
from lorikeet_bench.plan import Plan
from lorikeet_bench.timed import Prompts, Timed

PEER_ADAPTERS = (1, 8)  # PEFT's mixed batch is slow enough that more says nothing new


@dataclass(frozen=True, slots=True)
class GenerateArm:
    """Row i of a batch is answered by `names[i % len(names)]`, or by the model itself when there are none."""

    label: Label
    model: Any
    names: tuple[str, ...] = ()

    @property
    def distinct(self) -> int:
        return max(len(self.names), 1)

    def run(self, prompts: Prompts, tokens: int) -> Timed:
        ids = torch.tensor(prompts, device=self.model.device)
        clock = _Clock()
        more: dict[str, Any] = {}
        if self.names:
            more["adapter_names"] = [self.names[row % len(self.names)] for row in range(len(prompts))]
        started = time.perf_counter()
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([clock]),
                **more,
            )
        duration = time.perf_counter() - started
        answers = tuple(tuple(row) for row in out[:, ids.shape[1] :].tolist())
        assert {len(row) for row in answers} == {tokens}, self.label
        first, last = clock.stamps[0] - started, clock.stamps[-1] - started
        return Timed.of([first] * len(prompts), [last] * len(prompts), duration, answers)


def open_peers(
    plan: Plan, base: BaseModel, sets: Sequence[AdapterSet], merged: Path | None, left_out: list[str]
) -> Iterator[GenerateArm]:
    """PEFT at one rank with one and with eight adapters, as far as the plan has them; transformers merged.

    PEFT computes its LoRA in the base's compute dtype, as our engine does: left to itself it takes fp32.
    """
    chosen = next((each for each in sets if each.rank == plan.peer_rank), sets[0])
    counts = [count for count in PEER_ADAPTERS if count == 1 or count in plan.adapters]
    possible: list[tuple[Label, int]] = []
    for count in counts:
        label = Label(PEFT, tuple(each.weights.rank for each in chosen.adapters[:count]))
        if reason := _objection(chosen.adapters[:count]):
            left_out.append(f"{label} is left out: {reason}")
        else:
            possible.append((label, count))
    if possible:
        adapted = _adapted(base, chosen.adapters[: max(count for _, count in possible)])
        for label, count in possible:
            yield GenerateArm(label, adapted, _names(count))
    if merged is not None:
        yield GenerateArm(Label(TRANSFORMERS), hold_merged(base, merged, base.quantization).model)


def _adapted(base: BaseModel, adapters: Sequence[BenchAdapter]) -> PeftModel:
    model = load_base(base.source, base.quantization.value, str(base.device)).model
    first, *others = zip(_names(len(adapters)), adapters, strict=True)
    with warnings.catch_warnings():
        # peft reads transformers' old name; nobody who runs a benchmark can change that
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        adapted = PeftModel.from_pretrained(
            model, first[1].folder, adapter_name=first[0], autocast_adapter_dtype=False
        )
        for name, adapter in others:
            adapted.load_adapter(adapter.folder, adapter_name=name, autocast_adapter_dtype=False)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(base.compute_dtype)
    return adapted.eval()


def _names(count: int) -> tuple[str, ...]:
    return tuple(str(place) for place in range(count))


def _objection(adapters: Sequence[BenchAdapter]) -> str:
    """Why PEFT's mixed batch cannot answer with these; empty if it can."""
    for each in adapters:
        if each.weights.is_dora:
            return f"PEFT has no `adapter_names` for a DoRA, which {each.name} is"
        if each.weights.biases and len(adapters) > 1:
            return f"PEFT holds one adapter with trained biases at a time, and {each.name} has some"
    return ""


class _Clock(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped here
    """Never stops; notes the moment of each token."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        self.stamps.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
