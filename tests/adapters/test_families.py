"""A family that cannot be served is refused by its config, before a weight is read, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig

from lorikeet_adapters.base_model import load_base, outline
from lorikeet_adapters.errors import BaseModelRefused
from lorikeet_adapters.families import PROVEN, refusal

REFUSED = {
    "keeps a recurrent state": """
        bamba bailing_hybrid falcon_h1 falcon_mamba granitemoehybrid jamba kimi_linear lfm2 lfm2_moe mamba
        mamba2 minimax nemotron_h olmo_hybrid qwen3_5_text qwen3_next recurrent_gemma rwkv xlstm zamba
        zamba2 zaya inkling_text
    """,
    "keeps more than keys and values in its layers of type `conv`": "lfm3",
    "in its layers of type `indexed_attention`": "axk2 deepseek_v32 glm_moe_dsa hy_v4",
    "is an encoder-decoder": """
        bart bigbird_pegasus blenderbot blenderbot-small marian mbart mt5 mvp pegasus plbart prophetnet t5
        trocr umt5 whisper
    """,
    "is an encoder: its tokens see those that come after them": """
        bert camembert electra megatron-bert rembert roberta xlm-roberta
    """,
    "has no causal language model class": "albert clip deberta distilbert vit",
    "keeps no cache of keys and values": "openai-gpt reformer xlm xlnet",
    "chooses among past tokens": "doge minimax_m3_vl_text",
    "by the cache's columns": "roformer",
    "by what its cache has dropped": "moshi",
    "puts a prompt of its own before": "cpmant",
}


@pytest.mark.parametrize(
    ("model_type", "why"), [(each, why) for why, families in REFUSED.items() for each in families.split()]
)
def test_a_family_without_a_slot_form_is_refused_by_name(model_type: str, why: str, tmp_path: Path) -> None:
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    for read in (outline, load_base):
        with pytest.raises(BaseModelRefused) as refused:
            read(str(tmp_path))
        assert why in str(refused.value)
        assert f"a {model_type} model" in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1


def test_what_is_proven_is_not_refused() -> None:
    for model_type in PROVEN:
        assert refusal(AutoConfig.for_model(model_type)) is None, model_type


@pytest.mark.parametrize("saved", [{"is_decoder": True}, {"is_decoder": True, "is_encoder_decoder": False}])
def test_a_decoder_cut_out_of_an_encoder_decoder_is_refused_too(saved: dict[str, bool]) -> None:
    """As BartForCausalLM saves itself."""
    assert "encoder-decoder" in str(refusal(AutoConfig.for_model("bart", **saved)))


def test_a_hybrid_whose_layers_are_all_attention_is_served() -> None:
    attention = ["attention", "attention"]
    dense = AutoConfig.for_model("granitemoehybrid", num_hidden_layers=2, layer_types=attention)
    assert refusal(dense) is None


def test_a_layer_of_an_unknown_kind_is_refused() -> None:
    kinds = ["full_attention", "minimax_m3_sparse"]
    config = AutoConfig.for_model("llama", num_hidden_layers=2)
    config.layer_types = kinds
    assert "`minimax_m3_sparse`" in str(refusal(config))
