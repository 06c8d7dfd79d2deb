"""A model folder and adapters of real shape with random weights.

The tokenizer has a text for every id, plain letters for nearly all, so that whatever the model
utters streams as text.
"""

from __future__ import annotations

import shutil
import string
from itertools import chain, islice, product
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from lorikeet_adapters.base_model import load_base
from lorikeet_bench.adapter import write_random
from lorikeet_bench.plan import PlanRefused
from lorikeet_bench.shapes import Shape

END = "<|endoftext|>"  # the name that Qwen2's tokenizer adds where it is missing
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def make_model(shape: Shape, out: Path, *, adapters: int, rank: int, seed: int) -> Path:
    """Write `out`/ (config, bfloat16 weights, tokenizer) and `out`/adapters/random-N. Raises PlanRefused.

    The folder appears whole or not at all.
    """
    if out.exists():
        raise PlanRefused(f"--out is {str(out)!r}, which exists; name a folder that does not")
    logging.disable_progress_bar()  # the command has its own
    making = out.with_name(f".{out.name}.part")
    shutil.rmtree(making, ignore_errors=True)
    try:
        _write_base(shape, making, seed)
        _write_adapters(making, adapters, rank, seed)
        making.rename(out)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return out


def _write_base(shape: Shape, folder: Path, seed: int) -> None:
    config = AutoConfig.for_model(shape.model_type, **shape.config())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    # A greedy answer then goes on to its length: nothing in it ends a generation.
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    _tokenizer(shape.vocabulary).save_pretrained(folder)


def _write_adapters(folder: Path, count: int, rank: int, seed: int) -> None:
    if not count:
        return
    base = load_base(str(folder), "bf16")
    (folder / "adapters").mkdir()
    for place in range(count):
        write_random(base, folder / "adapters" / f"random-{place}", rank, seed + place)
    (folder / "adapters" / "README.md").write_text(
        f"{count} adapters of rank {rank} with random weights, for measuring only.\n"
    )


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of exactly `vocabulary` ids: the end, all bytes, then pairs and triples of plain letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = [each for each in alphabet if each in string.ascii_letters + string.digits]
    longer = chain(product(plain, plain), ((a + b, c) for a, b, c in product(plain, repeat=3)))
    merges = list(islice(longer, vocabulary - len(alphabet) - 1))
    ids = {each: place for place, each in enumerate([END, *alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(BPE(ids, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
    fast.chat_template = CHAT_TEMPLATE
    return fast
