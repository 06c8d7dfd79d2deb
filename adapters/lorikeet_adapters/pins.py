"""What may be pinned: a pin takes device memory from everyone, so only the operator gives and takes it."""

from __future__ import annotations

from lorikeet_adapters.directory import Directory
from lorikeet_adapters.errors import AccessRefused, PinRefused
from lorikeet_adapters.stored import StoredGeneration


def check_rows(after: Directory, before: Directory, rows: float) -> None:
    """Raises PinRefused when the pinned need more than these rows, and more than before."""
    if after.pinned_rows > max(rows, before.pinned_rows):
        raise PinRefused(
            f"the pinned adapters would need {after.pinned_rows} rank rows, there are {rows}; "
            "unpin another, or start with more --rank-rows"
        )


def check_pin(
    directory: Directory, name: str, pinned: object, by: str | None, becoming: StoredGeneration
) -> None:
    """Raises AccessRefused when a tenant would pin or unpin, or make larger what is pinned.

    `pinned` is what is asked for, None for as it is; `becoming` is what the name is to mean.
    """
    if by is None:
        return
    known = directory.names.get(name)
    is_pinned = known is not None and bool(known.details["pinned"])
    if pinned is not None and pinned is not is_pinned:
        raise AccessRefused("pinned: only the operator pins adapters to the device, or unpins them")
    if known is not None and is_pinned and becoming.rows > (rows := directory.rows_of(known.generation)):
        raise AccessRefused(
            f"`{name}` is pinned with {rows} rank rows and would take {becoming.rows}; "
            "only the operator pins more, or unpins it first"
        )
