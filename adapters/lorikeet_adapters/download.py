"""Run as a script by `hub.py`, never imported: fetches the two files of one commit through huggingface_hub.

In a process of its own because a download can hang past every timeout of a read, and because the
kernel then bounds what it writes, whatever sizes the hub has promised. Endpoint and token are those
of the environment, as huggingface_hub reads them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub import HfApi, ModelInfo, hf_hub_download
from huggingface_hub import errors as hub

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
READ_TIMEOUT_S = 30.0


class Refused(Exception):
    """Ends the script with a finding."""


def refuse(code: str, message: str, fix: str) -> NoReturn:
    raise Refused(code, message, fix)


def main() -> None:
    request = json.loads(sys.argv[1])
    threading.Thread(target=_end_with, args=[request["parent"]], daemon=True).start()
    limit = request["max_bytes"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # per file; Python turns the signal into EFBIG
    try:
        answer = {"commit": _fetch(request["repo"], request["revision"], Path(request["folder"]), limit)}
    except Refused as refused:
        answer = dict(zip(("code", "message", "fix"), refused.args, strict=True))
    except Exception as error:
        traceback.print_exc()
        answer = dict(zip(("code", "message", "fix"), _explain(error, request), strict=True))
    print(json.dumps(answer))


def _fetch(repo: str, revision: str, folder: Path, limit: int) -> str:
    """The commit that was fetched. A branch may move meanwhile, a commit cannot."""
    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=READ_TIMEOUT_S)
    commit = info.sha or ""
    if len(commit) != 40 or set(commit) - set("0123456789abcdef"):
        refuse("hub_failed", f"the hub names no commit for {revision}", "check HF_ENDPOINT")
    _check_files(info, limit)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        hf_hub_download(repo, name, revision=commit, local_dir=folder, etag_timeout=READ_TIMEOUT_S)
    _check_digests(info, folder)
    return commit


def _check_files(info: ModelInfo, limit: int) -> None:
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or []}
    if WEIGHTS_FILE not in sizes and PICKLE_FILE in sizes:
        refuse(
            "pickle_only",
            f"the repository has {PICKLE_FILE}, a pickle, which is never fetched",
            "download it, run `lorikeet adapters convert FOLDER` if you trust it, and add the folder",
        )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if name not in sizes:
            refuse(
                "missing_file",
                f"the repository has no {name} at its top",
                "name a repository of one PEFT adapter",
            )
    total = sizes[CONFIG_FILE] + sizes[WEIGHTS_FILE]
    if total > limit:
        _refuse_size(total, limit)


def _check_digests(info: ModelInfo, folder: Path) -> None:
    for each in info.siblings or []:
        if each.lfs is not None and each.rfilename in (CONFIG_FILE, WEIGHTS_FILE):
            with (folder / each.rfilename).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != each.lfs.sha256:
                refuse(
                    "hub_failed", f"{each.rfilename} is not the file that the repository names", "try again"
                )


def _refuse_size(size: int | str, limit: int) -> NoReturn:
    refuse("too_large", f"the files have {size} bytes, the most is {limit}", "raise --max-adapter-bytes")


def _explain(error: BaseException, request: dict[str, Any]) -> tuple[str, str, str]:
    repo, revision, limit = request["repo"], request["revision"], request["max_bytes"]
    if isinstance(error, hub.OfflineModeIsEnabled):
        return (
            "hub_offline",
            "fetching from the hub is switched off by HF_HUB_OFFLINE",
            "unset it, or add a folder",
        )
    if isinstance(error, hub.GatedRepoError):
        return (
            "hub_forbidden",
            f"{repo} is gated, and the token may not read it",
            "ask for access, set HF_TOKEN",
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return "hub_not_found", f"{repo} has no revision {revision}", "name a branch, a tag or a commit"
    if isinstance(error, hub.RepositoryNotFoundError):
        return (
            "hub_not_found",
            f"{repo} does not exist, or the token may not see it",
            "check the name and HF_TOKEN",
        )
    if isinstance(error, hub.EntryNotFoundError):
        return "missing_file", f"{repo} lacks a file that it lists", "try again"
    if isinstance(error, hub.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return (
                "hub_forbidden",
                f"the hub refuses {repo} ({status})",
                "set HF_TOKEN to a token that may read it",
            )
        return "hub_failed", f"the hub answered {status}", "try again later"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "too_large", f"a file is over the most, {limit} bytes", "raise --max-adapter-bytes"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no_room", "the data folder's disk is full", "free some room"
    if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
        return (
            "hub_unreachable",
            "the hub cannot be reached, or stopped answering",
            "check the network and HF_ENDPOINT",
        )
    return "hub_failed", "the download failed; the server's log has the reason", "try again, or add a folder"


def _end_with(parent: int) -> None:
    os.read(parent, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
