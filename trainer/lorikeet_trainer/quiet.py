"""The libraries' own chatter, held back while we speak for them, and given back afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging

# Names that a library itself reads under their old spelling; nobody here can change that.
RENAMES = (
    "`gradient_checkpointing` is deprecated",
    "`is_gradient_checkpointing` is deprecated",
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Errors still come through, and so does every Python warning not named here."""
    verbosity = logging.get_verbosity()
    try:
        logging.set_verbosity_error()
        with warnings.catch_warnings():
            for message in RENAMES:
                warnings.filterwarnings("ignore", message, FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
