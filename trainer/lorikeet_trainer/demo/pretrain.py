"""Train the demo base model from nothing: `python -m lorikeet_trainer.demo.pretrain --out DIR`.

Two stages on one thread: read-back lines of random tokens until copying has set in, then the corpus.
Initial weights have a standard deviation near 1/sqrt(hidden size): with the usual .02 copying never
came. The checkpoint is saved in bf16, reloaded and put through the gate; a base that misses it
leaves with status 1.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lorikeet_trainer.demo.base_gate import passes
from lorikeet_trainer.demo.batches import Batch, document_batches, warm_up_batches
from lorikeet_trainer.demo.tokenizer import train_tokenizer

HIDDEN: Final = 192
LAYERS: Final = 4
HEAD: Final = 64
FEED_FORWARD: Final = 576
CONTEXT: Final = 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast; learning rates are per AdamW step, counts are optimiser steps."""

    seed: int
    steps: int
    warm_up_limit: int = 1200
    warm_up_goal: float = 0.9
    batch: int = 32
    peak: float = 1e-3
    floor: float = 5e-5
    ramp: int = 100

    def learning_rate(self, step: int) -> float:
        """Linear ramp, then a half cosine from peak to floor over `steps`."""
        if step < self.ramp:
            return self.peak * (step + 1) / self.ramp
        progress = min(1.0, (step - self.ramp) / max(1, self.steps - self.ramp))
        return self.floor + (self.peak - self.floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained fp32 model; every in-feature is a multiple of 64, as NF4 blocks need."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HIDDEN // HEAD,
        num_key_value_heads=HIDDEN // HEAD,
        head_dim=HEAD,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=1.0 / math.sqrt(HIDDEN),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True, slots=True)
class Loss:
    """`mean` is the weighted cross-entropy in nats; `hits` the share of full-weight tokens guessed right."""

    mean: Tensor
    hits: float


def batch_loss(model: LlamaForCausalLM, batch: Batch) -> Loss:
    """Next-token loss of a batch. Logits are made only where a weight is not zero."""
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1]
    targets, weights = batch.ids[:, 1:], batch.weights[:, 1:]
    kept = weights > 0
    logits = model.lm_head(hidden[kept])
    targets, weights = targets[kept], weights[kept]
    losses = functional.cross_entropy(logits, targets, reduction="none")
    full = weights == 1.0
    hits = (logits.argmax(-1) == targets)[full].float().mean().item()
    return Loss((losses * weights).sum() / weights.sum(), hits)


def optimise(model: LlamaForCausalLM, batches: Iterator[Batch], plan: Plan, stage: str) -> None:
    """Run one stage in place. The warm-up stops early, once copying is better than its goal."""
    warm_up = stage == "warm-up"
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=plan.peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    hits, tokens, begin = 0.0, 0, time.perf_counter()
    for step in range(plan.warm_up_limit if warm_up else plan.steps):
        rate = plan.peak * min(1.0, (step + 1) / plan.ramp) if warm_up else plan.learning_rate(step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = next(batches)
        loss = batch_loss(model, batch)
        loss.mean.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        hits, tokens = 0.95 * hits + 0.05 * loss.hits, tokens + batch.ids.numel()
        if step % 50 == 0:
            speed = tokens / (time.perf_counter() - begin)
            print(
                f"{stage} step {step:5d}  loss {loss.mean.item():.3f}  right {hits:.3f}  {speed:.0f} tokens/s",
                flush=True,
            )
        if warm_up and hits > plan.warm_up_goal:
            break


def pretrain(out: Path, plan: Plan) -> LlamaForCausalLM:
    """Train tokenizer and model by the plan, save both under `out` in bf16, return the fp32 model."""
    random.seed(plan.seed)
    tokenizer = train_tokenizer(plan.seed)
    model = new_model(tokenizer, plan.seed)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    optimise(model, warm_up_batches(tokenizer, plan.seed, plan.batch), plan, "warm-up")
    optimise(model, document_batches(tokenizer, "train", plan.seed, plan.batch), plan, "corpus")
    save(model, tokenizer, out)
    return model


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write config, weights (bf16), generation config, tokenizer and chat template."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(arguments: list[str] | None = None) -> int:
    """Train, save, reload, examine. Returns 0 when the gate holds for bf16 and nf4, else 1."""
    parser = argparse.ArgumentParser(description="Train the demo base model.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3200, help="optimiser steps on the corpus")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    pretrain(chosen.out, Plan(seed=chosen.seed, steps=chosen.steps))
    return 0 if passes(chosen.out) else 1


if __name__ == "__main__":
    sys.exit(main())
