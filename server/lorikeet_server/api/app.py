"""The application as a value: routes, handlers and middleware are arguments of one constructor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Match, Route
from starlette.types import Scope

from lorikeet_adapters.errors import LorikeetError
from lorikeet_server.api import (
    adapters,
    aliases,
    composition,
    console,
    datasets,
    document,
    files,
    health,
    job_events,
    jobs,
    loras,
    models,
    native,
    openai,
    request_log,
    scrape,
    tokens,
)
from lorikeet_server.api.backstage import Backstage
from lorikeet_server.api.cors import cors
from lorikeet_server.api.envelope import on_error, on_http_error
from lorikeet_server.api.gate import Gate
from lorikeet_server.api.guard import Guard
from lorikeet_server.api.lobby import Lobby
from lorikeet_server.api.pace import Pace
from lorikeet_server.api.precondition import Turns
from lorikeet_server.api.query import StrictQuery
from lorikeet_server.api.run import ClientGone
from lorikeet_server.api.services import Services
from lorikeet_server.api.traffic import Traffic

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


class OwnPath(Route):
    """No other route answers on its path: another method is a 405, and no name with a slash in it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return Match.FULL if match is Match.PARTIAL else match, found


ROUTES = [
    Route("/v1/chat/completions", openai.chat_completions, methods=["POST"]),
    Route("/v1/completions", openai.completions, methods=["POST"]),
    Route("/v1/models", models.list_models),
    Route("/v1/models/{name:path}", models.retrieve_model),
    Route("/v1/adapters", adapters.list_adapters),
    Route("/v1/adapters", adapters.register_adapter, methods=["POST"]),
    Route("/v1/adapters/compose", composition.compose_adapters, methods=["POST"]),
    OwnPath("/v1/adapters/history/{name:path}", adapters.adapter_history),
    OwnPath("/v1/adapters/activate/{name:path}", adapters.activate_generation, methods=["POST"]),
    Route("/v1/adapters/{name:path}", adapters.retrieve_adapter),
    Route("/v1/adapters/{name:path}", adapters.change_adapter, methods=["PATCH"]),
    Route("/v1/adapters/{name:path}", adapters.delete_adapter, methods=["DELETE"]),
    Route("/v1/aliases", aliases.list_aliases),
    Route("/v1/aliases/{name:path}", aliases.retrieve_alias),
    Route("/v1/aliases/{name:path}", aliases.put_alias, methods=["PUT"]),
    Route("/v1/aliases/{name:path}", aliases.delete_alias, methods=["DELETE"]),
    Route("/v1/files", files.list_files),
    Route("/v1/files", files.upload_file, methods=["POST"]),
    Route("/v1/files/{id}", files.retrieve_file),
    Route("/v1/files/{id}", files.delete_file, methods=["DELETE"]),
    Route("/v1/files/{id}/content", files.file_content),
    Route("/v1/files/{id}/check", files.check_file),
    Route("/v1/fine_tuning/jobs", jobs.list_jobs),
    Route("/v1/fine_tuning/jobs", jobs.create_job, methods=["POST"]),
    Route("/v1/fine_tuning/jobs/{id}", jobs.retrieve_job),
    Route("/v1/fine_tuning/jobs/{id}/cancel", jobs.cancel_job, methods=["POST"]),
    Route("/v1/fine_tuning/jobs/{id}/pause", jobs.pause_job, methods=["POST"]),
    Route("/v1/fine_tuning/jobs/{id}/resume", jobs.resume_job, methods=["POST"]),
    Route("/v1/fine_tuning/jobs/{id}/events", job_events.list_events),
    Route("/v1/fine_tuning/jobs/{id}/checkpoints", jobs.list_checkpoints),
    Route("/v1/requests", request_log.list_requests),
    Route("/v1/requests/{id}", request_log.retrieve_request),
    Route("/v1/requests/{id}", request_log.judge_request, methods=["PATCH"]),
    Route("/v1/requests/{id}", request_log.delete_request, methods=["DELETE"]),
    Route("/v1/datasets", datasets.create_dataset, methods=["POST"]),
    Route("/v1/load_lora_adapter", loras.load_lora_adapter, methods=["POST"]),
    Route("/v1/unload_lora_adapter", loras.unload_lora_adapter, methods=["POST"]),
    Route("/v1/tokenize", tokens.tokenize, methods=["POST"]),
    Route("/v1/detokenize", tokens.detokenize, methods=["POST"]),
    Route("/tokenize", tokens.tokenize, methods=["POST"]),
    Route("/detokenize", tokens.detokenize, methods=["POST"]),
    Route("/", native.plain, methods=["POST"]),
    Route("/", console.shell),
    Route("/console/{file:path}", console.asset),
    Route("/generate", native.generate, methods=["POST"]),
    Route("/generate_stream", native.generate_stream, methods=["POST"]),
    Route("/info", health.info),
    Route("/health", health.ready),
    Route("/health/live", health.live),
    Route("/health/ready", health.ready),
    Route("/startup", health.live),
    Route("/ping", health.ready),
    Route("/metrics", scrape.metrics),
    Route("/metrics/vllm", scrape.vllm),
    Route("/openapi.json", document.openapi),
]


def create_app(services: Services, lifespan: Lifespan | None = None) -> Starlette:
    """Build the application; nothing outside `services` is read or changed."""
    gate = Gate(services.keys, open_metrics=services.http.open_metrics)
    local_only = services.keys is None and not services.http.insecure
    app = Starlette(
        routes=ROUTES,
        lifespan=lifespan,
        middleware=[
            Middleware(Traffic, metrics=services.metrics),
            *cors(services.http.cors_origins),
            Middleware(
                Guard,
                local_only=local_only,
                gate=gate,
                metrics=services.metrics,
                origins=frozenset(services.http.cors_origins),
            ),
            Middleware(Lobby, requests=services.requests, open_requests=services.http.max_open_requests),
            Middleware(StrictQuery, known=document.query_parameters()),
            Middleware(Pace),
        ],
        exception_handlers={
            LorikeetError: on_error,
            ClientGone: on_error,
            HTTPException: on_http_error,
        },
    )
    app.state.services = services
    app.state.backstage = Backstage()
    app.state.turns = Turns()
    app.state.intakes = Counter()  # uploads and fetches going on, by tenant
    return app
