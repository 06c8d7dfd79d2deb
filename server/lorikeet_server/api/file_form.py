"""The form of POST /v1/files as it streams by: one file onto the disk, short fields beside it."""

from __future__ import annotations

from collections.abc import Mapping

from lorikeet_adapters.arrival import Arrival
from lorikeet_server.errors import RequestRefused

FILE = "file"
FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
PURPOSE, ANCHOR = "fine-tune", "created_at"
SHORTEST_S, LONGEST_S = 3600, 30 * 24 * 3600
MAX_NAME = 255


class FileUpload:
    """Takes the one file; what its owner calls it is data and never a path. Raises RequestRefused."""

    def __init__(self, arrival: Arrival) -> None:
        self._arrival = arrival
        self.filename: str | None = None

    def takes(self, field: str, filename: str) -> bool:
        if field != FILE and not filename:
            return False
        if field != FILE:
            raise RequestRefused(f"the file must be sent in the field `{FILE}`", param=FILE)
        if self.filename is not None:
            raise RequestRefused("one request uploads one file", param=FILE)
        self.filename = _checked(filename or FILE)
        return True

    def write(self, data: bytes | memoryview) -> None:
        self._arrival.write(data)

    def end(self) -> None:
        """There is nothing to do between one file and no other."""

    def name(self) -> str:
        """Raises RequestRefused when no file has come, or an empty one."""
        if self.filename is None:
            raise RequestRefused(f"the form has no file in the field `{FILE}`", param=FILE)
        if not self._arrival.size:
            raise RequestRefused("the file is empty", param=FILE)
        return self.filename


def lifetime_of(fields: Mapping[str, bytes]) -> float | None:
    """Seconds that the file is kept, None for ever; checks every text field. Raises RequestRefused."""
    for unknown in sorted(fields.keys() - set(FIELDS)):
        raise RequestRefused(f"{unknown[:100]}: this field is not supported", param=unknown[:100])
    if "purpose" not in fields:
        raise RequestRefused("purpose: field required", param="purpose")
    if fields["purpose"] != PURPOSE.encode():
        raise RequestRefused(f"purpose: only {PURPOSE} is supported", param="purpose")
    anchor, seconds = (fields.get(each, b"") for each in FIELDS[1:])
    if not anchor and not seconds:
        return None
    if anchor != ANCHOR.encode():
        raise RequestRefused(f"expires_after[anchor]: must be {ANCHOR}", param="expires_after.anchor")
    if not (seconds.isdigit() and len(seconds) < 9 and SHORTEST_S <= int(seconds) <= LONGEST_S):
        raise RequestRefused(
            f"expires_after[seconds]: must be a number from {SHORTEST_S} to {LONGEST_S}",
            param="expires_after.seconds",
        )
    return float(seconds)


def _checked(filename: str) -> str:
    try:
        filename.encode()
    except UnicodeEncodeError:
        raise RequestRefused("the filename is not valid UTF-8 text", param=FILE) from None
    if len(filename) > MAX_NAME or not filename.isprintable():
        raise RequestRefused(
            f"the filename must be printable and of {MAX_NAME} characters at most", param=FILE
        )
    return filename
