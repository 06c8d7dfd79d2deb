"""One reason why an adapter is refused, in a form for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """`field` is a config key or tensor name, `module` the base module meant (or empty)."""

    code: str
    message: str
    fix: str
    field: str = ""
    module: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message
