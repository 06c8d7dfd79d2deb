"""Which modules a config says it adapts, as far as that can be told without executing a pattern from a file.

PEFT leaves tensors out, without a word, whose modules its config does not reach. Where config and
weights contradict each other in plain words, nobody can tell which of the two is meant, so the
adapter is refused. A regular expression in the config stays unjudged: the tensors' keys say what
was adapted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lorikeet_adapters.finding import Finding

WORD = re.compile(r"[A-Za-z0-9_]+")
LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")  # PEFT's own, for configs without a layers_pattern


@dataclass(frozen=True, slots=True)
class Reach:
    """None wherever the config says nothing, or says it in a form that is not judged."""

    named: frozenset[str] | None = None
    excluded: frozenset[str] = frozenset()
    layers: frozenset[int] | None = None
    stems: tuple[str, ...] = ()  # what stands before a layer's number; empty: any word

    def judge(self, modules: Iterable[str]) -> list[Finding]:
        """A finding for each kind of contradiction with the modules that have LoRA weights."""
        modules = sorted(modules)
        left_out = {
            "target_modules": [each for each in modules if not self._names(each)],
            "exclude_modules": [each for each in modules if _ends_in(each, self.excluded)],
            "layers_to_transform": [each for each in modules if self._names(each) and self._skips(each)],
        }
        return [_contradiction(field, those) for field, those in left_out.items() if those]

    def _names(self, module: str) -> bool:
        return self.named is None or _ends_in(module, self.named)

    def _skips(self, module: str) -> bool:
        """As in PEFT, layers count only for what a list of targets names by its end."""
        if self.named is None or self.layers is None or module in self.named:
            return False
        patterns = [re.compile(rf"(?:^|.*?\.){stem}\.(\d+)\.") for stem in self.stems] or [LAYER]
        found = next((match for each in patterns if (match := each.match(module))), None)
        return found is None or int(found[1]) not in self.layers


EVERYWHERE = Reach()


def read_reach(config: Mapping[str, Any]) -> Reach:
    """The part of a config that says which modules it is for."""
    named, stems = _names_of(config.get("target_modules")), _stems(config.get("layers_pattern"))
    layers = config.get("layers_to_transform")
    layers = layers if isinstance(layers, list) else [layers]
    counted = stems is not None and layers and all(type(each) is int for each in layers)
    return Reach(
        named=named,
        excluded=_names_of(config.get("exclude_modules")) or frozenset(),
        layers=frozenset(layers) if counted else None,
        stems=stems or (),
    )


def _names_of(value: object) -> frozenset[str] | None:
    """A list of names, which PEFT compares and does not execute; None for anything else."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return None
    return frozenset(value)


def _stems(value: object) -> tuple[str, ...] | None:
    """PEFT executes these, so only plain words are judged; None for anything else."""
    words = [value] if isinstance(value, str) else value
    if not words:
        return ()
    plain = isinstance(words, list) and all(isinstance(each, str) and WORD.fullmatch(each) for each in words)
    return tuple(words) if plain and isinstance(words, list) else None


def _ends_in(module: str, names: frozenset[str]) -> bool:
    """PEFT's rule for a list: the whole name, or its end behind a dot."""
    words = module.split(".")
    return any(".".join(words[start:]) in names for start in range(len(words)))


def _contradiction(field: str, modules: list[str]) -> Finding:
    others = f" and {len(modules) - 1} more" if len(modules) > 1 else ""
    message = (
        f"the weights hold {modules[0]}{others}, which {field} leaves out: PEFT would not apply them, "
        "and which of the two is meant cannot be told"
    )
    return Finding(
        "not_targeted", message, "save the adapter again with PEFT", field=field, module=modules[0]
    )
