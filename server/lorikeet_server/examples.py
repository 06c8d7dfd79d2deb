"""What to try on the demo: printed when it is ready, and shown with its answers in the README."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One greedy chat request."""

    model: str
    message: str

    @property
    def body(self) -> dict[str, object]:
        messages = [{"role": "user", "content": self.message}]
        return {"model": self.model, "messages": messages, "temperature": 0}

    def curl(self, url: str) -> str:
        """The request as a line for a shell; no message holds a single quote."""
        return f"curl -s {url}/v1/chat/completions -H 'content-type: application/json' -d '{json.dumps(self.body)}'"


MESSAGE = "Order 77941. The scooter arrived with a crack and a damaged part. Please reply soon. Yusuf"
EXAMPLES = (
    Example("triage", MESSAGE),
    Example("extract", MESSAGE),
    Example("formal:0.7+friendly:0.3", MESSAGE),
)
