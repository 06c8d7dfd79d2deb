"""The server's configuration: one frozen value per part, each part receives only its own."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from lorikeet_server.engine.config import EngineConfig


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which base is resident and in what form."""

    source: str = "demo"
    served_name: str = ""
    quantization: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Where the server listens and what it takes in. Sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 8000
    insecure: bool = False
    max_body_bytes: int = 4 << 20
    max_open_requests: int = 512

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    model: ModelConfig = field(default_factory=ModelConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    data_dir: Path = Path("lorikeet-data")
    adapters_root: Path = Path()
    adapters: tuple[str, ...] = ()  # NAME=FOLDER, registered at start
