"""What a worker says is read back as it was said."""

from __future__ import annotations

import pytest

from lorikeet_trainer.messages import (
    Began,
    Done,
    Failed,
    Message,
    Phase,
    Saved,
    Stepped,
    Stopped,
    Warned,
    from_line,
    to_line,
)

SAID: list[Message] = [
    Began(Phase.TRAINING, 120),
    Stepped(3, 120, 1.25, 0.5, 2e-4, 900, 310.5, 1.5, 0.25),
    Saved(10, "checkpoints/step-10", 1.0, 0.75),
    Warned("row 7: Grüße\nand more"),
    Done("adapter", 120, 9000, 0.5, quarantined=True, reason="another template"),
    Failed("invalid_training_file", "line 3: not JSON", "training_file"),
    Stopped(40),
]


@pytest.mark.parametrize("message", SAID, ids=lambda each: type(each).__name__)
def test_a_message_survives_its_line(message: Message) -> None:
    line = to_line(message)
    assert "\n" not in line
    assert from_line(line) == message


@pytest.mark.parametrize(
    "line",
    [
        "",
        "loading weights",
        "[]",
        "{}",
        '{"kind": "x"}',
        '{"kind": "stopped"}',
        '{"kind": "began", "phase": "x"}',
    ],
)
def test_anything_else_is_told_apart(line: str) -> None:
    with pytest.raises(ValueError, match=r"message|Expecting|Phase"):
        from_line(line)
