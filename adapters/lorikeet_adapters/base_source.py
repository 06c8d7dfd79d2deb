"""Where a base model is: what `--model` can mean, asked before anything heavy is imported."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lorikeet_adapters.errors import BaseModelRefused

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")
MAX_REASON = 500  # characters of another library's message
ASK_S = 5.0  # transformers tries for half a minute before it says that there is no such model


def demo_base() -> Path:
    """Folder of the embedded demo base, found without importing the server."""
    from importlib.util import find_spec

    spec = find_spec("lorikeet_server")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    if not roots:
        raise BaseModelRefused("the embedded demo base is not installed; name a model folder instead")
    return Path(roots[0]) / "demo" / "base"


def resolve_source(source: str) -> str:
    """`demo` becomes the embedded base's folder; anything else is a local folder or a hub id."""
    return str(demo_base()) if source == "demo" else source


def check_source(source: str) -> None:
    """`demo`, a folder with a config.json, or a hub id that is cached or can be asked for.

    Raises BaseModelRefused naming every possibility that was looked at.
    """
    if source == "demo":
        return
    if os.path.isdir(source):  # unlike Path.is_dir it is False for what can be no path at all
        if not (Path(source) / "config.json").is_file():
            raise BaseModelRefused(f"`{source}` is no model folder: it has no config.json")
        return
    if os.path.exists(source):
        raise BaseModelRefused(f"`{source}` is a file; name the model's folder")
    if not HUB_ID.fullmatch(source):
        raise BaseModelRefused(f"`{source}` is neither a folder here nor a hub id like owner/name")
    _refuse_unreachable(source)


def _refuse_unreachable(repo: str) -> None:
    """One short question to the hub, unless the model lies in its cache."""
    from huggingface_hub import HfApi, constants, errors, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repo, "config.json"), str):
        return
    nowhere = f"there is no folder `{repo}` here, and no model `{repo}` in the hub's cache"
    if constants.HF_HUB_OFFLINE:
        raise BaseModelRefused(
            f"{nowhere}; offline (HF_HUB_OFFLINE is set) it cannot be downloaded: "
            "name a folder, or unset HF_HUB_OFFLINE"
        )
    try:
        HfApi().model_info(repo, revision="main", timeout=ASK_S)
    except errors.GatedRepoError as error:
        why = "on the hub it is gated: ask for access, and set HF_TOKEN"
        raise BaseModelRefused(f"{nowhere}; {why}") from error
    except errors.RepositoryNotFoundError as error:
        why = "the hub has none either, or none that HF_TOKEN may see: check the name"
        raise BaseModelRefused(f"{nowhere}; {why}") from error
    except (
        Exception
    ) as error:  # no network, a proxy, a hub in trouble: whatever it is, nothing can be downloaded
        why = f"the hub cannot be asked ({type(error).__name__}): name a folder, or check the network and HF_ENDPOINT"
        raise BaseModelRefused(f"{nowhere}; {why}") from error


def tokenizer_refusal(source: str, where: str, error: Exception) -> BaseModelRefused:
    """What transformers' refusal of a tokenizer means; its own words are many lines that fit few cases."""
    folder = Path(where)
    if folder.is_dir() and not any(any(folder.glob(each)) for each in TOKENIZER_FILES):
        return BaseModelRefused(
            f"`{source}` has no tokenizer, like tokenizer.json; save it beside the model (save_pretrained)"
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    return BaseModelRefused(f"`{source}` has no usable tokenizer: {reason[:MAX_REASON]}")
