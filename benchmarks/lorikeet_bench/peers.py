"""The same work by PEFT and by transformers: `generate()` on their own copies of the base.

PEFT's arm is its mixed batch (`adapter_names`), the way it serves several adapters at once. The
other is plain transformers on merged weights. Both hold the weights as the base is held.
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
from lorikeet_bench.adapter import AdapterSet
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
    plan: Plan, base: BaseModel, sets: Sequence[AdapterSet], merged: Path
) -> Iterator[GenerateArm]:
    """PEFT at one rank with one and with eight adapters, as far as the plan has them; transformers merged."""
    chosen = next((each for each in sets if each.rank == plan.peer_rank), sets[0])
    counts = [count for count in PEER_ADAPTERS if count == 1 or count in plan.adapters]
    names = tuple(str(place) for place in range(max(counts)))
    model = load_base(base.source, base.quantization.value, str(base.device)).model
    with warnings.catch_warnings():
        # peft reads transformers' old name; nobody who runs a benchmark can change that
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        adapted = PeftModel.from_pretrained(model, chosen.adapters[0].folder, adapter_name=names[0])
        for name, adapter in zip(names[1:], chosen.adapters[1:], strict=False):
            adapted.load_adapter(adapter.folder, adapter_name=name)
    adapted.eval()
    for count in counts:
        yield GenerateArm(Label(PEFT, chosen.rank, count), adapted, names[:count])
    yield GenerateArm(Label(TRANSFORMERS), hold_merged(base, merged, base.quantization).model)


class _Clock(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped here
    """Never stops; notes the moment of each token."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        self.stamps.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
