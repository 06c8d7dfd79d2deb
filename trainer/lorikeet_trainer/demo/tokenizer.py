"""The demo tokenizer: byte-level BPE trained on the demo's own text.

Every digit is a token of its own, so copying an order id is copying five known symbols. The end of a
turn and the end of a sequence are the same token, `<|end|>`; there is no beginning-of-sequence token.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lorikeet_trainer.demo.corpus import ASSISTANT, END, SYSTEM, USER, documents

PAD: Final = "<|pad|>"
SPECIAL_TOKENS: Final = (PAD, END, SYSTEM, USER, ASSISTANT)
VOCABULARY: Final = 1024
DOCUMENTS: Final = 6000

CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('unknown role: ' + message['role']) }}"
    "{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train on `DOCUMENTS` documents of the seed; exactly `VOCABULARY` tokens, or ValueError."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (segment.text for document in islice(documents("train", seed), DOCUMENTS) for segment in document)
    backend.train_from_iterator(texts, trainer)
    if backend.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the text yields {backend.get_vocab_size()} tokens, wanted {VOCABULARY}")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
