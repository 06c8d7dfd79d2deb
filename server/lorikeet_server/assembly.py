"""Putting the parts together: the base, the registry, the engine, what the routes work with. Imports torch."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.base_source import resolve_source
from lorikeet_adapters.check import Checker
from lorikeet_adapters.checkpoint import checkpoint_digest
from lorikeet_adapters.composer import Composer
from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.merges import Merges, is_merge
from lorikeet_adapters.notes import ServedBase
from lorikeet_adapters.origin import Origin, probe
from lorikeet_adapters.owner import Owner
from lorikeet_adapters.record import Memory
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.store import Store
from lorikeet_adapters.view import View
from lorikeet_adapters.weights import AdapterWeights, load_weights
from lorikeet_server.api.services import ModelCard, Services
from lorikeet_server.bridge import Bridge
from lorikeet_server.config import ModelConfig, ServerConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.grammars import Grammars
from lorikeet_server.engine.guided import read_lexicon
from lorikeet_server.engine.prefix_index import BLOCK
from lorikeet_server.engine.roster import Vocabulary
from lorikeet_server.engine.selftest import SelfTest, self_test
from lorikeet_server.engine.tokenizer import Tokenizer, load_tokenizer
from lorikeet_server.keyring import Keyring
from lorikeet_server.limits import Limits
from lorikeet_server.metrics import LoadTimes, Metrics
from lorikeet_server.request_log.log import RequestLog
from lorikeet_server.stock import offer_embedded, register_wanted, warn_of_hidden
from lorikeet_trainer.jobs.briefing import Base as TrainedBase
from lorikeet_trainer.jobs.office import Office, TrainingLimits

FIRST_S = 600.0  # for all that an owner has to come over the network
PUBLIC = ""  # no tenant has this name, so its view has what is everyone's


@dataclass(frozen=True, slots=True)
class House:
    """Everything one server consists of, ready to listen."""

    registry: Registry
    bridge: Bridge
    services: Services
    grammars: Grammars
    jobs: Office


def assemble(
    config: ServerConfig,
    store: Store,
    wanted: Mapping[str, Path],
    *,
    keys: Keyring | None = None,
    log: RequestLog | None = None,
    owner: Owner | None = None,
) -> House:
    """Load and test the base, build the engine, register what a start registers. Raises LorikeetError.

    `wanted` maps names to the folders or hub ids of the operator's `--adapter`; `log` is its opener's to close.
    With an `owner` the registry follows its, and has what that has when this returns.
    """
    base = _named_base(config.model)
    tested = self_test(base, config.engine.kernel)  # first: no data folder becomes a refused base's
    tokenizer = load_tokenizer(config.model.source, config.model.trust_remote_code)
    origin = origin_of(base, tokenizer)
    registry = _open_registry(config, store, base, origin, owner)
    composer = Composer(registry, base.outline)
    merges = Merges(registry, composer)
    loads = LoadTimes()
    engine = make_engine(config, base, tokenizer, registry, merges, loads=loads)
    store.notes.remember_base(_remembered(config, base, origin))
    if config.model.source == "demo":
        offer_embedded(registry, owner or store.notes)
    register_wanted(registry, wanted, store.intake, config.http.max_adapter_bytes)
    warn_of_hidden(registry)
    jobs = open_office(config, store.folder, registry, base)
    metrics = Metrics(
        engine.read_stats, base.quantization, names=View(registry, PUBLIC), loads=loads, jobs=jobs, log=log
    )
    bridge = Bridge(engine, merges, Limits.of(config.http), metrics.observe)
    grammars = make_grammars(base, tokenizer)
    services = Services(
        requests=bridge,
        registry=registry,
        text=tokenizer,
        model=_card(base, engine, tested),
        metrics=metrics,
        stats=engine.read_stats,
        http=config.http,
        adapters_root=config.adapters_root,
        intake=store.intake,
        composer=composer,
        merges=merges,
        grammars=grammars,
        jobs=jobs,
        keys=keys,
        request_log=log,
    )
    return House(registry, bridge, services, grammars, jobs)


def spare_what_stays() -> None:
    """Everything so far lives as long as the process: the collector need not walk it again and again.

    A full collection walks half a million objects, most of them imports, and stops every thread meanwhile: a
    quarter of a second where the demo is served on a CPU.
    """
    gc.collect()
    gc.freeze()


def _open_registry(
    config: ServerConfig, store: Store, base: BaseModel, origin: Origin, owner: Owner | None
) -> Registry:
    """Judged against this base; with an owner it has all that the owner has."""
    registry = Registry(
        store,
        base.name,
        Checker(base.outline, base.name, base.source, config.engine.rank_rows, origin),
        fingerprint=origin.key,
        keep=config.keep_generations,
        owner=owner,
    )
    if registry.follower is not None:
        registry.follower.catch_up(FIRST_S)
    return registry


def _named_base(model: ModelConfig) -> BaseModel:
    base = load_base(
        model.source, model.quantization, _device(model), trust_remote_code=model.trust_remote_code
    )
    return replace(base, name=model.served_name or base.name)


def open_office(config: ServerConfig, folder: Path, registry: Registry, base: BaseModel) -> Office:
    """Where fine-tuning jobs are ordered; a job trains on the base as it is held here."""
    training = config.training
    trained = TrainedBase(
        base.name,
        config.model.source,
        str(base.quantization),
        str(base.device),
        config.engine.threads,
        config.model.trust_remote_code,
    )
    limits = TrainingLimits(training.training_jobs, training.max_files_bytes, training.job_silence_seconds)
    return Office(folder / "training", registry, trained, limits)


def _remembered(config: ServerConfig, base: BaseModel, origin: Origin) -> ServedBase:
    return ServedBase(
        config.model.source,
        base.name,
        base.quantization,
        base.fingerprint,
        config.keep_generations,
        origin.checkpoint,
        origin.probe,
    )


def origin_of(base: BaseModel, tokenizer: Tokenizer) -> Origin:
    """What the adapters' own origins are held against."""
    asked = probe(lambda turns: tokenizer.encode(tokenizer.render(turns))) if tokenizer.has_template else ""
    checkpoint = checkpoint_digest(resolve_source(base.source))
    return Origin(base.name, base.quantization.value, base.fingerprint, checkpoint, asked)


def make_grammars(base: BaseModel, tokenizer: Tokenizer) -> Grammars:
    """Compiles what answers are held to; reads the vocabulary on a thread of its own."""
    width = base.model.config.get_text_config().vocab_size
    return Grammars(lambda: read_lexicon(tokenizer, width))


def make_engine(
    config: ServerConfig,
    base: BaseModel,
    tokenizer: Tokenizer,
    registry: Registry,
    merges: Merges,
    *,
    loads: LoadTimes | None = None,
) -> Engine:
    """The engine, told by the registry and by the merges what it can forget; `loads` times its loader."""

    def fetch(generation: str) -> AdapterWeights:
        if is_merge(generation):
            return merges.weights(generation, base.compute_dtype)
        found = registry.locate(generation)
        return load_weights(found.weights, found.spec, base.outline, base.compute_dtype)

    engine = Engine(
        base, config.engine, Vocabulary(tokenizer.decode, tokenizer.eos), (loads or LoadTimes()).timed(fetch)
    )
    merges.retire = engine.retire

    def retire(generation: str) -> Future[Memory]:
        merges.forget(generation)
        return engine.retire(generation)

    registry.attach(retire, engine.pin, config.engine.rank_rows)
    return engine


def _device(model: ModelConfig) -> str:
    if model.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if model.device != "cpu" and (torch.device(model.device).index or 0) >= torch.cuda.device_count():
        raise RefusedError(
            f"--device {model.device}: this machine has {torch.cuda.device_count()} usable CUDA devices"
        )
    return model.device


def _card(base: BaseModel, engine: Engine, tested: SelfTest) -> ModelCard:
    return ModelCard(
        name=base.name,
        quantization=base.quantization,
        device=str(base.device),
        compute_dtype=str(base.compute_dtype).removeprefix("torch."),
        kernel=engine.runner.rank_rows.kernel,
        bytes_by_dtype=base.bytes_by_dtype,
        kernel_bytes=engine.runner.kernel_bytes,
        fingerprint=base.fingerprint,
        max_model_len=engine.max_model_len,
        cache_tokens=engine.capacity.geometry.cells,
        prefix_tokens=engine.capacity.prefix_blocks * BLOCK,
        vocabulary=base.model.config.get_text_config().vocab_size,
        created=int(time.time()),
        self_test={"difference_std": tested.difference, "bound_std": tested.bound},
    )
