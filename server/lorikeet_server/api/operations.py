"""Every operation there is, as a table: what it takes, what it answers, how it can fail. A test compares it with the routes."""

from __future__ import annotations

from dataclasses import dataclass

from lorikeet_server.api.adapters import ActivateBody, ChangeBody
from lorikeet_server.api.aliases import AliasBody
from lorikeet_server.api.body import Body
from lorikeet_server.api.chat_body import ChatBody
from lorikeet_server.api.completion_body import CompletionBody
from lorikeet_server.api.composition import ComposeBody
from lorikeet_server.api.datasets import DatasetBody
from lorikeet_server.api.job_body import JobBody
from lorikeet_server.api.loras import LoadBody, UnloadBody
from lorikeet_server.api.native_body import GenerateBody, PlainBody, StreamBody
from lorikeet_server.api.request_log import JudgeBody
from lorikeet_server.api.sources import TrialBody
from lorikeet_server.api.tokens import DetokenizeBody, TokenizeBody

JSON, TEXT, STREAM = "application/json", "text/plain", "text/event-stream"
HTML = "text/html"
BYTES = "application/octet-stream"
OPENMETRICS = "application/openmetrics-text"
BODY = frozenset({400, 408, 413})
NAMED = frozenset({404})
GENERATION = BODY | NAMED | {409, 422, 503, 504}
CHANGE = BODY | NAMED | {409, 412, 422}
INTAKE = CHANGE | {503}
WAITING = frozenset({503})


@dataclass(frozen=True, slots=True)
class Operation:
    """`keys` are those that a JSON answer has always, each of its items where it is a list (`many`).

    `errors` are statuses beside those of every operation.
    """

    summary: str
    body: type[Body] | None = None
    keys: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (200,)
    media: tuple[str, ...] = (JSON,)
    errors: frozenset[int] = frozenset()
    parameters: tuple[str, ...] = ()
    uploads: bool = False
    form: bool = False  # that of a file to train on
    many: bool = False


COMPLETION = ("id", "object", "created", "model", "choices", "usage", "lorikeet")
CARD = ("id", "object", "created", "owned_by", "root", "parent", "max_model_len")
LIST = ("object", "data")
PAGE = (*LIST, "has_more")
RECORD = (
    "object",
    "id",
    "generation",
    "state",
    "tier",
    "rank",
    "bytes",
    "targets",
    "base",
    "pinned",
    "leases",
)
ALIAS = ("object", "id", "targets", "created", "updated", "history")
DELETED = ("object", "id", "deleted")
STATUS = ("status",)
PAGING = ("limit", "after")
FILE = ("id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status")
REPORT = (
    "name",
    "sha256",
    "format",
    "is_usable",
    "rows",
    "usable",
    "tokens",
    "learned_tokens",
    "longest",
    "limit",
    "lengths",
    "labels",
    "counts",
    "findings",
    "sample",
)
JOB = (
    "id",
    "object",
    "model",
    "created_at",
    "finished_at",
    "fine_tuned_model",
    "organization_id",
    "result_files",
    "status",
    "training_file",
    "validation_file",
    "hyperparameters",
    "trained_tokens",
    "error",
    "seed",
    "method",
    "x_lorikeet",
)
REQUEST = (
    "id",
    "object",
    "created",
    "tenant",
    "key",
    "route",
    "model",
    "mix",
    "messages",
    "prompt",
    "answer",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "total_s",
    "rating",
    "correction",
)
DATASET = ("id", "object", "file", "rows", "left_out")
OPENAI_PAGE = (*PAGE, "first_id", "last_id")
JOB_CHANGE = NAMED | {409}
TOKENIZE = Operation(
    "Text or messages into token ids.",
    TokenizeBody,
    ("count", "max_model_len", "tokens", "token_strs"),
    errors=BODY | NAMED | {503},
)
DETOKENIZE = Operation(
    "Token ids into text, special tokens spelled out.", DetokenizeBody, ("prompt",), errors=BODY | NAMED
)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): Operation(
        "OpenAI's chat completions.", ChatBody, COMPLETION, media=(JSON, STREAM), errors=GENERATION
    ),
    ("POST", "/v1/completions"): Operation(
        "OpenAI's completions.", CompletionBody, COMPLETION, media=(JSON, STREAM), errors=GENERATION
    ),
    ("GET", "/v1/models"): Operation("The base, every adapter and every alias.", keys=LIST),
    ("GET", "/v1/models/{name}"): Operation("One of them.", keys=CARD, errors=NAMED),
    ("GET", "/v1/adapters"): Operation(
        "Records of adapters, by name.", keys=PAGE, parameters=PAGING, errors=frozenset({400})
    ),
    ("POST", "/v1/adapters"): Operation(
        "Register an adapter; with dry_run, say whether it could be.",
        TrialBody,
        statuses=(200, 201),
        errors=INTAKE,
        parameters=("dry_run", "If-Match", "Idempotency-Key"),
        uploads=True,
    ),
    ("POST", "/v1/adapters/compose"): Operation(
        "A new adapter out of registered ones.",
        ComposeBody,
        RECORD,
        (200, 201),
        errors=INTAKE,
        parameters=("If-Match", "Idempotency-Key"),
    ),
    ("GET", "/v1/adapters/history/{name}"): Operation(
        "What happened to a name, the newest first.",
        keys=PAGE,
        parameters=("limit", "after_event"),
        errors=NAMED | {400},
    ),
    ("POST", "/v1/adapters/activate/{name}"): Operation(
        "Mean a former generation again.", ActivateBody, RECORD, errors=CHANGE, parameters=("If-Match",)
    ),
    ("GET", "/v1/adapters/{name}"): Operation("A record.", keys=RECORD, errors=NAMED),
    ("PATCH", "/v1/adapters/{name}"): Operation(
        "Pin an adapter, or change its metadata.", ChangeBody, RECORD, errors=CHANGE, parameters=("If-Match",)
    ),
    ("DELETE", "/v1/adapters/{name}"): Operation(
        "Remove an adapter once its running requests have ended.",
        keys=(*DELETED, "freed"),
        errors=NAMED | {400, 409, 412, 503},
        parameters=("If-Match",),
    ),
    ("GET", "/v1/aliases"): Operation(
        "Aliases, by name.", keys=PAGE, parameters=PAGING, errors=frozenset({400})
    ),
    ("GET", "/v1/aliases/{name}"): Operation("An alias.", keys=ALIAS, errors=NAMED),
    ("PUT", "/v1/aliases/{name}"): Operation(
        "Send a name's requests to adapters, in shares.", AliasBody, ALIAS, (200, 201), errors=CHANGE
    ),
    ("DELETE", "/v1/aliases/{name}"): Operation("Remove an alias.", keys=DELETED, errors=NAMED),
    ("GET", "/v1/files"): Operation(
        "Files, the newest first.",
        keys=OPENAI_PAGE,
        parameters=("file_limit", "after", "order", "purpose"),
        errors=frozenset({400}),
    ),
    ("POST", "/v1/files"): Operation(
        "Upload a file to train on.",
        keys=FILE,
        errors=BODY | {408, 422, 503},
        parameters=("Idempotency-Key",),
        form=True,
    ),
    ("GET", "/v1/files/{id}"): Operation("A file's object.", keys=FILE, errors=NAMED),
    ("DELETE", "/v1/files/{id}"): Operation(
        "Delete a file that no open job needs.", keys=DELETED, errors=NAMED | {409}
    ),
    ("GET", "/v1/files/{id}/content"): Operation(
        "A file's bytes, or the Range of them.",
        statuses=(200, 206),
        media=(BYTES,),
        errors=NAMED | {400, 416},
    ),
    ("GET", "/v1/files/{id}/check"): Operation(
        "What a job would find in a file, and the loss mask of one row.",
        keys=REPORT,
        parameters=("line",),
        errors=NAMED | {400, 503, 504},
    ),
    ("GET", "/v1/fine_tuning/jobs"): Operation(
        "Fine-tuning jobs, the newest first.",
        keys=OPENAI_PAGE,
        parameters=("job_limit", "after", "metadata"),
        errors=frozenset({400}),
    ),
    ("POST", "/v1/fine_tuning/jobs"): Operation(
        "Train an adapter.",
        JobBody,
        JOB,
        errors=BODY | NAMED | {409, 422, 503},
        parameters=("Idempotency-Key",),
    ),
    ("GET", "/v1/fine_tuning/jobs/{id}"): Operation("A job.", keys=JOB, errors=NAMED),
    ("POST", "/v1/fine_tuning/jobs/{id}/cancel"): Operation(
        "Cancel a job; its last checkpoint stays.", keys=JOB, errors=JOB_CHANGE
    ),
    ("POST", "/v1/fine_tuning/jobs/{id}/pause"): Operation(
        "Write a checkpoint and give the machine back.", keys=JOB, errors=JOB_CHANGE
    ),
    ("POST", "/v1/fine_tuning/jobs/{id}/resume"): Operation(
        "Go on from the last checkpoint.", keys=JOB, errors=JOB_CHANGE
    ),
    ("GET", "/v1/fine_tuning/jobs/{id}/events"): Operation(
        "What happened to a job, the newest first; as a stream the oldest first.",
        keys=OPENAI_PAGE,
        media=(JSON, STREAM),
        parameters=("job_limit", "after", "stream", "Last-Event-ID"),
        errors=NAMED | {400},
    ),
    ("GET", "/v1/fine_tuning/jobs/{id}/checkpoints"): Operation(
        "Checkpoints that can be served, the newest first.",
        keys=OPENAI_PAGE,
        parameters=("checkpoint_limit", "after"),
        errors=NAMED | {400},
    ),
    ("GET", "/v1/requests"): Operation(
        "Kept requests, the newest first; 404 where none are kept.",
        keys=OPENAI_PAGE,
        parameters=("job_limit", "after", "q", "model", "rating"),
        errors=NAMED | {400},
    ),
    ("GET", "/v1/requests/{id}"): Operation("A kept request and its answer.", keys=REQUEST, errors=NAMED),
    ("PATCH", "/v1/requests/{id}"): Operation(
        "Rate an answer, or say what it should have been.", JudgeBody, REQUEST, errors=BODY | NAMED
    ),
    ("DELETE", "/v1/requests/{id}"): Operation("Remove a kept request.", keys=DELETED, errors=NAMED),
    ("POST", "/v1/datasets"): Operation(
        "Kept requests as a file to train on.",
        DatasetBody,
        DATASET,
        errors=BODY | NAMED | {422, 503},
        parameters=("Idempotency-Key",),
    ),
    ("POST", "/v1/load_lora_adapter"): Operation(
        "vLLM's way to register an adapter.", LoadBody, media=(TEXT,), errors=INTAKE - {412}
    ),
    ("POST", "/v1/unload_lora_adapter"): Operation(
        "vLLM's way to remove one.", UnloadBody, media=(TEXT,), errors=BODY | NAMED | {409, 503}
    ),
    ("POST", "/v1/tokenize"): TOKENIZE,
    ("POST", "/v1/detokenize"): DETOKENIZE,
    ("POST", "/tokenize"): TOKENIZE,
    ("POST", "/detokenize"): DETOKENIZE,
    ("POST", "/generate"): Operation(
        "LoRAX's and TGI's generation.", GenerateBody, ("generated_text",), errors=GENERATION
    ),
    ("POST", "/generate_stream"): Operation(
        "The same, as a stream.", StreamBody, media=(STREAM,), errors=GENERATION
    ),
    ("POST", "/"): Operation(
        "Either of the two, as `stream` says; a whole answer is a list of one.",
        PlainBody,
        ("generated_text",),
        media=(JSON, STREAM),
        errors=GENERATION,
        many=True,
    ),
    ("GET", "/"): Operation("The console, where it is on.", media=(HTML,), errors=NAMED),
    ("GET", "/console/{file}"): Operation(
        "A file of the console.",
        statuses=(200, 304),
        media=(HTML, "text/css", "text/javascript"),
        errors=NAMED,
    ),
    ("GET", "/info"): Operation("What is resident.", keys=("model_id", "version", "quantization", "slots")),
    ("GET", "/health"): Operation("Ready for requests.", keys=STATUS, errors=WAITING),
    ("GET", "/health/live"): Operation("The engine lives and moves.", keys=STATUS, errors=WAITING),
    ("GET", "/health/ready"): Operation("Ready for requests.", keys=STATUS, errors=WAITING),
    ("GET", "/startup"): Operation("The base is loaded and tested.", keys=STATUS, errors=WAITING),
    ("GET", "/ping"): Operation("Ready for requests, as SageMaker asks.", keys=STATUS, errors=WAITING),
    ("GET", "/metrics"): Operation("Metrics for Prometheus.", media=(TEXT, OPENMETRICS)),
    ("GET", "/metrics/vllm"): Operation("Metrics under vLLM's names.", media=(TEXT, OPENMETRICS)),
    ("GET", "/openapi.json"): Operation("This document.", keys=("openapi", "info", "paths", "components")),
}
