"""What the registry's owner raises, as a replica gets it through Ray."""

from __future__ import annotations

import pytest

from lorikeet_adapters.errors import BlobTooLarge, RegistryAway

pytest.importorskip("ray", reason="Ray is not installed: pip install 'lorikeet[ray]'")

from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

from lorikeet_server.cluster import registry
from lorikeet_server.cluster.registry import RayOwner


class Actor:
    class call:
        @staticmethod
        def remote(*_: object) -> None: ...


def owner(monkeypatch: pytest.MonkeyPatch, error: Exception) -> RayOwner:
    def get(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(registry.ray, "get", get)
    monkeypatch.setattr(registry.ray, "get_actor", lambda *_: Actor)
    return RayOwner()


@pytest.mark.safety("security 13")
def test_a_refusal_is_the_owners_own_without_rays_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    told = RayTaskError("put", "File /srv/secret.py, line 1", BlobTooLarge(5))
    with pytest.raises(BlobTooLarge) as found:
        owner(monkeypatch, told.as_instanceof_cause()).put("token", 0, b"x")
    assert str(found.value) == str(BlobTooLarge(5))
    assert "/srv" not in str(found.value)


@pytest.mark.parametrize("error", [ActorDiedError(), GetTimeoutError("late"), ValueError("no such actor")])
def test_one_that_cannot_be_reached_is_away(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    with pytest.raises(RegistryAway):
        owner(monkeypatch, error).size("0" * 64)
