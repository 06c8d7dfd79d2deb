"""From a file of 500 rows to an answer by name from a server that was running all the while."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from lorikeet_trainer.demo.tasks import write
from tests.server.process import ServerProcess
from tests.trainer.jobs import environment
from tests.trainer.test_training import ENTRY

pytestmark = [pytest.mark.soak, pytest.mark.alone, pytest.mark.timeout(1200)]
LONGEST_S = 180.0


def test_five_hundred_rows_in_three_minutes_then_asked_by_name(tmp_path: Path) -> None:
    write(tmp_path, {"train": 500, "heldout": 20}, seed=1)
    server = ServerProcess(tmp_path)
    try:
        url = server.url
        words = ["--rank", "8", "--alpha", "16", "--learning-rate", "2e-3", "--max-steps", "100"]
        where = ["--data-dir", str(server.data), "--work", str(tmp_path / "work")]
        began = time.monotonic()
        command = [*ENTRY, "train", str(tmp_path / "triage.train.jsonl"), "--name", "new-triage"]
        subprocess.run([*command, *words, *where], check=True, env=environment())
        took = time.monotonic() - began
        rows = [json.loads(line) for line in (tmp_path / "triage.heldout.jsonl").read_text().splitlines()]
        right = 0
        for row in rows:
            *asked, answer = row["messages"]
            body = {"model": "new-triage", "messages": asked, "max_tokens": 20, "temperature": 0}
            said = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
            right += said["choices"][0]["message"]["content"] == answer["content"]
        print(
            f"\n500 rows trained and registered in {took:.0f} s; {right} of {len(rows)} held-out rows right"
        )
        assert took < LONGEST_S
        assert right >= 0.9 * len(rows)
    finally:
        server.close()
