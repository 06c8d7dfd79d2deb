"""GET /metrics and GET /metrics/vllm: rendered on a thread, because a scrape must not hold up streams."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.openmetrics import exposition as openmetrics
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from lorikeet_server.api.caller import public_view
from lorikeet_server.api.services import Services
from lorikeet_server.metrics.vllm import Sources, vllm_registry


async def metrics(http: Request) -> Response:
    """Prometheus text, or OpenMetrics when the scraper asks for it."""
    services: Services = http.app.state.services
    return await _rendered(http, services.metrics.registry)


async def vllm(http: Request) -> Response:
    """What gateways that know vLLM read."""
    services: Services = http.app.state.services
    sources = Sources(
        services.model.name,
        services.metrics.registry,
        services.stats,
        public_view(services),
        services.requests.adapters_in_use(),
    )
    return await _rendered(http, vllm_registry(sources))


async def _rendered(http: Request, registry: CollectorRegistry) -> Response:
    wants_openmetrics = "application/openmetrics-text" in http.headers.get("accept", "")
    render = openmetrics.generate_latest if wants_openmetrics else exposition.generate_latest
    kind = openmetrics.CONTENT_TYPE_LATEST if wants_openmetrics else exposition.CONTENT_TYPE_LATEST
    body = await run_in_threadpool(render, registry)
    return Response(body, headers={"content-type": kind})
