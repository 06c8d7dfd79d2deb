"""A merged model is a plain one: transformers loads it, and it says what the served mix says."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorikeet_adapters.errors import AdapterRefused, ComposeRefused
from lorikeet_adapters.mix import Mix, Term
from lorikeet_trainer.errors import MergeInexact, OutputRefused
from lorikeet_trainer.judge import HeldBase, Question, open_judge
from lorikeet_trainer.merge import Merge, compare, merge, serve
from tests.tiny import blended_model, greedy, make_tokenizer, save_adapter, save_model
from tests.trainer.test_cli import run

PROMPTS = ([72, 105, 33], [5, 6, 7, 8, 9, 10, 11], [200])
TOKENS = 24


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random layers whose head is tied to the embedding, and whose answers have no end."""
    folder = save_model(tmp_path_factory.mktemp("merge") / "base", "qwen2")
    config = json.loads((folder / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    assert config["model_type"] == "qwen2"
    return folder


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT's, of adapters on tied modules
        return _adapters(base, root)


def _adapters(base: Path, root: Path) -> dict[str, Path]:
    return {
        "plain": save_adapter(base, root / "plain", rank=4, seed=1),
        "narrow": save_adapter(base, root / "narrow", rank=2, seed=2, target_modules=["q_proj", "down_proj"]),
        "dora": save_adapter(base, root / "dora", rank=4, seed=3, use_dora=True),
        "biased": save_adapter(base, root / "biased", rank=4, seed=4, bias="all"),
        "head": save_adapter(base, root / "head", rank=4, seed=5, target_modules=["lm_head", "o_proj"]),
        "words": save_adapter(
            base, root / "words", rank=4, seed=6, target_modules=["embed_tokens", "v_proj"]
        ),
    }


def mix_of(**weights: float) -> Mix:
    return Mix.of(Term(name, weight) for name, weight in weights.items())


def wanted(base: Path, folders: dict[str, Path], mix: Mix, form: str = "fp32") -> Merge:
    return Merge(mix, folders, HeldBase(str(base), form), torch.float32)


def served(base: Path, folders: dict[str, Path], mix: Mix) -> list[tuple[int, ...]]:
    mine = {name: folders[name] for name in mix.adapters}
    with open_judge(str(base), "fp32", mine) as judge:
        _, said = judge.together((), [Question(tuple(each), mix) for each in PROMPTS], TOKENS)
    return [each.tokens for each in said]


MIXES = [
    mix_of(plain=1),
    mix_of(plain=0.6, narrow=-0.4),
    mix_of(dora=1),
    mix_of(biased=1),
    mix_of(head=1),
    mix_of(words=1, head=0.5),
    mix_of(words=0.5),
    mix_of(words=-0.4),
]


@pytest.mark.parametrize(
    "mix", MIXES, ids=lambda mix: "+".join(f"{t.adapter}:{t.weight:g}" for t in mix.terms)
)
def test_merged_in_float32_it_says_token_for_token_what_is_served(
    base: Path, folders: dict[str, Path], mix: Mix, tmp_path: Path
) -> None:
    merged = merge(wanted(base, folders, mix), tmp_path / "out")
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values()), "plain transformers finds every weight, and no other"
    assert model.dtype == torch.float32
    expected = served(base, folders, mix)
    assert [tuple(greedy(model, list(prompt), TOKENS)) for prompt in PROMPTS] == expected
    assert (merged.distance.same_top, merged.distance.kl) == (1.0, pytest.approx(0.0, abs=1e-6))
    touches = bool({"head", "words"} & set(mix.adapters))
    assert (merged.untied, model.config.tie_word_embeddings) == (touches, not touches)
    # The base says something else, or the comparison would prove nothing.
    assert served(base, folders, Mix()) != expected


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("weight", [0.5, -0.4])
def test_what_is_merged_is_pefts_own_change_times_the_weight(
    base: Path, folders: dict[str, Path], weight: float, tmp_path: Path
) -> None:
    merge(wanted(base, folders, mix_of(words=weight)), tmp_path / "out")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    theirs = blended_model(base, {folders["words"]: weight}).state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], msg=name)


def test_what_should_be_exact_and_is_not_is_not_written(
    base: Path, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = AutoModelForCausalLM.from_pretrained(base)
    monkeypatch.setattr("lorikeet_trainer.merge.merge_into", lambda *_: right)
    inexact = wanted(base, folders, mix_of(plain=0.5))
    with pytest.raises(MergeInexact, match=r"nats of KL.*nothing is written"):
        merge(inexact, tmp_path / "out")
    with pytest.raises(MergeInexact):
        merge(replace(inexact, dtype=torch.bfloat16), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_distance_is_kl_and_agreement_of_the_two_models(
    base: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Merged at another scale than is served, it is that far from it: counted here from plain logits."""
    merge(wanted(base, folders, mix_of(plain=1)), tmp_path / "right")
    merge(wanted(base, folders, mix_of(plain=0.5)), tmp_path / "half")
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "right")
    spoken = serve(wanted(base, folders, mix_of(plain=1)))
    kls, agree = [], []
    for each in spoken:
        with torch.no_grad():
            p, q = (
                torch.log_softmax(model(torch.tensor([each.tokens])).logits[0], -1)[each.start - 1 : -1]
                for model in (whole, half)
            )
        kls += torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).tolist()
        agree += (p.argmax(-1) == q.argmax(-1)).tolist()
    wrong = compare(half, spoken)
    assert wrong.tokens == len(kls)
    assert wrong.kl == pytest.approx(sum(kls) / len(kls), rel=1e-3)
    assert wrong.kl > 0.1
    assert wrong.same_top == pytest.approx(sum(agree) / len(agree))


def test_from_a_quantised_base_it_says_what_is_lost(
    base: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--model", base, "--adapter", f"plain={folders['plain']}", "--dtype", "bf16")
    result = run("merge", "plain:0.7", "--out", out, *options)
    assert result.exit_code == 0, result.output
    assert "Merging is not exact" in result.stdout
    assert "nats of KL" in result.stdout
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(out).chat_template == make_tokenizer().chat_template
    card = (out / "README.md").read_text()
    assert "| `plain` | 0.7 |" in card
    assert "Merging is not exact" in card
    assert str(base) not in card
    document = json.loads(run("merge", "plain", "--out", out, *options, "--force", "--json").stdout)
    assert document["dtype"] == "bfloat16"
    assert document["distance"]["kl"] > 0
    assert 0 < document["distance"]["same_top"] <= 1


def test_what_has_no_sum_is_refused_by_name(base: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    for mix, word in (
        (mix_of(dora=0.5), "DoRA"),
        (mix_of(dora=1, plain=1), "DoRA"),
        (mix_of(biased=2), "biases"),
        (Mix(), "every weight"),
    ):
        with pytest.raises(ComposeRefused, match=word):
            merge(wanted(base, folders, mix), tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT's, that it could not merge this
        shifted = save_adapter(base, tmp_path / "shifted", 2, 1, target_modules=["o_proj"], lora_bias=True)
    with pytest.raises(
        ComposeRefused, match=r"lora_bias on model\.layers\.0\.self_attn\.o_proj, and the base has no bias"
    ):
        merge(wanted(base, {"shifted": shifted}, mix_of(shifted=1)), tmp_path / "out")
    other = save_adapter(save_model(tmp_path / "gpt2", "gpt2"), tmp_path / "other", 2, 1)
    with pytest.raises(AdapterRefused, match="no linear module"):
        merge(wanted(base, {"other": other}, mix_of(other=1)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_replaced_unasked(
    base: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(OutputRefused, match="exists"):
        merge(wanted(base, folders, mix_of(plain=1)), tmp_path)


def test_wrong_words_are_refused_before_anything_is_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    plain = ("--adapter", f"plain={folders['plain']}")
    assert run("merge", "--out", tmp_path / "x").exit_code == 2
    assert run("merge", "plain", *plain).exit_code == 2
    assert run("merge", "plain", *plain, "--out", tmp_path / "x", "--dtype", "fp8").exit_code == 2
    for words, said in (
        (("narrow", *plain), "not in the mix"),
        (("plain:heavy", *plain), "not a plain decimal"),
        (("plain", "--adapter", f"plain={tmp_path / 'no'}"), "does not exist"),
        (("plain", *plain, "--data", tmp_path / "no.jsonl"), "name a readable file"),
    ):
        result = run("merge", *words, "--out", tmp_path / "x")
        assert said in str(result.exception), result.output
