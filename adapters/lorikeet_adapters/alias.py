"""An alias sends requests to adapters in given shares; the same user always to the same one."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Sequence

from lorikeet_adapters.errors import AliasRefused
from lorikeet_adapters.stored import Target

MAX_TARGETS = 16
MAX_WEIGHT = 1e6


def check_shares(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Return the targets, or raise AliasRefused: 1 to 16, none twice, weights from 0 on, not all of them 0."""
    if not 0 < len(targets) <= MAX_TARGETS:
        raise AliasRefused(f"an alias has 1 to {MAX_TARGETS} targets, not {len(targets)}")
    if len({(each.name, each.generation) for each in targets}) < len(targets):
        raise AliasRefused("an alias names a target twice; give it one weight")
    if not all(math.isfinite(each.weight) and 0 <= each.weight <= MAX_WEIGHT for each in targets):
        raise AliasRefused(f"the weight of a target is a number from 0 to {MAX_WEIGHT:g}")
    if not any(each.weight for each in targets):
        raise AliasRefused("every target has weight 0; one at least must get requests")
    return tuple(targets)


def choose(targets: Sequence[Target], point: float) -> Target:
    """The target at `point` in [0, 1) of the shares, laid side by side in their order.

    So a share that grows at its neighbour's cost takes over a part of its users and moves nobody else.
    """
    weights = [each.weight for each in targets]
    left = point * math.fsum(weights)
    for target in targets:
        if left < target.weight:
            return target
        left -= target.weight
    return next(each for each in reversed(targets) if each.weight)  # rounding came out at the very end


def sticky(user: str | None) -> Callable[[str], float]:
    """Where a user falls in an alias's shares: always the same place, another one for each alias.

    Without a user every request falls somewhere else.
    """

    def point(alias: str) -> float:
        if user is None:
            return secrets.randbits(53) / 2**53
        digest = hashlib.sha256(f"{alias}\0{user}".encode("utf-8", "surrogatepass")).digest()
        return (int.from_bytes(digest[:8], "big") >> 11) / 2**53

    return point
