"""From files to a generation on disk that fits the served base; and the same question asked again later."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from lorikeet_adapters.directory import Directory
from lorikeet_adapters.errors import AdapterIncompatible, AdapterRefused
from lorikeet_adapters.record import AdapterFacts, AdapterFilesOnDisk, Checker
from lorikeet_adapters.source import AdapterFiles
from lorikeet_adapters.spec import AdapterSpec, canonical_config, parse_spec, read_spec
from lorikeet_adapters.store import Incoming, Store
from lorikeet_adapters.stored import DAMAGED, StoredGeneration

log = logging.getLogger("lorikeet")
UNREADABLE = {"code": "unreadable", "message": "its files cannot be read", "fix": "register it again"}
NOT_WHOLE = {
    "code": DAMAGED,
    "message": "its files in the data folder are damaged",
    "fix": "register it again",
}


class Admission:
    """Judges against one base; `fingerprint` (`Origin.key`) says which, and is empty where that is not known."""

    def __init__(self, store: Store, check: Checker, fingerprint: str) -> None:
        self._store = store
        self._check = check
        self._fingerprint = fingerprint

    def admit(
        self,
        spec: AdapterSpec,
        files: AdapterFiles,
        arriving: Incoming,
        known: Mapping[str, StoredGeneration],
    ) -> StoredGeneration:
        """Copy the files in first and check the copy: what was checked is what will be served.

        A generation that is known to fit is not checked again. Raises AdapterRefused.
        """
        config = arriving.put(io.BytesIO(canonical_config(files.config)))
        weights = arriving.put(files.weights)
        generation = hashlib.sha256(f"{config}{weights}".encode()).hexdigest()
        found = known.get(generation)
        if found is not None and found.base == self._fingerprint and not found.findings:
            return found
        facts = self._check(spec, self._store.blobs.path(weights))
        return StoredGeneration(generation, config, weights, _plain(facts), self._fingerprint)

    def judge(self, files: AdapterFiles) -> AdapterFacts:
        """What admitting them would find, or AdapterRefused with every reason; nothing is kept."""
        spec, refused = read_spec(files.config)
        findings = list(refused)
        with self._store.intake.take(files.weights, self._store.max_blob_bytes) as weights:
            weights.seal()
            try:
                facts = self._check(spec, weights.path)
            except AdapterRefused as refusal:
                findings += refusal.findings
        if findings:
            raise AdapterRefused(findings)
        return replace(facts, warnings=(*facts.warnings, *files.warnings))

    def read(self, base_name: str) -> Directory:
        """What names mean by what lies on disk, every generation judged against this base."""
        catalogue = self._store.catalogue
        names = {each.name: each for each in catalogue.names()}
        aliases = {each.name: each for each in catalogue.aliases()}
        generations = catalogue.generations()
        if judged := self._recheck(generations):
            catalogue.amend(judged.values())
        return Directory(base_name, names, aliases, {**generations, **judged})

    def files(self, stored: StoredGeneration) -> AdapterFilesOnDisk:
        """Where they lie. Raises AdapterIncompatible for what is damaged: that is loaded by nobody."""
        if stored.is_damaged:
            raise AdapterIncompatible(f"generation {stored.generation[:12]}: {NOT_WHOLE['message']}")
        config = self._store.blobs.path(stored.config)
        weights = self._store.blobs.path(stored.weights)
        return AdapterFilesOnDisk(parse_spec(config.read_bytes()), weights, config)

    def _recheck(self, known: Mapping[str, StoredGeneration]) -> dict[str, StoredGeneration]:
        """Those that were checked against another base, with what this one makes of them.

        What is damaged is not judged: it might fit.
        """
        if not self._fingerprint:
            return {}
        stale = [each for each in known.values() if each.base != self._fingerprint and not each.is_damaged]
        if stale:
            log.info("another base than last time: checking %d adapter generations again", len(stale))
        return {each.generation: self.again(each) for each in stale}

    def arrived(self, stored: StoredGeneration) -> StoredGeneration:
        """As this base has what another replica judged; its files are here, and whole.

        Damage is a word about the disk it was found on.
        """
        if stored.is_damaged or (self._fingerprint and stored.base != self._fingerprint):
            return self.again(replace(stored, findings=()))
        return stored

    def again(self, stored: StoredGeneration) -> StoredGeneration:
        """The same generation, as this base has it."""
        try:
            found = self.files(stored)
            facts = _plain(self._check(found.spec, found.weights))
        except AdapterRefused as error:
            findings = tuple(asdict(each) for each in error.findings)
            return replace(stored, base=self._fingerprint, findings=findings)
        except OSError as error:
            log.warning("adapter generation %s cannot be read: %s", stored.generation[:12], error.strerror)
            return replace(stored, base="", findings=(UNREADABLE,))
        return replace(stored, base=self._fingerprint, facts=facts, findings=())


def damaged(stored: StoredGeneration) -> StoredGeneration:
    return replace(stored, findings=(NOT_WHOLE, *stored.findings))


def _plain(facts: AdapterFacts) -> dict[str, Any]:
    told = {"ranks": dict(facts.ranks), "bytes": facts.bytes, "warnings": list(facts.warnings)}
    return {**told, "dora": facts.dora, "chat": facts.chat}
