"""What a gateway's endpoint picker makes of a scrape, and what it would pick: written from its documents, to test ours.

The model server protocol of the Gateway API inference extension says what is scraped and what it means
(kubernetes-sigs/gateway-api-inference-extension, docs/proposals/003-model-server-protocol); llm-d's router, where
that project's picker lives now, says how it is read: the LoRA gauge's series with the greatest value, of any other
gauge one series, names separated by commas and trimmed. Scores are those of its queue, KV cache and LoRA affinity
scorers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

QUEUED, RUNNING = "vllm:num_requests_waiting", "vllm:num_requests_running"
CACHE, CACHE_INFO, LORAS = "vllm:kv_cache_usage_perc", "vllm:cache_config_info", "vllm:lora_requests_info"
NAMES = (QUEUED, RUNNING, CACHE, CACHE_INFO, LORAS)


@dataclass(frozen=True, slots=True)
class Seen:
    """One endpoint as the picker knows it after a scrape."""

    queued: int
    requests: int
    cache: float
    active: frozenset[str]
    waiting: frozenset[str]
    most: int
    block: int
    blocks: int


def read(text: str) -> Seen:
    """Raises KeyError or ValueError where the scrape lacks what the protocol wants."""
    families = {each.name: each for each in text_string_to_metric_families(text)}
    for name in NAMES:
        if families[name].type != "gauge":
            raise ValueError(f"{name} is no gauge")
    one = {name: families[name].samples[0] for name in NAMES}
    newest = max(families[LORAS].samples, key=lambda sample: sample.value)
    sizes = one[CACHE_INFO].labels
    return Seen(
        queued=int(one[QUEUED].value),
        requests=int(one[RUNNING].value),
        cache=one[CACHE].value,
        active=_names(newest.labels["running_lora_adapters"]),
        waiting=_names(newest.labels["waiting_lora_adapters"]),
        most=int(newest.labels["max_lora"]),
        block=int(sizes["block_size"]),
        blocks=int(sizes["num_gpu_blocks"]),
    )


def affinity(seen: Seen, model: str) -> float:
    """1 where it is loaded, 0.8 where there is room, 0.6 where it waits for room, else 0."""
    if model in seen.active:
        return 1.0
    if len(seen.active | seen.waiting) < seen.most:
        return 0.8
    return 0.6 if model in seen.waiting else 0.0


def pick(endpoints: Mapping[str, Seen], model: str, weights: Mapping[str, float]) -> str:
    """The endpoint with the greatest sum of weighted scores, each from 0 to 1. `weights` names a picker's plugins."""
    queues = {name: seen.queued for name, seen in endpoints.items()}
    scores = {
        name: weights.get("queue-scorer", 0.0) * _shorter(queues[name], list(queues.values()))
        + weights.get("kv-cache-utilization-scorer", 0.0) * (1.0 - seen.cache)
        + weights.get("lora-affinity-scorer", 0.0) * affinity(seen, model)
        for name, seen in endpoints.items()
    }
    return max(scores, key=scores.__getitem__)


def sync(client: Any, wanted: Mapping[str, str], unwanted: Sequence[str]) -> dict[str, int]:
    """One round of the extension's sidecar for adapters (tools/dynamic-lora-sidecar): status by adapter, 0 for none sent.

    It asks for /health and /v1/models before each change, loads what is not listed and unloads what is; what
    failed is tried again with the next round.
    """
    sent = {}
    for name, path in wanted.items():
        body = {"lora_name": name, "lora_path": path, "base_model_name": ""}
        sent[name] = 0 if name in _listed(client) else _status(client, "/v1/load_lora_adapter", body)
    for name in unwanted:
        gone = name not in _listed(client)
        sent[name] = 0 if gone else _status(client, "/v1/unload_lora_adapter", {"lora_name": name})
    return sent


def _listed(client: Any) -> set[str]:
    if client.get("/health").status_code != 200:
        return set()
    return {card["id"] for card in client.get("/v1/models").json()["data"]}


def _status(client: Any, path: str, body: Mapping[str, str]) -> int:
    return int(client.post(path, json=body).status_code)


def _names(label: str) -> frozenset[str]:
    return frozenset(name.strip() for name in label.split(",") if name.strip())


def _shorter(queue: int, queues: Sequence[int]) -> float:
    """1 for the shortest queue, 0 for the longest, 1 where all are alike."""
    least, most = min(queues), max(queues)
    return 1.0 if most == least else (most - queue) / (most - least)
