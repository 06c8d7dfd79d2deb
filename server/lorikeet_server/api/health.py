"""Is it alive, is it ready, what runs here."""

from __future__ import annotations

from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_server.api.services import Services


async def live(http: Request) -> Response:
    """Red only when the engine has died or hangs: it does not depend on how much is waiting."""
    return _status(_life(http.app.state.services))


async def ready(http: Request) -> Response:
    """Routes exist only after the base is loaded and has passed its self-test; red again once the server stops.

    Training that has stopped is said and turns nothing red: answers do not depend on it.
    """
    services: Services = http.app.state.services
    said = {"training": "stopped"} if services.jobs.is_broken else {}
    return _status("draining" if services.requests.draining else _life(services), **said)


async def info(http: Request) -> Response:
    services: Services = http.app.state.services
    model, stats = services.model, services.stats()
    return JSONResponse(
        {
            "model_id": model.name,
            "version": version("lorikeet"),
            "model_dtype": model.compute_dtype,
            "model_device_type": model.device,
            "quantization": model.quantization,
            "kernel": model.kernel,
            "base_bytes": sum(model.bytes_by_dtype.values()),
            "bytes_by_dtype": dict(model.bytes_by_dtype),
            "kernel_bytes": model.kernel_bytes,
            "base_fingerprint": model.fingerprint,
            "max_total_tokens": model.max_model_len,
            "max_input_length": model.max_model_len - 1,
            "max_input_tokens": model.max_model_len - 1,
            "kv_cache_tokens": model.cache_tokens,
            "prefix_cache_tokens": model.prefix_tokens,
            "max_concurrent_requests": services.http.max_open_requests,
            "slots": stats.slots,
            "rank_rows": stats.rows,
            "chat_template": services.text.has_template,
            "self_test": dict(model.self_test),
        }
    )


def _life(services: Services) -> str:
    if not services.requests.alive:
        return "dead"
    return "hangs" if services.requests.hangs else "ok"


def _status(status: str, **more: str) -> Response:
    return JSONResponse({"status": status, **more}, 200 if status == "ok" else 503)
