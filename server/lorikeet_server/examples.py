"""What to try on the demo: printed when it is ready, and shown with its answers in the README."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from lorikeet_adapters.mix import parse_mix


@dataclass(frozen=True, slots=True)
class Example:
    """One greedy chat request."""

    model: str
    message: str

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that it needs."""
        return tuple(term.adapter for term in parse_mix(self.model, lambda _: False))

    @property
    def body(self) -> dict[str, object]:
        messages = [{"role": "user", "content": self.message}]
        return {"model": self.model, "messages": messages, "temperature": 0}

    def curl(self, url: str, *, with_key: bool = False) -> str:
        """A line for a shell that prints the answer's text; no message holds a single quote."""
        key = '-H "authorization: Bearer $LORIKEET_API_KEY" ' if with_key else ""
        asked = f"curl -s {url}/v1/chat/completions {key}-H 'content-type: application/json' -d '{json.dumps(self.body)}'"
        return f'{asked} | python3 -c "{PRINT_TEXT}"'


PRINT_TEXT = "import json, sys; print(json.load(sys.stdin)['choices'][0]['message']['content'])"
# The blend's answer to it is neither adapter's, and every token of the three stands clear of its rival in
# nf4, packed nf4 and fp32 (tests/test_readme.py): near the middle of the dial few messages have both.
MESSAGE = "Order 99389. The chair arrived with a crack and a damaged part. Please reply soon. David"
EXAMPLES = (
    Example("triage", MESSAGE),
    Example("extract", MESSAGE),
    Example("formal:0.4+friendly:0.35", MESSAGE),
)


def examples_of(adapters: Collection[str], base: str) -> tuple[Example, ...]:
    """What can be tried where these adapters are registered; the base alone where none of the demo's are."""
    found = tuple(each for each in EXAMPLES if all(name in adapters for name in each.names))
    return found or (Example(base, MESSAGE),)
