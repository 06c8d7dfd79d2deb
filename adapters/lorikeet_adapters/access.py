"""Who may use an adapter: everyone, or the tenants it is private to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lorikeet_adapters.errors import TenantRefused

TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MOST = 64
ALL = "*"


@dataclass(frozen=True, slots=True)
class Access:
    """`tenants` is None for everyone. Whoever asks without a tenant is the operator and may do all."""

    tenants: tuple[str, ...] | None = None

    @classmethod
    def of(cls, tenants: Iterable[str] | None) -> Access | None:
        """Check and sort; None stays None, and `*` alone is everyone. Raises TenantRefused."""
        if tenants is None:
            return None
        given = list(tenants)
        if given == [ALL]:
            return EVERYONE
        named = tuple(sorted({check_tenant(each) for each in given}))
        if not 0 < len(named) <= MOST:
            raise TenantRefused(f'tenants: name 1 to {MOST} tenants, or "*" alone for everyone')
        return cls(named)

    @classmethod
    def told(cls, details: Mapping[str, object]) -> Access:
        """As the catalogue holds it: a name without a word about it is an error, never everyone's."""
        tenants = details["tenants"]
        assert tenants is None or isinstance(tenants, list)
        return cls(None if tenants is None else tuple(tenants))

    def lets_use(self, tenant: str | None) -> bool:
        return tenant is None or self.tenants is None or tenant in self.tenants

    def lets_change(self, tenant: str | None) -> bool:
        """What several share only the operator changes."""
        return tenant is None or self.tenants == (tenant,)


EVERYONE = Access()


def check_tenant(name: str) -> str:
    """Return `name`, or raise TenantRefused."""
    if not TENANT.fullmatch(name):
        raise TenantRefused(
            f"{name[:64]!r} is no tenant: letters, digits and ._-, starting with a letter or digit, 64 at most"
        )
    return name


def common(parts: Iterable[Access]) -> Access | None:
    """Who may use all of these; None when nobody but the operator may."""
    private = [set(each.tenants) for each in parts if each.tenants is not None]
    if not private:
        return EVERYONE
    shared = set.intersection(*private)
    return Access(tuple(sorted(shared))) if shared else None
