"""API keys: 256 random bits shown once, and a TOML file that holds only their hashes.

[[keys]]
name = "ci"
hash = "<SHA-256 of the key, 64 hexadecimal digits>"
scopes = ["generate", "admin"]
tenant = "acme"                  # absent: the operator's own key
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import time
import tomllib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile

from lorikeet_adapters.access import check_tenant
from lorikeet_adapters.errors import RefusedError

log = logging.getLogger("lorikeet")
PREFIX = "lk-"  # by which secret scanners know one
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HASH = re.compile(r"[0-9a-f]{64}")
FIELDS = frozenset({"name", "hash", "scopes", "tenant"})
WRITABLE = stat.S_IWGRP | stat.S_IWOTH
LOOK_EVERY_S = 1.0


class Scope(StrEnum):
    """What a key is for; none includes another."""

    GENERATE = "generate"
    ADMIN = "admin"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Key:
    """`digest` is the SHA-256 of the key; `tenant` None is the operator."""

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    tenant: str | None = None


class Keyring:
    """The keys of a file, which is read again when it has changed; one that is broken leaves the old ones.

    Raises RefusedError when the file cannot be read at the start, or has no key.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._seen = _signature(path)
        self._looked = clock()
        self._keys = read_keys(path)
        if not self._keys:
            raise RefusedError(f"{path} has no keys; make one with `lorikeet keys new --file {path}`")

    def find(self, secret: str) -> Key | None:
        """Whose key this is. Every key is compared, whether or not one before it was the one."""
        self._look()
        digest = hash_of(secret)
        found: Key | None = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _look(self) -> None:
        """At most once a second: a look is a system call, and requests come faster."""
        now = self._clock()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        seen = _signature(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = read_keys(self._path)
        except RefusedError as error:
            log.error("the keys stay as they were: %s", error)
        else:
            log.info("%s has changed: %d keys", self._path, len(self._keys))


def hash_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def read_keys(path: Path) -> tuple[Key, ...]:
    """Raises RefusedError naming the file, the key and the field."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & WRITABLE:
                raise RefusedError(f"{path} can be written by others; run `chmod 600 {path}`")
            found = tomllib.load(file)
    except FileNotFoundError:
        raise RefusedError(f"{path} does not exist; make it with `lorikeet keys new --file {path}`") from None
    except OSError as error:
        raise RefusedError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # also text that is no UTF-8; a message of either quotes no line
        raise RefusedError(f"{path} is no TOML: {error}") from error
    try:
        return _parse(found)
    except RefusedError as error:
        raise RefusedError(f"{path}: {error}") from None


def add_key(path: Path, name: str | None, scopes: Sequence[str], tenant: str | None) -> str:
    """Make a key, write its hash into the file, which may not exist yet, and return it. Raises RefusedError."""
    secret = PREFIX + secrets.token_urlsafe(32)
    with _held(path):
        known = read_keys(path) if path.exists() else ()
        name = name or _free_name(tenant or "operator", {each.name for each in known})
        key = _key({"name": name, "hash": hash_of(secret).hex(), "scopes": list(scopes), "tenant": tenant})
        if any(each.name == name for each in known):
            raise RefusedError(f"{path} has a key `{name}` already; remove it first, or choose another name")
        _write(path, (*known, key))
    return secret


def remove_key(path: Path, name: str) -> None:
    """Raises RefusedError when there is none."""
    with _held(path):
        known = read_keys(path)
        left = tuple(each for each in known if each.name != name)
        if len(left) == len(known):
            raise RefusedError(f"{path} has no key `{name}`; `lorikeet keys list` names them")
        _write(path, left)


def _parse(document: dict[str, object]) -> tuple[Key, ...]:
    tables = document.get("keys", [])
    if document.keys() - {"keys"} or not isinstance(tables, list):
        unknown = sorted(document.keys() - {"keys"})
        raise RefusedError(f"{unknown[0] if unknown else 'keys'} is unknown; keys stand in [[keys]] tables")
    keys = []
    for number, table in enumerate(tables, 1):
        try:
            keys.append(_key(table))
        except RefusedError as error:
            raise RefusedError(f"key {number}: {error}") from None
    for field in ("name", "digest"):
        if len({getattr(each, field) for each in keys}) < len(keys):
            raise RefusedError(f"two keys have the same {field.replace('digest', 'hash')}")
    return tuple(keys)


def _key(table: object) -> Key:
    """No message quotes a value but a name's, a scope's or a tenant's: somebody may have pasted a key."""
    if not isinstance(table, dict):
        raise RefusedError("is no table")
    if unknown := sorted(table.keys() - FIELDS):
        raise RefusedError(f"{unknown[0]} is no field of a key; they are name, hash, scopes and tenant")
    tenant = table.get("tenant")
    if not isinstance(tenant, str | None):
        raise RefusedError("tenant must be a text")
    if tenant is not None:
        check_tenant(tenant)
    name, digest = table.get("name"), table.get("hash")
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise RefusedError("name must be 1 to 64 letters, digits and ._-, starting with a letter or digit")
    if not (isinstance(digest, str) and HASH.fullmatch(digest)):
        raise RefusedError("hash must be the SHA-256 of the key as 64 lower-case hexadecimal digits")
    return Key(name, bytes.fromhex(digest), _scopes(table.get("scopes")), tenant)


def _scopes(given: object) -> frozenset[Scope]:
    if not isinstance(given, list) or not given:
        raise RefusedError(f"scopes must be a list of one or more of {', '.join(Scope)}")
    if unknown := [each for each in given if each not in list(Scope)]:
        raise RefusedError(f"{str(unknown[0])[:32]!r} is no scope; they are {', '.join(Scope)}")
    return frozenset(Scope(each) for each in given)


def _free_name(stem: str, taken: Collection[str]) -> str:
    return next(name for number in count(1) if (name := f"{stem[:50]}-{number}") not in taken)


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Whole or not at all, and for the owner alone. JSON's strings and lists are TOML's, too."""
    with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as file:  # mode 0600
        try:
            for key in keys:
                file.write(f'[[keys]]\nname = "{key.name}"\nhash = "{key.digest.hex()}"\n')
                file.write(f"scopes = {json.dumps(sorted(key.scopes))}\n")
                file.write(f'tenant = "{key.tenant}"\n\n' if key.tenant else "\n")
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """One writer at a time: the folder is the lock, so that none is left behind."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RefusedError(f"{path.parent}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise RefusedError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        os.close(folder)


def _signature(path: Path) -> tuple[int, ...] | None:
    """What differs when a file has been written or replaced; None when it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)
