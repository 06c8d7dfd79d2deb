"""A mix of adapters and its base as one plain model, and how far its answers are from the served ones.

PEFT merges into the base as it was published, in float32. An adapter was trained beside the quantised
weights and is served beside them; merged it stands beside other ones. That loses something, and how
much is measured, not assumed.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from lorikeet_adapters.base_model import BaseModel, load_base, outline
from lorikeet_adapters.base_source import resolve_source
from lorikeet_adapters.errors import ComposeRefused
from lorikeet_adapters.mix import Mix
from lorikeet_adapters.origin import PROBES
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.source import CONFIG_FILE, WEIGHTS_FILE
from lorikeet_adapters.spec import parse_spec
from lorikeet_adapters.weights import load_weights
from lorikeet_trainer.application import apply_adapter
from lorikeet_trainer.card import model_card
from lorikeet_trainer.errors import MergeInexact
from lorikeet_trainer.judge import HeldBase, Judge, Question, open_judge, read_adapter
from lorikeet_trainer.loading import load_dataset
from lorikeet_trainer.output import refuse_taken, whole_folder
from lorikeet_trainer.parity import hold_out
from lorikeet_trainer.quiet import quiet_libraries
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.rules import HELD_OUT

CARD_FILE = "README.md"
MOST_ROWS = 32
ROUNDING = 1e-4  # nats: what the order of float32 sums moves stays orders of magnitude below
DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SPOKEN = 48  # tokens of each answer that is compared where no data is given


@dataclass(frozen=True, slots=True)
class Distance:
    """Merged against served, at `tokens` places: mean KL in nats, and how often both prefer the same token."""

    tokens: int
    kl: float
    same_top: float

    @property
    def sentence(self) -> str:
        return (
            f"over {self.tokens} tokens the merged model is {self.kl:.2g} nats of KL from the served mix, "
            f"and prefers the same token in {self.same_top:.1%} of places"
        )


@dataclass(frozen=True, slots=True)
class Spoken:
    """A sequence, and the served distribution after each of its tokens: logprobs[len(tokens), V]."""

    tokens: tuple[int, ...]
    start: int
    logprobs: torch.Tensor


@dataclass(frozen=True, slots=True)
class Merge:
    """What is merged: `mix` by the names in `folders`. `dtype` None is the base's own."""

    mix: Mix
    folders: Mapping[str, Path]
    base: HeldBase
    dtype: torch.dtype | None = None
    data: Path | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """`untied` where the head became a weight of its own, because the mix changes it or the embedding alone."""

    dtype: str
    untied: bool
    distance: Distance


def merge(wanted: Merge, out: Path, *, force: bool = False) -> Merged:
    """Write a folder that plain transformers loads. Raises RefusedError and MergeInexact; then there is none."""
    refuse_taken(out, force=force)
    refuse_unmergeable(wanted)
    with quiet_libraries(), whole_folder(out, force=force) as folder:
        served = serve(wanted)
        gc.collect()  # the quantised base, before the whole one is loaded
        base = load_base(wanted.base.model, "fp32", wanted.base.device)
        untied = untie(base, wanted)
        model = merge_into(base, wanted)
        if wanted.base.quantization == Quantization.FP32:
            refuse_inexact(compare(model, served))
        dtype = wanted.dtype or own_dtype(wanted.base.model)
        model.to(dtype)
        distance = compare(model, served)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(resolve_source(wanted.base.model)).save_pretrained(folder)
        merged = Merged(str(dtype).removeprefix("torch."), untied, distance)
        (folder / CARD_FILE).write_text(_card(wanted, merged), encoding="utf-8")
    return merged


def refuse_unmergeable(wanted: Merge) -> None:
    """Everything that the server would refuse, and what has no meaning in a sum. Raises RefusedError."""
    shape = outline(wanted.base.model)
    if not wanted.mix.terms:
        raise ComposeRefused("every weight of the mix is zero; what is left is the base itself")
    for term in wanted.mix.terms:
        folder = wanted.folders[term.adapter]
        spec = parse_spec((folder / CONFIG_FILE).read_bytes())
        weights = load_weights(folder / WEIGHTS_FILE, spec, shape, torch.float32)
        if not wanted.mix.is_single and (weights.is_dora or weights.biases):
            what = "was trained with DoRA" if weights.is_dora else "has trained biases"
            raise ComposeRefused(f"`{term.adapter}` {what}: it can be merged alone and with weight 1 only")
        homeless = sorted(weights.shifts.keys() - shape.biases.keys())
        if homeless:
            raise ComposeRefused(
                f"`{term.adapter}` was trained with lora_bias on {homeless[0]}, and the base has no bias "
                "there to merge it into; serve it unmerged"
            )


def untie(base: BaseModel, wanted: Merge) -> bool:
    """Give a tied head a weight of its own where the mix changes the head or the embedding."""
    model = base.model
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return False
    read = (read_adapter(wanted.folders[each], base) for each in wanted.mix.adapters)
    if not any(base.outline.vocabulary & each.modules.keys() for each in read):
        return False
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    return True


def merge_into(base: BaseModel, wanted: Merge) -> PreTrainedModel:
    """One adapter after another, each at its weight: what LoRA adds does not depend on what is there."""
    model = base.model
    for term in wanted.mix.terms:
        applied = apply_adapter(model, base.outline, wanted.folders[term.adapter])
        for layer in applied.modules():
            if isinstance(layer, LoraLayer):
                # Not by PEFT's scale_layer, which leaves embeddings as they are.
                for name in layer.active_adapters:
                    layer.scaling[name] *= term.weight
        model = applied.merge_and_unload()
    return model.eval()


def own_dtype(source: str) -> torch.dtype:
    """In which numbers the base was published."""
    found = AutoConfig.from_pretrained(resolve_source(source)).dtype
    return found if isinstance(found, torch.dtype) else torch.bfloat16


def serve(wanted: Merge) -> list[Spoken]:
    """What the mix says unmerged, on the base as it is served, after the data's prompts or after fixed ones."""
    folders = {name: wanted.folders[name] for name in wanted.mix.adapters}
    base = wanted.base
    renderer = Renderer.load(base.model)
    with open_judge(base.model, base.quantization, folders, base.device) as judge:
        if wanted.data is None:
            sequences = _by_itself(judge, renderer, wanted.mix)
        else:
            rows = load_dataset(wanted.data, renderer, HELD_OUT)
            sequences = [
                (each.prompt, each.answer) for each in hold_out(b"", rows.rows or rows.pairs, MOST_ROWS)
            ]
        return [
            Spoken((*prompt, *answer), len(prompt), judge.distribution((*prompt, *answer), wanted.mix))
            for prompt, answer in sequences
        ]


def _by_itself(judge: Judge, renderer: Renderer, mix: Mix) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """What the mix answers to the fixed conversations, or to their text where the base has no template."""
    if renderer.tokenizer.chat_template is None:
        prompts = [judge.text.encode(turns[-1]["content"], special=True) for turns in PROBES]
    else:
        prompts = [judge.text.encode(judge.text.render(turns)) for turns in PROBES]
    _, said = judge.together((), [Question(prompt, mix) for prompt in prompts], SPOKEN)
    return [(prompt, each.tokens) for prompt, each in zip(prompts, said, strict=True)]


@torch.no_grad()
def compare(model: PreTrainedModel, served: Sequence[Spoken]) -> Distance:
    kls: list[float] = []
    same: list[bool] = []
    for each in served:
        ids = torch.tensor([each.tokens], device=model.device)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
        ours, theirs = each.logprobs, torch.log_softmax(logits.float(), -1).cpu()
        places = slice(each.start - 1, len(each.tokens) - 1)
        kls += (ours.exp() * (ours - theirs)).sum(-1)[places].tolist()
        same += (ours.argmax(-1) == theirs.argmax(-1))[places].tolist()
    return Distance(len(kls), max(fmean(kls), 0.0), fmean(same))


def refuse_inexact(distance: Distance) -> None:
    """Of a mix that is served in float32 the merged float32 model is the same model. Raises MergeInexact."""
    if distance.kl > ROUNDING or math.isnan(distance.kl):
        raise MergeInexact(
            f"{distance.sentence}, though both are in float32: one of the two is wrong, and nothing is "
            "written. Please report it, with the adapters' configs"
        )


def _card(wanted: Merge, merged: Merged) -> str:
    return model_card(
        base=wanted.base.model,
        quantization=wanted.base.quantization,
        mix={term.adapter: term.weight for term in wanted.mix.terms},
        dtype=merged.dtype,
        untied=merged.untied,
        sentence=merged.distance.sentence,
    )
