"""What can go wrong with a request, and the only table that says what HTTP makes of it.

    LorikeetError                     (lorikeet_adapters.errors; jobs' in lorikeet_trainer.jobs.errors)
    └── RequestError
        ├── RequestRefused            the body cannot be served as written; `param` names the field
        │   ├── ContextTooLong        the prompt leaves no room to generate
        │   ├── ConstraintRefused     a schema or choice that no answer can be held to
        │   ├── SourceMissing         no adapter lies where the request says
        │   └── DatasetRefused        what is selected of the request log makes no file to train on
        ├── BodyTooLarge              more bytes than the server reads
        ├── BodyTooSlow               nothing of the body came for too long
        ├── RangeRefused              bytes of a file that it does not have
        ├── RequestLogOff             the server keeps no requests
        ├── RequestNotFound           no such request in the log, or another tenant's
        ├── KeyReused                 an Idempotency-Key that was sent with another request
        ├── HostForbidden             not addressed to this machine, or from a foreign page
        ├── InvalidKey                no API key, or one that is not known
        ├── ScopeMissing              a key that is not for this
        ├── TenantBusy                as many requests of this tenant as it may have
        ├── MixUnusable               an adapter of the mix cannot be applied
        ├── ServerBusy                the queue is full
        ├── QueuedTooLong             it waited longer than it may before it was begun
        ├── TookTooLong               it was not complete when its time was over
        ├── OutOfMemory               the device had no memory left for it
        ├── ServerDraining            the server is stopping and takes nothing new
        ├── Interrupted               the server stopped before the request was complete
        ├── EngineDead                the engine has stopped after an internal error
        ├── ReplicaLost               the replica that was answering is gone
        ├── NotAcrossReplicas         what belongs to one server's data folder alone
        └── GenerationFailed          anything else that ended a request on our side

To add one: subclass by fault, one sentence, one row in TABLE. A test walks both trees.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorikeet_adapters import errors as adapters
from lorikeet_adapters.errors import LorikeetError
from lorikeet_server.engine.request import Failure
from lorikeet_trainer.jobs import errors as jobs


class RequestError(LorikeetError):
    """Root of what ends one request; `code` overrides the table's."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class RequestRefused(RequestError):
    """The body cannot be served as written."""


class ContextTooLong(RequestRefused):
    """The prompt leaves no room to generate."""


class ConstraintRefused(RequestRefused):
    """No answer can be held to the schema or the choice that was sent."""


class SourceMissing(RequestRefused):
    """No adapter lies where the request says."""


class DatasetRefused(RequestRefused):
    """What is selected of the request log makes no file to train on."""


class BodyTooLarge(RequestError):
    """The body has more bytes than the server reads."""


class BodyTooSlow(RequestError):
    """The client began a body and stopped sending it."""


class RangeRefused(RequestError):
    """The Range asks for bytes that the file does not have."""


class RequestLogOff(RequestError):
    """The server keeps no requests."""

    def __init__(self) -> None:
        super().__init__("this server keeps no requests; start it with --request-log")


class RequestNotFound(RequestError):
    """No such request in the log for whoever asks."""

    def __init__(self, record: str) -> None:
        super().__init__(f"there is no request {record[:64]!r}; GET /v1/requests lists those there are")


class KeyReused(RequestError):
    """The Idempotency-Key was sent with another request before."""


class HostForbidden(RequestError):
    """The request is not addressed to this machine, or comes from a foreign page."""


class InvalidKey(RequestError):
    """The request has no API key, or one that is not known."""


class ScopeMissing(RequestError):
    """The API key is known, but lacks the scope that the route needs."""


class TenantBusy(RequestError):
    """As many requests of this tenant as it may have are waiting or running; try again later."""


class MixUnusable(RequestError):
    """An adapter of the mix cannot be applied to this base."""


class ServerBusy(RequestError):
    """As many requests as the server takes are waiting; try again later."""


class QueuedTooLong(RequestError):
    """The request was not begun in time; try again later."""


class TookTooLong(RequestError):
    """The request was not complete when its time was over."""


class OutOfMemory(RequestError):
    """The device had no memory left for the request; try again later."""


class ServerDraining(RequestError):
    """The server is stopping: what runs may finish, nothing new is taken."""


class Interrupted(RequestError):
    """The server stopped before the request was complete."""


class EngineDead(RequestError):
    """The engine has stopped after an internal error."""


class ReplicaLost(RequestError):
    """The replica that was answering is gone; what it had begun cannot be another's."""


class NotAcrossReplicas(RequestError):
    """The route belongs to one server's data folder, and several replicas serve."""


class GenerationFailed(RequestError):
    """The request ended on our side; the log has the reason."""


@dataclass(frozen=True, slots=True)
class HttpError:
    """How one exception looks on the wire. `native_type` is LoRAX's and TGI's `error_type`."""

    status: int
    type: str
    code: str
    native_type: str = "validation"
    retry_after: int | None = None
    challenge: str = ""  # for WWW-Authenticate


INVALID = "invalid_request_error"
TABLE: dict[type[LorikeetError], HttpError] = {
    LorikeetError: HttpError(500, "server_error", "internal_error", "incomplete_generation"),
    adapters.RefusedError: HttpError(400, INVALID, "invalid_request"),
    adapters.AdapterRefused: HttpError(422, INVALID, "invalid_adapter"),
    adapters.BaseModelRefused: HttpError(422, INVALID, "invalid_base_model"),
    adapters.DoraRefused: HttpError(422, INVALID, "dora_not_blendable"),
    adapters.MixRefused: HttpError(400, INVALID, "invalid_mix"),
    adapters.NameRefused: HttpError(400, INVALID, "invalid_name"),
    adapters.AliasRefused: HttpError(400, INVALID, "invalid_alias"),
    adapters.BlobTooLarge: HttpError(413, INVALID, "adapter_too_large"),
    adapters.TenantRefused: HttpError(400, INVALID, "invalid_tenants"),
    adapters.AccessRefused: HttpError(403, "permission_error", "not_yours"),
    adapters.AdapterNotFound: HttpError(404, INVALID, "model_not_found"),
    adapters.GenerationNotFound: HttpError(404, INVALID, "generation_not_found"),
    adapters.AdapterConflict: HttpError(409, INVALID, "adapter_exists"),
    adapters.NameTaken: HttpError(409, INVALID, "name_taken"),
    adapters.PinRefused: HttpError(409, INVALID, "pins_too_large"),
    adapters.AdapterChanged: HttpError(412, INVALID, "generation_mismatch"),
    adapters.AdapterInUse: HttpError(409, INVALID, "adapter_in_use"),
    adapters.AdapterIncompatible: HttpError(409, INVALID, "adapter_incompatible"),
    adapters.ChatRefused: HttpError(409, INVALID, "adapter_not_for_chat"),
    adapters.StoreError: HttpError(500, "server_error", "store_error", "incomplete_generation"),
    adapters.StoreLocked: HttpError(500, "server_error", "store_locked", "incomplete_generation"),
    adapters.RegistryAway: HttpError(503, "server_error", "registry_away", "overloaded", retry_after=5),
    jobs.JobError: HttpError(400, INVALID, "invalid_request"),
    jobs.JobNotFound: HttpError(404, INVALID, "job_not_found"),
    jobs.FileMissing: HttpError(404, INVALID, "file_not_found"),
    jobs.FileInUse: HttpError(409, INVALID, "file_in_use"),
    jobs.FilesTooLarge: HttpError(413, INVALID, "files_too_large"),
    jobs.CheckFailed: HttpError(503, "server_error", "check_failed", "overloaded", retry_after=5),
    jobs.CheckTimedOut: HttpError(504, "server_error", "check_timeout", "generation"),
    jobs.JobRefused: HttpError(400, INVALID, "invalid_job"),
    jobs.JobConflict: HttpError(409, INVALID, "job_conflict"),
    jobs.JobsWaiting: HttpError(429, "rate_limit_error", "jobs_waiting", "overloaded", retry_after=60),
    jobs.TrainingUnavailable: HttpError(400, INVALID, "training_unavailable"),
    jobs.TrainingBroken: HttpError(503, "server_error", "training_stopped", "overloaded", retry_after=60),
    RequestError: HttpError(500, "server_error", "internal_error", "incomplete_generation"),
    RequestRefused: HttpError(400, INVALID, "invalid_request"),
    ContextTooLong: HttpError(400, INVALID, "context_length_exceeded"),
    ConstraintRefused: HttpError(400, INVALID, "invalid_constraint"),
    SourceMissing: HttpError(404, INVALID, "source_not_found"),
    DatasetRefused: HttpError(400, INVALID, "invalid_dataset"),
    RequestLogOff: HttpError(404, INVALID, "request_log_off"),
    RequestNotFound: HttpError(404, INVALID, "request_not_found"),
    KeyReused: HttpError(422, INVALID, "idempotency_key_reused"),
    RangeRefused: HttpError(416, INVALID, "range_not_satisfiable"),
    BodyTooLarge: HttpError(413, INVALID, "body_too_large"),
    BodyTooSlow: HttpError(408, INVALID, "body_too_slow"),
    HostForbidden: HttpError(403, "permission_error", "host_forbidden"),
    InvalidKey: HttpError(401, INVALID, "invalid_api_key", challenge='Bearer realm="lorikeet"'),
    ScopeMissing: HttpError(
        403, "permission_error", "insufficient_scope", challenge='Bearer error="insufficient_scope"'
    ),
    TenantBusy: HttpError(429, "rate_limit_error", "tenant_busy", "overloaded", retry_after=1),
    adapters.ComposeRefused: HttpError(422, INVALID, "invalid_composition"),
    MixUnusable: HttpError(422, INVALID, "adapter_refused"),
    ServerBusy: HttpError(503, "server_error", "server_busy", "overloaded", retry_after=1),
    QueuedTooLong: HttpError(503, "server_error", "queue_timeout", "overloaded", retry_after=5),
    TookTooLong: HttpError(504, "server_error", "deadline_exceeded", "generation"),
    OutOfMemory: HttpError(503, "server_error", "out_of_memory", "overloaded", retry_after=5),
    ServerDraining: HttpError(503, "server_error", "draining", "generation", retry_after=5),
    Interrupted: HttpError(503, "server_error", "aborted", "generation", retry_after=5),
    EngineDead: HttpError(503, "server_error", "engine_dead", "generation", retry_after=30),
    ReplicaLost: HttpError(503, "server_error", "replica_lost", "generation", retry_after=1),
    NotAcrossReplicas: HttpError(404, INVALID, "not_across_replicas"),
    GenerationFailed: HttpError(500, "server_error", "generation_failed", "generation"),
}
OPAQUE = "the server could not complete the request; its log has the details under this request id"


def http_error(error: LorikeetError) -> HttpError:
    """The row of the nearest class in the exception's own order of ancestors."""
    return next(TABLE[each] for each in type(error).__mro__ if each in TABLE)


# How the engine's own failure codes come back to the client as exceptions.
FAILURES: dict[str, type[RequestError]] = {
    "context_length_exceeded": ContextTooLong,
    "unknown_token": RequestRefused,
    "constraint_failed": ConstraintRefused,
    "adapter_refused": MixUnusable,
    "invalid_composition": MixUnusable,
    "mix_too_large": MixUnusable,
    "dora_not_blendable": MixUnusable,
    "non_finite": MixUnusable,
    "adapter_load_failed": GenerationFailed,
    "queue_timeout": QueuedTooLong,
    "deadline_exceeded": TookTooLong,
    "out_of_memory": OutOfMemory,
    "engine_dead": EngineDead,
    "aborted": Interrupted,
}


def error_of(failure: Failure, mix_field: str = "model") -> RequestError:
    """`mix_field` is the field of the body that said which mix; it is named when the mix is at fault."""
    kind = FAILURES.get(failure.code, GenerationFailed)
    param = mix_field if issubclass(kind, MixUnusable) else None
    return kind(failure.message, param=param, code=failure.code)
