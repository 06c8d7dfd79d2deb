"""An adapter's files put on the base by PEFT, as our own schema has read them.

PEFT runs the patterns of a config as regular expressions and takes over whatever else stands there.
So it is given a config made here: what the schema vouches for, and the modules that the tensors name.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorikeet_adapters.outline import Outline
from lorikeet_adapters.source import WEIGHTS_FILE, open_folder
from lorikeet_adapters.spec import AdapterSpec, parse_spec
from lorikeet_adapters.weights import AdapterWeights, load_weights

DROPOUT = 0.0  # of every recipe


def apply_adapter(
    model: PreTrainedModel, outline: Outline, folder: Path, *, is_trainable: bool = False
) -> PeftModel:
    """`model`, whose `outline` it is, with the adapter in `folder`, in fp32. Raises AdapterRefused."""
    with open_folder(folder) as files:
        spec = parse_spec(files.config)
    weights = load_weights(folder / WEIGHTS_FILE, spec, outline, model.dtype)
    config = config_of(spec, weights, model)
    return PeftModel.from_pretrained(model, folder, config=config, is_trainable=is_trainable)


def config_of(spec: AdapterSpec, weights: AdapterWeights, model: PreTrainedModel) -> LoraConfig:
    """For PEFT, with no word of the file in it but rank and alpha patterns that are plain names."""
    return LoraConfig(
        r=spec.rank,
        lora_alpha=whole(spec.alpha),
        rank_pattern=dict(spec.rank_pattern),
        alpha_pattern={name: whole(alpha) for name, alpha in spec.alpha_pattern.items()},
        lora_dropout=DROPOUT,
        bias=_bias(weights) if spec.trains_biases else "none",
        lora_bias=spec.lora_bias,
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in weights.modules),
        target_modules=list(targets_of(weights.modules, model)),
        task_type="CAUSAL_LM",
    )


def targets_of(modules: Collection[str], model: PreTrainedModel) -> tuple[str, ...]:
    """The last words of these names where they mean these modules and no other, else the names whole."""
    words = {name.rpartition(".")[2] for name in modules}
    meant = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in words}
    return tuple(sorted(words if meant == set(modules) else modules))


def whole(number: float) -> float:
    """Whole where it can be: some readers of PEFT folders take nothing else."""
    return int(number) if number.is_integer() else number


def _bias(weights: AdapterWeights) -> str:
    """PEFT's word for which of the base's biases were trained."""
    if not weights.biases:
        return "none"
    return "lora_only" if weights.biases.keys() <= weights.modules.keys() else "all"
