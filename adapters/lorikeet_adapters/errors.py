"""Everything this package raises on purpose.

    LorikeetError
    ├── RefusedError            the caller's input is at fault
    │   ├── AdapterRefused      files that are no servable adapter; carries findings
    │   ├── BaseModelRefused    a folder that is no servable base model
    │   ├── ComposeRefused      adapters that cannot be combined in this way
    │   ├── DoraRefused         adapters that are no part of a blend
    │   ├── MixRefused          a mix that cannot be read or is out of bounds
    │   ├── NameRefused         a name that breaks the naming rule
    │   ├── AliasRefused        targets that an alias cannot have
    │   ├── TenantRefused       tenants that cannot be
    │   └── BlobTooLarge        a file beyond what the data folder takes
    ├── AdapterNotFound         nothing is registered under this name
    ├── GenerationNotFound      the name has no such generation on disk
    ├── AdapterConflict         the name is taken by other bytes
    │   └── NameTaken           the name belongs to the base, an alias or an adapter
    ├── AccessRefused           seen by this tenant, but not its own to change
    ├── PinRefused              more pinned adapters than the device has rows for
    ├── AdapterChanged          the name means another generation than the caller expected
    ├── AdapterInUse            requests or aliases still need it
    ├── AdapterIncompatible     registered for another base, and does not fit this one
    │   └── ChatRefused         fits, but was trained on other prompts than this base's chat template makes
    └── StoreError              the data folder itself
        ├── StoreLocked         another process holds it
        └── RegistryAway        the owner of a shared registry does not answer

To add one: subclass the branch whose fault it is, write one sentence, and give it a row in
`lorikeet_server.errors.TABLE` (a test walks this tree and fails without it). Messages of
`RefusedError` and its kin are shown to clients: they name what, where and how to mend it, and
never a path of the server.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorikeet_adapters.finding import Finding, grouped

MAX_SHOWN = 50  # reasons in one message: a hostile file can have a hundred thousand


class LorikeetError(Exception):
    """Root of every error raised on purpose. `param` is the field of a request at fault, where that is known."""

    param: str | None = None


class RefusedError(LorikeetError):
    """The caller's input is at fault; the message is safe to show."""


class AdapterRefused(RefusedError):
    """The files are no adapter that can be applied exactly; `findings` gives every reason."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        groups = grouped(self.findings)
        sentences = [
            f"{finding.sentence}, and {more} more like it" if more else finding.sentence
            for finding, more in groups[:MAX_SHOWN]
        ]
        if len(groups) > MAX_SHOWN:
            sentences.append(f"and {len(groups) - MAX_SHOWN} more")
        super().__init__("; ".join(sentences))


class BaseModelRefused(RefusedError):
    """The folder or repository holds no causal language model that can be served."""


class ComposeRefused(RefusedError):
    """Adapters cannot be combined in this way into a new one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class DoraRefused(RefusedError):
    """An adapter trained with DoRA in a blend, or with another weight than 1."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"`{name}` was trained with DoRA and is served alone and with weight 1, "
            "because its effect is not linear; leave it out of the blend"
        )


class MixRefused(RefusedError):
    """A mix of adapters cannot be read, or its weights are out of bounds."""


class NameRefused(RefusedError):
    """A name breaks the naming rule."""


class AliasRefused(RefusedError):
    """An alias cannot have these targets."""


class TenantRefused(RefusedError):
    """A tenant's name, or a list of them, breaks the rule."""


class BlobTooLarge(RefusedError):
    """A file has more bytes than the data folder takes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"a file of the adapter is over {limit} bytes, the most that is taken")

    def __reduce__(self) -> tuple[type[BlobTooLarge], tuple[int]]:
        """The owner of a shared registry raises it in another process."""
        return BlobTooLarge, (self.limit,)


class AdapterNotFound(LorikeetError):
    """Nothing is registered under this name."""

    def __init__(self, name: str, message: str = "") -> None:
        self.name = name
        super().__init__(message or f"the model `{name}` does not exist; the list of models says what does")


class GenerationNotFound(LorikeetError):
    """The name has no such generation on disk, never had it, or had it too long ago."""

    def __init__(self, name: str, generation: str) -> None:
        super().__init__(
            f"`{name}` has no generation {generation[:64]!r} on disk; its history says which ones are kept"
        )


class AdapterConflict(LorikeetError):
    """The name is taken by an adapter with other bytes."""


class NameTaken(AdapterConflict):
    """Adapters, aliases and the base share one namespace, and the name is another's in it."""


class AccessRefused(LorikeetError):
    """The tenant may use it, or knows of it, but it is not the tenant's own."""


class PinRefused(LorikeetError):
    """The pinned adapters together would need more rank rows than there are."""


class AdapterChanged(LorikeetError):
    """The name means another generation than the caller expected, or nothing."""


class AdapterInUse(LorikeetError):
    """Running requests, an alias or another change still need the adapter."""


class AdapterIncompatible(LorikeetError):
    """The adapter was registered for another base and does not fit the one served now."""


class ChatRefused(AdapterIncompatible):
    """The adapter fits, but was trained on another base or template: in a chat it would see other prompts."""


class StoreError(LorikeetError):
    """The data folder cannot be used."""


class StoreLocked(StoreError):
    """Another process holds the data folder; `url` says where it listens, when it does."""

    def __init__(self, url: str | None) -> None:
        self.url = url
        where = f" by the server at {url}" if url else " by another process"
        super().__init__(f"the data folder is in use{where}; stop that one, or choose another --data-dir")


class RegistryAway(StoreError):
    """The owner of a shared registry cannot be reached, or not in time: nothing can be changed now.

    A call to an owner that raises it may have been carried out or not.
    """
