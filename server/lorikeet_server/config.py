"""The server's configuration: one frozen value per part, each part receives only its own.

A field with `option(...)` is a flag of `lorikeet serve` and an environment variable; `options.py`
makes both from here, so nothing is written twice.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from lorikeet_adapters.notes import KEEP_GENERATIONS
from lorikeet_adapters.quantization import Quantization
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.options import option


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which base is resident and in what form."""

    source: str = option("demo", "demo, a model folder, or a hub id.", flag="model")
    served_name: str = option("", "The base's name; default: the last part of --model.")
    quantization: Quantization = option(Quantization.AUTO, "How the base is held; auto is nf4.")
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    trust_remote_code: bool = option(False, "Run code that the base model ships.")


class Console(StrEnum):
    """When GET / answers with the console. `AUTO`: where only this machine can reach it."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Where the server listens and what it takes in. Sizes in bytes."""

    host: str = option("127.0.0.1", "Address to listen on.")
    port: int = option(8000, "Port to listen on; 0 takes a free one.", least=0, most=65535)
    api_keys: str = option("", "File of API keys, made by `lorikeet keys new`; without it, loopback only.")
    make_key: bool = option(
        False, "Where the file of keys is not there, make it with one key, and print that."
    )
    open_metrics: bool = option(False, "Answer GET /metrics without a key.")
    access_log: bool = option(False, "One JSON line a request on standard error.")
    insecure: bool = option(False, "Answer any host, without keys, to whoever reaches the port.")
    console: Console = option(
        Console.AUTO,
        "The console at /; auto is on where only this machine can reach it, on elsewhere needs keys.",
    )
    cors_origins: tuple[str, ...] = option(
        (),
        "Origin whose pages may use this server, like https://app.example; may be repeated.",
        flag="cors_origin",
    )
    max_body_bytes: int = option(4 << 20, "Largest request body.", least=1)
    max_adapter_bytes: int = option(2 << 30, "Largest adapter uploaded or fetched from the hub.", least=1)
    max_file_bytes: int = option(512 << 20, "Largest file of POST /v1/files.", least=1)
    allow_hub: bool = option(False, "Let POST /v1/adapters fetch adapters from the hub.")
    max_open_requests: int = option(512, "Requests waiting or running; beyond them 503.", least=1)
    max_open_tokens: int = option(
        4 << 20, "Tokens of the prompts waiting or running; beyond them 503.", least=1
    )
    queue_seconds: int = option(120, "How long a request may wait before it is begun.", least=1)
    request_seconds: int = option(
        1800, "How long a request may take in all; its own `timeout` is cut to this.", least=1
    )
    max_tenant_requests: int = option(
        256, "Requests of one tenant waiting or running; beyond them 429.", least=1
    )
    max_tenant_tokens: int = option(
        2 << 20, "Tokens of one tenant's prompts waiting or running; beyond them 429.", least=1
    )
    drain_seconds: int = option(
        20, "How long requests may still run once the server is told to stop.", least=0
    )

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def is_open(self) -> bool:
        """No key protects it, and nothing in front of it was said to."""
        return not self.api_keys and not self.insecure

    @property
    def shows_console(self) -> bool:
        return self.console is Console.ON or (
            self.console is Console.AUTO and self.is_loopback and not self.insecure
        )

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What fine-tuning jobs may take."""

    training_jobs: int = option(1, "Fine-tuning jobs that run at once; 0 takes none.", least=0, most=64)
    job_silence_seconds: int = option(
        1800, "A training process that says nothing for so long is ended and begun again.", least=1
    )
    max_files_bytes: int = option(8 << 30, "Files of one tenant to train on, together.", least=1)


@dataclass(frozen=True, slots=True)
class RequestLogConfig:
    """What is kept of requests and their answers."""

    request_log: bool = option(
        False, "Keep prompts and answers in the data folder, to be rated and made into training data."
    )
    request_log_days: int = option(30, "How long each is kept.", least=1, most=36500)
    request_log_bytes: int = option(
        1 << 30, "How much is kept of them; beyond it the oldest go.", least=4 << 20
    )


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Several replicas of this server on a Ray cluster; needs the extra `lorikeet[ray]`."""

    ray: bool = option(
        False, "Serve by replicas on a Ray cluster, begun here unless --ray-address names one."
    )
    ray_address: str = option("", "An existing cluster, as `ray.init` takes it.")
    replicas: int = option(2, "Replicas; with --max-replicas the fewest.", least=1)
    max_replicas: int = option(
        0, "Replicas at most, begun as requests exceed --max-slots of each; 0: --replicas.", least=0
    )
    replica_cpus: int = option(1, "Cores that Ray sets aside for each replica.", least=0)

    @property
    def most_replicas(self) -> int:
        return max(self.replicas, self.max_replicas)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    model: ModelConfig = field(default_factory=ModelConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    log: RequestLogConfig = field(default_factory=RequestLogConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    data_dir: Path = option(Path("lorikeet-data"), "Where registered adapters are kept.")
    keep_generations: int = option(
        KEEP_GENERATIONS, "Generations of a name kept on disk, the current one among them.", least=1
    )
    adapters_root: Path = option(Path(), "Folders registered by path over HTTP must lie below this folder.")
    adapters: tuple[str, ...] = option(
        (), "NAME=FOLDER or NAME=org/name to register at each start; may be repeated.", flag="adapter"
    )
