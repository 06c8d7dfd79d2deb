"""The gate of the demo base: a saved checkpoint is reloaded, as served, and judged on held-out text.

It passes when greedy replies copy the order id and name the product in at least 95 of 100 held-out
messages, when text is far more likely than by word counts, and when the base itself solves none of
the adapters' tasks: it must answer neutrally, or an adapter could not show what it adds.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal, get_args

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lorikeet_trainer.demo.batches import collate, tokenise
from lorikeet_trainer.demo.corpus import documents
from lorikeet_trainer.demo.messages import tickets
from lorikeet_trainer.demo.replies import neutral_reply
from lorikeet_trainer.demo.tasks import TASKS, names_order, names_product, row, score

Quantisation = Literal["bf16", "nf4"]
LEAST_COPIED: Final = 0.95
MOST_SOLVED: Final = 0.40
MOST_PERPLEXITY_SHARE: Final = 0.1
MESSAGES: Final = 200
DOCUMENTS: Final = 200
BATCH: Final = 25
LONGEST_REPLY: Final = 64


@dataclass(frozen=True, slots=True)
class Report:
    """Rates are shares of held-out messages (0 to 1); perplexities are per token of held-out text."""

    quantisation: Quantisation
    perplexity: float
    unigram_perplexity: float
    order_rate: float
    product_rate: float
    neutral_rate: float
    solved: dict[str, float]

    @property
    def passed(self) -> bool:
        copies = min(self.order_rate, self.product_rate) >= LEAST_COPIED
        reads = self.perplexity < MOST_PERPLEXITY_SHARE * self.unigram_perplexity
        return copies and reads and max(self.solved.values()) < MOST_SOLVED


def load(path: Path, quantisation: Quantisation) -> PreTrainedModel:
    """The checkpoint in bf16, or with its linear layers in NF4 as the server holds them."""
    config = None
    if quantisation == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.bfloat16, quantization_config=config
    )
    return model.eval()


@torch.inference_mode()
def greedy_replies(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, messages: list[str]
) -> list[str]:
    """One greedy reply for each message, asked through the chat template."""
    replies: list[str] = []
    for start in range(0, len(messages), BATCH):
        chats = [[{"role": "user", "content": text}] for text in messages[start : start + BATCH]]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=LONGEST_REPLY,
            do_sample=False,
        )
        fresh = output[:, inputs["input_ids"].shape[1] :]
        replies.extend(tokenizer.batch_decode(fresh, skip_special_tokens=True))
    return replies


@torch.inference_mode()
def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> float:
    """Per-token perplexity over held-out documents of every shape, first tokens left out."""
    held_out = [tokenise(each, tokenizer) for each in islice(documents("heldout", 1), DOCUMENTS)]
    held_out.sort(key=lambda each: len(each.ids))
    total, count = 0.0, 0
    for start in range(0, len(held_out), BATCH):
        chunk = held_out[start : start + BATCH]
        ids = collate(chunk, int(tokenizer.pad_token_id)).ids
        logits = model(input_ids=ids).logits[:, :-1].float()
        real = torch.tensor([len(each.ids) for each in chunk])[:, None] > torch.arange(1, ids.shape[1])
        losses = torch.nn.functional.cross_entropy(logits[real], ids[:, 1:][real], reduction="sum")
        total, count = total + losses.item(), count + int(real.sum())
    return math.exp(total / count)


def unigram_perplexity(tokenizer: PreTrainedTokenizerFast) -> float:
    """The same held-out text under add-one token counts of as much train text as ten times over."""
    counts: Counter[int] = Counter()
    for document in islice(documents("train", 1), 10 * DOCUMENTS):
        counts.update(tokenise(document, tokenizer).ids[1:])
    whole = sum(counts.values()) + len(tokenizer)
    total, count = 0.0, 0
    for document in islice(documents("heldout", 1), DOCUMENTS):
        for token in tokenise(document, tokenizer).ids[1:]:
            total, count = total - math.log((counts[token] + 1) / whole), count + 1
    return math.exp(total / count)


def examine(path: Path, quantisation: Quantisation) -> Report:
    """Load the checkpoint at `path`, let it read and answer held-out text, and count."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = load(path, quantisation)
    asked = list(tickets("heldout", MESSAGES, seed=1))
    replies = greedy_replies(model, tokenizer, [ticket.message for ticket in asked])
    answered = list(zip(asked, replies, strict=True))

    def rate(hits: list[bool]) -> float:
        return sum(hits) / len(hits)

    return Report(
        quantisation=quantisation,
        perplexity=perplexity(model, tokenizer),
        unigram_perplexity=unigram_perplexity(tokenizer),
        order_rate=rate([names_order(ticket.message, reply) for ticket, reply in answered]),
        product_rate=rate([names_product(ticket.message, reply) for ticket, reply in answered]),
        neutral_rate=rate([reply == neutral_reply(ticket) for ticket, reply in answered]),
        solved={task: rate([score(task, row(task, t), reply) for t, reply in answered]) for task in TASKS},
    )


def print_report(report: Report) -> None:
    """The report as lines for a person."""
    print(
        f"{report.quantisation}: perplexity {report.perplexity:.2f} (unigram {report.unigram_perplexity:.0f}), "
        f"order id copied {report.order_rate:.1%}, product named {report.product_rate:.1%}, "
        f"exactly the neutral reply {report.neutral_rate:.1%}"
    )
    print("  tasks without an adapter: " + ", ".join(f"{k} {v:.0%}" for k, v in report.solved.items()))
    print(f"  gate {'passed' if report.passed else 'FAILED'}", flush=True)


def passes(path: Path) -> bool:
    """Examine the checkpoint in bf16 and in nf4, print both reports; True when both pass."""
    passed = True
    for quantisation in get_args(Quantisation):
        report = examine(path, quantisation)
        print_report(report)
        passed = passed and report.passed
    return passed


def main(arguments: list[str] | None = None) -> int:
    """Command line: judge a saved checkpoint. Returns 0 when it passes, else 1."""
    parser = argparse.ArgumentParser(description="Judge a saved demo base.")
    parser.add_argument("base", type=Path, help="folder of the checkpoint")
    return 0 if passes(parser.parse_args(arguments).base) else 1


if __name__ == "__main__":
    sys.exit(main())
