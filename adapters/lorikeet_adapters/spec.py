"""adapter_config.json read strictly: every field is honoured, harmless, or refused by name.

Imports no torch and builds no PEFT object from the file. What becomes of each key stands in `fields`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.fields import judge, shown, shown_name
from lorikeet_adapters.finding import Finding
from lorikeet_adapters.reach import EVERYWHERE, Reach, read_reach

T = TypeVar("T")

LFS_MARKER = b"version https://git-lfs"
MAX_RANK = 4096
BIASES = ("none", "all", "lora_only")


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """What the config says about the arithmetic. Patterns map literal module suffixes to values."""

    rank: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    base_name: str | None
    dora: bool = False
    lora_bias: bool = False
    trains_biases: bool = False  # `bias` all or lora_only: the file may hold trained biases of the base
    reach: Reach = EVERYWHERE

    def rank_of(self, module: str) -> int:
        return _first_match(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) for rsLoRA, with this module's own r and alpha."""
        rank = self.rank_of(module)
        alpha = _first_match(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def parse_spec(text: bytes) -> AdapterSpec:
    """Read adapter_config.json; raises AdapterRefused with every reason at once."""
    spec, findings = read_spec(text)
    if findings:
        raise AdapterRefused(findings)
    return spec


def read_spec(text: bytes) -> tuple[AdapterSpec, tuple[Finding, ...]]:
    """What the config says and every reason to refuse it.

    With reasons the spec is still good for judging the weights beside it. Raises AdapterRefused when it
    is not: for what is no LoRA config, and for numbers that cannot be used.
    """
    config = _parse_object(text)
    if config.get("peft_type") != "LORA":
        _refuse(
            "unsupported_peft_type", "peft_type", f"peft_type is {shown(config.get('peft_type'))}, not LORA"
        )
    unusable: list[Finding] = []
    reader = _Reader(config, unusable)
    spec = AdapterSpec(
        rank=reader.rank(),
        alpha=reader.alpha(),
        rslora=reader.flag("use_rslora"),
        rank_pattern=reader.pattern("rank_pattern", _as_rank),
        alpha_pattern=reader.pattern("alpha_pattern", _as_alpha),
        base_name=reader.text("base_model_name_or_path"),
        dora=reader.flag("use_dora"),
        lora_bias=reader.flag("lora_bias"),
        trains_biases=reader.choice("bias", BIASES) != "none",
        reach=read_reach(config),
    )
    if spec.dora and spec.lora_bias:
        message = "use_dora and lora_bias exclude each other, in PEFT as here"
        unusable.append(Finding("bad_value", message, "save the adapter again", field="lora_bias"))
    refused = tuple(judge(config))
    if unusable:
        raise AdapterRefused([*refused, *unusable])
    return spec, refused


def canonical_config(text: bytes) -> bytes:
    """The same config with keys sorted and no spaces: half of what a generation is the digest of.

    Objects inside keep their order, because the first pattern that matches a module counts.
    """
    config = _parse_object(text)
    ordered = {key: config[key] for key in sorted(config)}
    return json.dumps(ordered, separators=(",", ":"), ensure_ascii=True).encode()


def matches(pattern: str, module: str) -> bool:
    """PEFT's rule `(.*\\.)?(pattern)$` for a pattern whose only special character is the dot."""
    if len(pattern) > len(module):
        return False
    tail = module[len(module) - len(pattern) :]
    starts_at_a_name = len(pattern) == len(module) or module[len(module) - len(pattern) - 1] == "."
    return starts_at_a_name and all(want in (".", have) for want, have in zip(pattern, tail, strict=True))


def _first_match(patterns: Mapping[str, T], module: str, default: T) -> T:
    return next((value for pattern, value in patterns.items() if matches(pattern, module)), default)


def _parse_object(text: bytes) -> dict[str, Any]:
    if text.startswith(LFS_MARKER):
        _refuse(
            "lfs_pointer",
            "adapter_config.json",
            "adapter_config.json is a Git LFS pointer, not the file",
            "git lfs pull",
        )
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        _refuse("not_json", "adapter_config.json", f"adapter_config.json is not JSON: {error}")
    if not isinstance(config, dict):
        _refuse("not_an_object", "adapter_config.json", "adapter_config.json holds no JSON object")
    return config


class _Reader:
    """Reads the honoured keys, adding a finding for each that is wrong and going on."""

    def __init__(self, config: Mapping[str, Any], findings: list[Finding]) -> None:
        self._config = config
        self._findings = findings

    def rank(self) -> int:
        return self._checked("r", self._config.get("r"), _as_rank, 1)

    def alpha(self) -> float:
        return self._checked("lora_alpha", self._config.get("lora_alpha"), _as_alpha, 1.0)

    def flag(self, key: str) -> bool:
        return self._checked(key, self._config.get(key) or False, _as_flag, False)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """One of `choices`, the first when the key is absent."""
        value = self._config.get(key) or choices[0]
        if value in choices:
            return str(value)
        message = f"{key} is {shown(value)}, none of {', '.join(choices)}"
        self._findings.append(Finding("bad_value", message, "save the adapter again", field=key))
        return choices[0]

    def text(self, key: str) -> str | None:
        value = self._config.get(key)
        return value if isinstance(value, str) else None

    def pattern(self, key: str, convert: Callable[[object], T]) -> dict[str, T]:
        raw = self._config.get(key) or {}
        if not isinstance(raw, dict):
            self._findings.append(
                Finding("bad_value", f"{key} is {shown(raw)}, not an object", "", field=key)
            )
            return {}
        parsed: dict[str, T] = {}
        for name, value in raw.items():
            if not name.replace(".", "").replace("_", "").isalnum():
                message = f"{key} has the pattern {shown(name)}; patterns from files are never executed"
                self._findings.append(
                    Finding("regex_pattern", message, "spell out the module names", field=key)
                )
                continue
            try:
                parsed[name] = convert(value)
            except ValueError as error:
                self._findings.append(
                    Finding("bad_value", f"{key}.{shown_name(name)} {error}", "", field=key)
                )
        return parsed

    def _checked(self, key: str, value: object, convert: Callable[[object], T], fallback: T) -> T:
        try:
            return convert(value)
        except ValueError as error:
            self._findings.append(Finding("bad_value", f"{key} {error}", "", field=key))
            return fallback


def _as_rank(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_RANK:
        raise ValueError(f"is {shown(value)}, not a whole number from 1 to {MAX_RANK}")
    return value


def _as_alpha(value: object) -> float:
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        pass
    raise ValueError(f"is {shown(value)}, not a finite number")


def _as_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"is {shown(value)}, not true or false")
    return value


def _refuse(code: str, field: str, message: str, fix: str = "") -> NoReturn:
    raise AdapterRefused([Finding(code, message, fix, field=field)])
